"""Every status that the conformance statement lists for C-FIND, C-MOVE and C-GET is answered to us once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from exporter.pull import fetching, pace
from exporter.pull.outcome import RowState
from exporter.pull.request import PullEnded
from tests.exporter.commands.conformance import reading
from tests.exporter.pull.odd_peer import OddPeer
from tests.exporter.pull.running import Puller

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

    from tests.exporter.pull.conftest import Made

pytestmark = pytest.mark.slow
SECTIONS: Final = {"find": "7.3.2.7.1", "move": "7.3.2.7.2", "get": "7.3.2.7.3"}
ATTEMPTS: Final = 2


@dataclass
class EndingPeer(OddPeer):
    """A peer that ends every C-GET with one status."""

    status: int = 0

    def _get(self, event: Any) -> Iterator[Any]:
        if not self.status:
            yield from super()._get(event)
            return
        self.moved.append(event.identifier)
        yield 1
        yield self.status, None


def stated() -> list[tuple[str, int, str]]:
    """Operation, status and behavior of each row."""
    bodies = {one.number: one.body for one in reading.sections(reading.DOCUMENT.read_text())}
    found = []
    for operation, number in SECTIONS.items():
        for _, code, behavior in reading.tables(bodies[number])[0]:
            if code != "anything else":
                found.append((operation, int(code.partition("-")[0], 16), behavior))
    return found


def test_the_tables_list_every_status_of_their_services() -> None:
    for operation in SECTIONS:
        codes = {code for what, code, _ in stated() if what == operation}
        assert {0x0000, 0x0122, 0xA900, 0xC000, 0xFE00, 0xFF00} <= codes


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(fetching, "SHORT_SETTLE_S", 0.2)


@pytest.mark.parametrize(("operation", "code", "behavior"), stated(), ids=lambda one: one if one in SECTIONS else "")
def test_a_status_of_a_peer_has_the_consequence_that_is_stated(
    forty: Made, tmp_path: Path, operation: str, code: int, behavior: str
) -> None:
    study = forty.studies[0]
    options = {"parallel": 1, "attempts": ATTEMPTS, "times": {"settle_s": 0.3, "connect_s": 5}}
    puller = Puller(tmp_path, "ODD", 0, options | {"method": "get" if operation == "get" else "move"})
    peer = EndingPeer(study.files, puller.listener_port)
    puller.port = peer.port
    puller.write(["AccessionNumber", study.accession])

    def find(_event: Any, _peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        yield code, None

    def pending(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        for answer in peer.answers(event.identifier):
            yield code, answer

    def move(_event: Any, peer: OddPeer) -> Iterator[Any]:
        if code == 0xA801:
            yield None, None  # pynetdicom answers 0xA801
            return
        yield peer.receiver
        yield 1
        yield code, None

    is_pending = behavior.startswith("the next answer")
    if operation == "find":
        peer.find = pending if is_pending else find
    elif operation == "move" and not is_pending:
        peer.move = move
    elif operation == "get" and not is_pending:
        peer.status = code
        peer.sends = lambda _number, _wanted: []
    with peer:
        if behavior.startswith("the run ends"):
            with pytest.raises(PullEnded):
                puller.pull()
            return
        (outcome,) = puller.pull().outcomes
    requests = len(peer.asked) if operation == "find" else len(peer.moved)
    if is_pending:
        assert outcome.state is RowState.COMPLETE
    elif behavior.startswith("what came is counted"):
        assert outcome.state is (RowState.NOT_FOUND if operation == "find" else RowState.INCOMPLETE)
    elif behavior.startswith("asked again"):
        assert requests >= ATTEMPTS
        assert outcome.state in {RowState.REFUSED, RowState.INCOMPLETE}
    else:
        assert re.match("not asked again", behavior)
        assert requests == 1
        assert outcome.state in {RowState.REFUSED, RowState.INCOMPLETE}
