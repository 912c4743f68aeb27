"""The one suite that every source passes; a new source adds one line to `SOURCES`."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from listener.foundation.counters import Counters
from listener.foundation.errors import SourceUnusable
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.dicomweb.source import DicomwebSource
from listener.sources.dimse import DimseSource
from listener.sources.orthanc.source import OrthancSource
from listener.sources.watch.source import WatchSource
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.listener.requestor import Requestor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from listener.sources.contract import Source


def dimse(surroundings: Surroundings) -> DimseSource:
    return DimseSource(ListenerSettings.model_validate({"listener": {"port": 0}}), surroundings)


def dimse_on_pynetdicom(surroundings: Surroundings) -> DimseSource:
    settings = ListenerSettings.model_validate({"listener": {"port": 0, "engine": "pynetdicom", "processes": 1}})
    return DimseSource(settings, surroundings)


def watch(surroundings: Surroundings) -> WatchSource:
    data = surroundings.spool.root.parent
    folder = data.with_name(f"{data.name}-watched")
    folder.mkdir()
    settings = ListenerSettings.model_validate({"sources": [{"watch": str(folder)}]})
    return WatchSource(settings.sources[0], settings, surroundings)


def dicomweb(surroundings: Surroundings) -> DicomwebSource:
    token_file = surroundings.spool.root.parent / "token"
    token_file.write_text("0123456789abcdef")
    token_file.chmod(0o600)
    section = {"enabled": True, "token_file": str(token_file)}
    return DicomwebSource(ListenerSettings.model_validate({"dicomweb": section, "status": {"port": 0}}), surroundings)


def orthanc(surroundings: Surroundings) -> OrthancSource:
    """A server that is not there: it is waited for."""
    settings = ListenerSettings.model_validate({"orthanc": {"url": "http://127.0.0.1:9/"}})
    return OrthancSource(settings.orthanc[0], surroundings)


SOURCES: list[Callable[[Surroundings], Source]] = [dimse, dimse_on_pynetdicom, watch, dicomweb, orthanc]


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    settings = ListenerSettings()
    with Spool.open(tmp_path / "spool") as spool:
        yield Surroundings(spool, SpaceGuard(spool.root, settings.spool), Counters(), tmp_path / "sources")


@pytest.mark.parametrize("make", SOURCES)
def test_a_source_lives_from_start_to_stop_and_leaves_no_thread(
    make: Callable[[Surroundings], Source], surroundings: Surroundings
) -> None:
    threads = set(threading.enumerate())
    source = make(surroundings)
    assert source.start()
    assert source.is_alive()
    source.reload(ListenerSettings())
    assert source.is_alive()
    assert source.stop(5.0) == 0
    assert source.stop(5.0) == 0
    assert not source.is_alive()
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("make", SOURCES)
def test_a_source_that_was_never_started_can_be_stopped(
    make: Callable[[Surroundings], Source], surroundings: Surroundings
) -> None:
    assert make(surroundings).stop(1.0) == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"host": "203.0.113.77", "allow_any": True}, "listener.host"),
        ({"host": "no-such-host.invalid", "allow_any": True}, "listener.host"),
    ],
)
def test_an_address_that_is_not_ours_is_said_in_one_sentence(
    surroundings: Surroundings, settings: dict[str, object], word: str
) -> None:
    source = DimseSource(ListenerSettings.model_validate({"listener": settings}), surroundings)
    with pytest.raises(SourceUnusable, match=word):
        source.start()
    source.stop(0.0)


def test_a_port_in_use_is_said_in_one_sentence(surroundings: Surroundings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        source = DimseSource(ListenerSettings.model_validate({"listener": {"port": port}}), surroundings)
        with pytest.raises(SourceUnusable, match=f"port {port}"):
            source.start()
        source.stop(0.0)


def test_a_defect_of_ours_closes_its_association_and_no_other(
    surroundings: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = dimse(surroundings)
    source.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("listener.sources.dimse.acceptor.association.negotiate", None)
            with Requestor(source.port) as requestor:
                assert requestor.associate()[0] == 0
        with Requestor(source.port) as requestor:
            assert requestor.associate()[0] == 2
    finally:
        source.stop(5.0)
    assert surroundings.counters.get("associations_failed_inside") == 1
