"""The spool: what is committed stays, what is not committed is never seen."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import listener.spool.incoming
from listener.foundation.durable import FolderSync, write_all
from listener.spool.errors import SpoolBusy, SpoolUnusable, SpoolWriteFailed
from listener.spool.names import NAME
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from listener.spool.incoming import SpoolItem


@pytest.fixture(params=["at once", "in steps"])
def spool(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as opened:
        opened.commit_path.names_follow_files = request.param == "at once"
        yield opened


def put(spool: Spool, content: bytes = b"content") -> SpoolItem:
    incoming = spool.receive()
    incoming.write([content])
    return incoming.commit()


class Keep:
    keep_days = 3.0
    sync_folder = "always"


def test_folders_and_files_are_private(spool: Spool) -> None:
    item = put(spool)
    assert stat.S_IMODE(item.path.stat().st_mode) == 0o600
    for folder in ("", "tmp", "new", "active", "done", "quarantine"):
        assert stat.S_IMODE((spool.root / folder).stat().st_mode) == 0o700


def test_a_file_is_seen_only_after_commit(spool: Spool) -> None:
    incoming = spool.receive()
    incoming.write([b"half"])
    assert list(spool.pending()) == []
    incoming.write([b" and", memoryview(b" half")])
    item = incoming.commit()
    assert [found.name for found in spool.pending()] == [item.name]
    assert item.path.read_bytes() == b"half and half"
    assert item.size_bytes == 13
    assert NAME.fullmatch(item.name)


def test_a_discarded_file_leaves_nothing(spool: Spool) -> None:
    incoming = spool.receive()
    incoming.write([b"x"])
    incoming.discard()
    incoming.discard()
    assert spool.counts().receiving == 0


def test_items_come_in_order_of_arrival_even_when_the_clock_steps_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(spool)
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    names = [first.name, *(put(spool).name for _ in range(5))]
    assert [item.name for item in spool.pending()] == names
    assert [item.name for item in spool.pending(limit=2)] == names[:2]


def test_claim_release_finish_move_an_item_through_its_states(spool: Spool) -> None:
    item = put(spool)
    claimed = spool.claim(item)
    assert claimed is not None
    assert claimed.path.parent.name == "active"
    assert spool.claim(item) is None
    assert spool.release(claimed) is not None
    claimed = spool.claim(item)
    assert claimed is not None
    spool.finish(claimed)
    counts = spool.counts()
    assert (counts.new, counts.active, counts.done) == (0, 0, 0)


def test_finished_items_are_kept_where_the_configuration_says_so_and_purged_when_old(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool", settings=Keep()) as spool:
        claimed = spool.claim(put(spool))
        assert claimed is not None
        spool.finish(claimed)
        assert spool.counts().done == 1
        assert spool.purge(time.time() + 2 * 86_400) == 0
        assert spool.purge(time.time() + 4 * 86_400) == 1
        assert spool.counts().done == 0


def test_quarantine_keeps_the_bytes_and_the_reason_and_requeue_gives_them_back(spool: Spool) -> None:
    claimed = spool.claim(put(spool, b"bad"))
    assert claimed is not None
    kept = spool.quarantine(claimed, "corrupt_pixels", {"message": "frame 3 ends early"})
    assert kept.path.read_bytes() == b"bad"
    report = kept.path.with_name(kept.name + ".reason.json")
    assert json.loads(report.read_text()) == {"message": "frame 3 ends early"}
    assert spool.counts().quarantined_by_reason == {"corrupt_pixels": 1}
    assert [(reason, item.name) for reason, item in spool.quarantined()] == [("corrupt_pixels", kept.name)]
    assert spool.requeue("another_reason") == 0
    assert spool.requeue("corrupt_pixels") == 1
    assert not report.exists()
    assert [item.name for item in spool.pending()] == [kept.name]


def test_one_item_is_requeued_by_its_name(spool: Spool) -> None:
    kept = [spool.quarantine(put(spool), "timeout", {}) for _ in range(2)]
    assert spool.requeue(kept[1].name) == 1
    assert [item.name for item in spool.pending()] == [kept[1].name]


@pytest.mark.parametrize("reason", ["", "../new", "a/b", "Timeout", "a" * 65])
def test_a_reason_that_is_no_word_never_becomes_a_folder(spool: Spool, reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        spool.quarantine(put(spool), reason, {})
    assert spool.counts().new == 1


def test_a_refused_file_goes_from_receiving_to_quarantine_and_never_through_new(spool: Spool) -> None:
    incoming = spool.receive()
    incoming.write([b"torn"])
    kept = spool.refuse(incoming, "unreadable", {"cause": "cut off"})
    assert kept.path.read_bytes() == b"torn"
    counts = spool.counts()
    assert (counts.receiving, counts.new, counts.quarantined) == (0, 0, 1)


def test_refused_bytes_are_kept_once_also_after_a_restart_and_again_once_they_are_gone(spool: Spool) -> None:
    def refuse(by: Spool, content: bytes) -> SpoolItem:
        incoming = by.receive()
        incoming.write([content])
        return by.refuse(incoming, "unreadable", {})

    first = refuse(spool, b"torn")
    assert refuse(spool, b"torn").name == first.name
    assert refuse(spool, b"other").name != first.name
    with Spool.open(spool.root) as again:
        assert refuse(again, b"torn").name == first.name
    assert spool.counts().quarantined == 2
    assert spool.requeue(first.name) == 1
    assert refuse(spool, b"torn").name != first.name
    assert spool.counts().quarantined == 2


def test_after_a_crash_partial_files_go_and_claimed_items_come_back(spool: Spool) -> None:
    spool.receive().write([b"partial"])
    claimed = spool.claim(put(spool))
    assert claimed is not None
    assert spool.recover_listener() == 1
    assert spool.recover_exporter() == 1
    counts = spool.counts()
    assert (counts.receiving, counts.new, counts.active) == (0, 1, 0)


def test_foreign_names_and_links_in_the_spool_are_ignored(spool: Spool, tmp_path: Path) -> None:
    (spool.root / "new" / "README").write_text("not ours")
    (spool.root / "new" / "00000000000000000001-0123456789abcdef.dcm").symlink_to(tmp_path)
    (spool.root / "new" / "00000000000000000002-0123456789abcdef.dcm").mkdir()
    assert list(spool.pending()) == []


@pytest.mark.parametrize("call", ["writing out", "renaming", "syncing"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_step_that_fails_is_never_a_success_and_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    incoming = spool.receive()
    incoming.write([b"x"])
    fds = len(list(Path("/proc/self/fd").iterdir()))
    match call:
        case "writing out":
            monkeypatch.setattr(os, "fdatasync", broken)
            monkeypatch.setattr("listener.spool.incoming.write_out", broken)
        case "renaming":
            monkeypatch.setattr(os, "rename", broken)
        case _:
            monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SpoolWriteFailed) as caught:
        incoming.commit()
    assert caught.value.is_full is (number == errno.ENOSPC)
    counts = spool.counts()
    assert (counts.receiving, counts.new) == (0, 0)
    assert len(list(Path("/proc/self/fd").iterdir())) == fds - 1


def test_a_small_item_is_written_out_before_it_has_its_name_and_synced_after(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            what = "folder" if arguments[0] == spool.new.fd else "file"
            calls.append(name if name == "rename" else f"{name} {what}")
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, call)

    noted(listener.spool.incoming, "write_out")
    for name in ("fdatasync", "rename", "fsync"):
        noted(os, name)
    put(spool)
    if spool.commit_path.names_follow_files:
        assert calls == ["write_out file", "rename", "fsync file"]
    else:
        assert calls == ["fdatasync file", "rename", "fsync folder"]
    calls.clear()
    put(spool, bytes(listener.spool.incoming.SMALL_BYTES + 1))
    assert calls == ["fdatasync file", "rename", "fsync folder"]


def test_where_writing_out_is_not_permitted_items_are_committed_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("listener.foundation.durable.SYNC_FILE_RANGE", None)
    with Spool.open(tmp_path / "spool") as spool:
        assert not spool.commit_path.names_follow_files
        put(spool)


def test_the_administrator_may_want_every_folder_synced(tmp_path: Path) -> None:
    with Spool.open(tmp_path / "spool", settings=Keep()) as spool:
        assert not spool.commit_path.names_follow_files


def test_a_full_disk_does_not_stop_a_daemon_from_starting(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with spool.lock("listener"), pytest.raises(SpoolBusy), spool.lock("listener"):
        pass


def test_an_empty_file_that_a_power_cut_left_is_no_item(spool: Spool) -> None:
    kept = put(spool)
    (spool.root / "new" / "00000000000000000001-0123456789abcdef.dcm").touch()
    assert [item.name for item in spool.pending()] == [kept.name]
    assert spool.recover_listener() == 1
    assert spool.counts().new == 1


def test_everybody_whom_a_failed_group_fsync_should_have_served_learns_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    started, go_on = threading.Event(), threading.Event()
    calls: list[int] = []
    outcomes: list[str] = []

    def fsync(_: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            started.set()
            assert go_on.wait(100)
        elif len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")

    def commit() -> None:
        try:
            group.commit()
            outcomes.append("durable")
        except OSError:
            outcomes.append("failed")

    monkeypatch.setattr(os, "fsync", fsync)
    group = FolderSync(fd)
    first = threading.Thread(target=commit)
    first.start()
    assert started.wait(100)
    others = [threading.Thread(target=commit) for _ in range(5)]
    for thread in others:
        thread.start()
    deadline = time.monotonic() + 100
    while len(group._turn._waiters) < 5 and time.monotonic() < deadline:  # type: ignore[attr-defined] # CPython's own
        time.sleep(0.001)
    go_on.set()
    for thread in [first, *others]:
        thread.join(100)
    os.close(fd)
    assert sorted(outcomes) == ["durable"] + ["failed"] * 5
    assert len(calls) == 2


def test_short_writes_lose_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.writev

    def stingy(fd: int, buffers: list[bytes]) -> int:
        joined = b"".join(bytes(b) for b in buffers)
        return real(fd, [joined[:7]])

    monkeypatch.setattr(os, "writev", stingy)
    target = tmp_path / "file"
    fd = os.open(target, os.O_WRONLY | os.O_CREAT)
    buffers = [bytes([n]) * n for n in range(1, 30)]
    assert write_all(fd, buffers) == sum(range(30))
    os.close(fd)
    assert target.read_bytes() == b"".join(buffers)


def test_more_buffers_than_one_system_call_takes(spool: Spool) -> None:
    incoming = spool.receive()
    incoming.write([b"ab"] * 3000)
    assert incoming.commit().path.read_bytes() == b"ab" * 3000


def test_many_threads_commit_each_its_own_item(spool: Spool) -> None:
    def work(number: int) -> None:
        for _ in range(20):
            put(spool, bytes([number]) * 1000)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    items = list(spool.pending())
    assert len(items) == len({item.name for item in items}) == 160
    assert all(len(set(item.path.read_bytes())) == 1 for item in items)


def _hold(root: Path, held: object, leave: object) -> None:
    with Spool.open(root).lock("listener"):
        held.set()  # type: ignore[attr-defined] # a multiprocessing event
        leave.wait(100)  # type: ignore[attr-defined] # a multiprocessing event


def test_a_second_daemon_of_the_same_role_is_refused_and_told_why(spool: Spool) -> None:
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(spool.root, held, leave))
    other.start()
    assert held.wait(100)
    with pytest.raises(SpoolBusy, match=f"process {other.pid}"), spool.lock("listener"):
        pass
    with spool.lock("exporter"):
        pass
    leave.set()
    other.join(100)
    with spool.lock("listener"):
        pass


def test_a_file_in_the_way_is_named_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("")
    with pytest.raises(SpoolUnusable, match="a file is in the way"):
        Spool.open(tmp_path / "spool")


def test_a_symbolic_link_instead_of_a_spool_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "spool" / "new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolUnusable):
        Spool.open(tmp_path / "spool")


def test_the_probe_leaves_nothing(spool: Spool) -> None:
    spool.probe()
    assert spool.counts().receiving == 0
