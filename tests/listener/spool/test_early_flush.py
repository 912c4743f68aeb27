"""Early flushes: large files are flushed while they arrive, nobody waits for it, and no error of it is lost."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from listener.spool.early_flush import EarlyFlush, Flusher
from listener.spool.errors import SpoolWriteFailed
from listener.spool.incoming import FLUSH_BYTES
from listener.spool.spool import Spool
from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP = bytes(FLUSH_BYTES)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as opened:
        yield opened


class Disk:
    """What is flushed, by which thread; flushes of others than this thread can be held back, and fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.early: list[int] = []
        """Bytes of the file at the beginning of each flush beside the reception."""
        self.commits = 0
        self.error: OSError | None = None
        self.failed = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._receiver = threading.get_ident()
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self.fdatasync)

    def fdatasync(self, fd: int) -> None:
        if threading.get_ident() == self._receiver:
            self.commits += 1
            self._real(fd)
            return
        self.early.append(os.fstat(fd).st_size)
        assert self.goes_on.wait(30)
        if self.error is not None:
            self.failed = True
            raise self.error
        self._real(fd)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def is_running() -> bool:
    return any(thread.name == "early-flush" for thread in threading.enumerate())


def test_a_large_item_is_flushed_while_it_arrives_and_once_more_at_its_end(spool: Spool, disk: Disk) -> None:
    incoming = spool.receive()
    incoming.write([STEP])
    eventually(lambda: len(disk.early) == 1, "a flush begins", 100)
    incoming.write([STEP])
    eventually(lambda: len(disk.early) > 1, "another begins", 100)
    assert disk.early == [FLUSH_BYTES, 2 * FLUSH_BYTES]
    assert disk.commits == 0
    item = incoming.commit()
    assert disk.commits == 1
    assert item.path.stat().st_size == 2 * FLUSH_BYTES


def test_a_receiver_of_smaller_items_has_no_thread_for_it(spool: Spool, disk: Disk) -> None:
    incoming = spool.receive()
    incoming.write([STEP[1:]])
    incoming.commit()
    assert not is_running()
    assert (disk.early, disk.commits) == ([], 1)


def test_a_slow_disk_keeps_nobody_waiting_and_is_asked_once_more_not_for_every_step(spool: Spool, disk: Disk) -> None:
    disk.goes_on.clear()
    incoming, other = spool.receive(), spool.receive()
    for _ in range(5):
        incoming.write([STEP])
        # The first flush is under way while all the others are asked for.
        eventually(lambda: bool(disk.early), "a flush begins", 100)
    other.write([STEP])
    disk.goes_on.set()
    eventually(lambda: len(disk.early) > 2, "all begin", 100)
    incoming.commit()
    other.commit()
    assert disk.early == [FLUSH_BYTES, 5 * FLUSH_BYTES, FLUSH_BYTES]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_a_flush_has_lost_is_never_a_success_though_later_syncs_succeed(
    spool: Spool, disk: Disk, number: int
) -> None:
    disk.error = OSError(number, os.strerror(number))
    incoming = spool.receive()
    incoming.write([STEP])
    eventually(lambda: disk.failed, "a flush fails", 100)
    disk.error = None
    with pytest.raises(SpoolWriteFailed) as caught:
        incoming.commit()
    assert caught.value.is_full is (number == errno.ENOSPC)
    assert (spool.counts().receiving, spool.counts().new) == (0, 0)
    whole = spool.receive()
    whole.write([STEP])
    whole.commit()


def test_a_commit_waits_for_what_a_flush_under_way_meets(spool: Spool, disk: Disk) -> None:
    disk.error = OSError(errno.EIO, "Input/output error")
    disk.goes_on.clear()
    incoming = spool.receive()
    incoming.write([STEP])
    eventually(lambda: bool(disk.early), "a flush begins", 100)
    threading.Timer(0.2, disk.goes_on.set).start()
    with pytest.raises(SpoolWriteFailed):
        incoming.commit()


def test_without_a_thread_items_are_received_all_the_same(
    spool: Spool, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    incoming = spool.receive()
    incoming.write([STEP])
    incoming.write([STEP])
    assert incoming.commit().path.stat().st_size == 2 * FLUSH_BYTES
    assert disk.early == []


def test_what_a_flush_has_lost_is_not_kept_as_refused_either(spool: Spool, disk: Disk) -> None:
    disk.error = OSError(errno.EIO, "Input/output error")
    incoming = spool.receive()
    incoming.write([STEP])
    eventually(lambda: disk.failed, "a flush fails", 100)
    with pytest.raises(SpoolWriteFailed):
        spool.refuse(incoming, "not_dicom", {})
    assert (spool.counts().receiving, spool.counts().quarantined) == (0, 0)


def test_an_item_that_is_given_up_meanwhile_leaves_nothing_behind(spool: Spool, disk: Disk) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    disk.goes_on.clear()
    given_up, waiting = spool.receive(), spool.receive()
    given_up.write([STEP])
    waiting.write([STEP])
    eventually(lambda: bool(disk.early), "a flush begins", 100)
    given_up.discard()
    waiting.discard()
    disk.goes_on.set()
    spool.commit_path.flusher.close()
    assert len(disk.early) == 1, "a file that was given up was flushed"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(spool.tmp.path.iterdir()) == []


def test_closing_waits_for_the_flush_under_way_and_ends_the_thread(tmp_path: Path, disk: Disk) -> None:
    with Spool.open(tmp_path / "spool") as spool:
        incoming = spool.receive()
        incoming.write([STEP])
        eventually(lambda: bool(disk.early), "a flush begins", 100)
        assert is_running()
        incoming.commit()
    assert not is_running()


def test_none_begins_once_the_commit_has_asked_for_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch()
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    file = EarlyFlush(path)
    file.run()
    file.check()
    file.run()
    assert len(flushed) == 1


def test_many_threads_start_one_thread(tmp_path: Path) -> None:
    flusher = Flusher()
    path = tmp_path / "file"
    path.touch()
    threads = [threading.Thread(target=flusher.request_flush, args=(EarlyFlush(path),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [thread.name for thread in threading.enumerate()].count("early-flush") == 1
    flusher.close()
    assert not is_running()
