"""Our own side's troubles, and what a newer Orthanc has: a full disk, a full spool, reloads, labels."""

from __future__ import annotations

import contextlib
import hashlib
import json
import resource
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from listener.settings.listener import ListenerSettings
from listener.sources.orthanc.memory import InstanceState, SyncState
from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.listener.sources.orthanc.conftest import Polling
    from tests.listener.sources.orthanc.fake_orthanc import FakeOrthanc, Handler


def file(number: int, size: int = 1000) -> bytes:
    return f"instance {number} ".encode().ljust(size, b"x")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def files_end_at(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond: the kernel refuses, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_spool_does_not_take_is_taken_once_it_does(poll: Callable[..., Polling], fake: FakeOrthanc) -> None:
    polling = poll(fake.url, attempts=1)
    polling.start()
    polling.wait_for("reconciliations")
    fake.add(file(1, 1_000_000))
    with files_end_at(500_000):
        polling.wait_for("spool_refused", 3)
        assert polling.taken() == {}
    polling.wait_for("taken")
    assert polling.count("failed") == 0
    assert polling.taken() == {md5(file(1, 1_000_000)): 1}
    assert list((polling.spool.root / "tmp").iterdir()) == []


def test_what_cannot_be_remembered_stops_the_poller_until_it_can_and_is_taken_once(
    poll: Callable[..., Polling], fake: FakeOrthanc
) -> None:
    polling = poll(fake.url)
    polling.start()
    polling.wait_for("reconciliations", 3)
    path = polling.folder / "sources" / "orthanc-tested.db"
    with files_end_at(path.with_name(path.name + "-wal").stat().st_size):
        fake.add(file(1))
        polling.wait_for("memory_failed", 2)
        fake.add(file(2))
        time.sleep(0.3)  # nothing more may happen in this time
        assert polling.taken() == {md5(file(1)): 1}
        assert polling.source is not None
        assert polling.source.is_alive()
    polling.wait_for("taken", 2)
    polling.stop()
    memory = SyncState.open(path)
    assert memory.position().seq == 2
    memory.close()
    polling.start()
    polling.wait_for_passes(2)
    assert polling.count("known_already") == 0
    assert polling.taken() == {md5(file(1)): 1, md5(file(2)): 1}


def test_what_was_spooled_and_not_remembered_is_taken_again_and_never_lost(
    poll: Callable[..., Polling], fake: FakeOrthanc
) -> None:
    """A crash between the two: the state is that of before."""
    polling = poll(fake.url)
    fake.add(file(1))
    polling.start()
    polling.wait_for("taken")
    polling.stop()
    for path in (polling.folder / "sources").iterdir():
        path.unlink()
    polling.start()
    polling.wait_for("taken", 2)
    assert polling.taken() == {md5(file(1)): 2}


def test_no_room_in_the_spool_lets_downloads_wait_and_a_stop_does_not(
    poll: Callable[..., Polling], fake: FakeOrthanc
) -> None:
    polling = poll(fake.url)
    polling.space.queue_full = True
    fake.add(file(1))
    polling.start()
    eventually(lambda: fake.asked("^/changes") > 3, "polled")
    assert fake.asked("/file$") == 0
    began = time.monotonic()
    assert polling.stop() == 0
    assert time.monotonic() - began < 2
    polling.space.queue_full = False
    polling.start()
    polling.wait_for("taken")


def test_labels_are_asked_for_again_and_what_gets_one_is_taken(poll: Callable[..., Polling], fake: FakeOrthanc) -> None:
    fake.add(file(1), series="one")
    second = fake.add(file(2), series="two")
    third = fake.add(file(3), series="three")
    fake.series[fake.instances[third].series]["Labels"] = ["other", "research"]
    polling = poll(fake.url, only={"labels": ["research"]})
    polling.start()
    polling.wait_for("left_out", 2)
    polling.wait_for("taken")
    assert polling.taken() == {md5(file(3)): 1}
    polling.stop()  # what was asked about the study is forgotten with it
    fake.studies[fake.series[fake.instances[second].series]["ParentStudy"]]["Labels"] = ["research"]
    polling.start()
    polling.wait_for("taken", 2)
    assert polling.taken() == {md5(file(2)): 1, md5(file(3)): 1}


def test_a_reload_takes_over_filters_and_looks_at_everything_again(
    poll: Callable[..., Polling], fake: FakeOrthanc
) -> None:
    fake.add(file(1), series="one", modality="CT")
    fake.add(file(2), series="two", modality="US")
    polling = poll(fake.url, reconcile_s=3600, only={"modalities": ["US"]})
    source = polling.start()
    polling.wait_for("taken")
    polling.wait_for("left_out")
    polling.wait_for("reconciliations")
    section = polling.settings.orthanc[0].model_dump(mode="json") | {"only": {}}
    source.reload(ListenerSettings.model_validate({"orthanc": section}))
    polling.wait_for("taken", 2)
    assert source.is_alive()


@pytest.mark.parametrize("is_secure", [True, False])
def test_a_server_that_says_it_is_not_secure_is_warned_of(
    poll: Callable[..., Polling], fake: FakeOrthanc, is_secure: bool
) -> None:
    fake.is_secure = is_secure
    polling = poll(fake.url)
    with capture_logs() as logged:
        polling.start()
        polling.wait_for("reconciliations")
        polling.stop()
    assert ("asks nobody for credentials" in str(logged)) is not is_secure


def test_a_large_file_is_never_in_memory_as_a_whole(poll: Callable[..., Polling], fake: FakeOrthanc) -> None:
    size, piece = 200 << 20, bytes(1 << 20)
    name = fake.add(b"stands for something large")
    described = {"ID": name, "FileSize": size, "FileUuid": fake.instances[name].uuid}
    described["ParentSeries"] = fake.instances[name].series
    fake.lies[f"^/instances/{name}$"] = lambda handler: handler.answer(json.dumps(described).encode())
    whole = hashlib.md5(usedforsecurity=False)
    for _ in range(size // len(piece)):
        whole.update(piece)
    fake.instances[name].md5 = whole.hexdigest()

    def large(handler: Handler) -> None:
        handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            handler.raw(piece)

    fake.lies["/file$"] = large
    polling = poll(fake.url)
    polling.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    polling.wait_for("taken", within_s=100)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
    (spooled,) = (polling.spool.root / "new").iterdir()
    assert spooled.stat().st_size == size


def test_two_servers_are_two_sources_that_remember_apart(poll: Callable[..., Polling], fake: FakeOrthanc) -> None:
    fake.add(file(1))
    one, two = poll(fake.url, name="one"), poll(fake.url, name="two")
    two.folder = one.folder  # the same data folder, two names
    one.start()
    two.start()
    one.wait_for("taken")
    two.wait_for("taken")
    names = {path.name for path in (one.folder / "sources").glob("*.db")}
    assert names == {"orthanc-one.db", "orthanc-two.db"}


def test_what_is_remembered_holds_states_and_nothing_of_a_data_set(
    poll: Callable[..., Polling], fake: FakeOrthanc
) -> None:
    name = fake.add(file(1))
    fake.series[fake.instances[name].series]["MainDicomTags"]["PatientName"] = "Doe^John"
    polling = poll(fake.url)
    polling.start()
    polling.wait_for("taken")
    polling.stop()
    path = polling.folder / "sources" / "orthanc-tested.db"
    assert path.stat().st_mode & 0o077 == 0
    assert b"Doe" not in b"".join(one.read_bytes() for one in path.parent.iterdir())
    memory = SyncState.open(path)
    (noted,) = memory.known([bytes.fromhex(name.replace("-", ""))]).values()
    assert (noted.state, noted.seq, noted.md5) == (InstanceState.TAKEN, 1, bytes.fromhex(md5(file(1))))
    memory.close()
