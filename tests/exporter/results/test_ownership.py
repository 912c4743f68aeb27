"""A media folder has one exporter, whatever ledgers, hosts and file systems there are; a dead one keeps nobody out."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydicom.data import get_testdata_file

import exporter
from exporter.errors import OutOfSpace
from exporter.results import intents, ownership
from exporter.results.ledger import Ledger
from exporter.results.ownership import MediaFolderOwner, MediaFolderTaken, owned
from exporter.settings.settings import Settings
from tests.exporter.ledger_rows import begin

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
CT = Path(str(get_testdata_file("CT_small.dcm")))
HOLD = """
import sys, time
from pathlib import Path
from exporter.results.ledger import Ledger
from exporter.results.ownership import owned
media, ledger = map(Path, sys.argv[1:])
with Ledger.open(ledger) as open_ledger, owned(media, open_ledger, has_locks=False):
    print("mine", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def media(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    return folder


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "exporter.db") as opened:
        yield opened


@pytest.fixture
def holder(media: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An exporter with another ledger that has the folder."""
    command = [sys.executable, "-c", HOLD, str(media), str(tmp_path / "other.db")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mine\n"
        yield process
        process.kill()


def file_of(media: Path) -> Path:
    return media / ".partial" / "owner"


def leave(media: Path, owner: MediaFolderOwner, *, age_s: float = 0.0) -> None:
    """Leave an owner file behind whose last beat was so long ago."""
    file_of(media).parent.mkdir(exist_ok=True)
    ownership._make(file_of(media), owner)
    then = time.time() - age_s
    os.utime(file_of(media), (then, then), follow_symlinks=False)


@pytest.fixture
def other_host(media: Path, ledger: Ledger) -> MediaFolderOwner:
    return replace(
        MediaFolderOwner.here(media, ledger), host="elsewhere", machine="m", boot="b", ledger="f" * 16, token="t"
    )


def test_a_second_exporter_is_refused_where_the_file_system_has_no_locks(
    media: Path, ledger: Ledger, holder: subprocess.Popen[bytes]
) -> None:
    for take_over in (False, True):  # that it lives is certain: no word of a person helps
        with (
            pytest.raises(MediaFolderTaken, match=f"process {holder.pid} on "),
            owned(media, ledger, has_locks=False, take_over=take_over),
        ):
            pass


def test_one_that_was_killed_is_followed_at_once(media: Path, ledger: Ledger, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()
    assert holder.wait(100) == -signal.SIGKILL
    with owned(media, ledger, has_locks=False) as mine:
        assert mine.former is not None
        assert mine.former.pid == holder.pid
    assert not os.path.lexists(file_of(media)), "it is given back at the end"


def test_one_whose_process_number_another_process_has_now_is_dead(media: Path, ledger: Ledger) -> None:
    leave(media, replace(MediaFolderOwner.here(media, ledger), started=1))
    with owned(media, ledger, has_locks=False):
        pass


def test_one_of_this_host_before_it_was_started_again_is_dead(media: Path, ledger: Ledger) -> None:
    before = replace(MediaFolderOwner.here(media, ledger), boot="before")
    leave(media, before, age_s=time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    with owned(media, ledger, has_locks=False):
        pass
    leave(media, before)  # a clone of this host, then: its beat is of now
    with pytest.raises(MediaFolderTaken), owned(media, ledger, has_locks=True):
        pass


def test_one_of_another_host_keeps_the_folder_until_its_beat_is_stale_or_somebody_says_that_it_is_dead(
    media: Path, ledger: Ledger, other_host: MediaFolderOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "WATCH_S", 0.2)
    leave(media, other_host, age_s=60)
    with (
        pytest.raises(MediaFolderTaken, match=r"last sign of life 60 s ago.*--take-over"),
        owned(media, ledger, has_locks=True),
    ):
        pass
    with owned(media, ledger, has_locks=True, take_over=True) as mine:
        assert mine.former == other_host
    leave(media, other_host, age_s=ownership.STALE_S + 5)
    with owned(media, ledger, has_locks=True) as mine:
        assert mine.former == other_host


def test_one_that_beats_again_while_it_is_watched_keeps_the_folder(
    media: Path, ledger: Ledger, other_host: MediaFolderOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "WATCH_S", 30.0)
    leave(media, other_host, age_s=ownership.STALE_S + 5)
    beat = threading.Timer(0.5, ownership._replace, (media, other_host))
    beat.start()
    with pytest.raises(MediaFolderTaken), owned(media, ledger, has_locks=True):
        pass
    beat.join()


def test_an_owner_file_that_cannot_be_understood_is_somebodys(media: Path, ledger: Ledger) -> None:
    file_of(media).parent.mkdir()
    file_of(media).write_text("{}")
    with pytest.raises(MediaFolderTaken, match="unknown host"), owned(media, ledger, has_locks=True):
        pass


def test_the_beat_goes_on_and_notices_who_has_taken_over(
    media: Path, ledger: Ledger, other_host: MediaFolderOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.05)
    with owned(media, ledger, has_locks=True) as mine:
        first = file_of(media).lstat().st_ino, file_of(media).lstat().st_mtime_ns
        until(lambda: (file_of(media).lstat().st_ino, file_of(media).lstat().st_mtime_ns) != first)
        mine.check()
        mine.confirm()
        ownership._replace(media, other_host)
        until(lambda: mine._lost is not None)
        with pytest.raises(MediaFolderTaken, match="elsewhere has taken it over"):
            mine.check()
    assert ownership._read(media) == other_host, "it is the other's to remove"


def test_a_beat_that_has_stood_still_is_made_up_for_before_anything_is_published(
    media: Path, ledger: Ledger, other_host: MediaFolderOwner
) -> None:
    with owned(media, ledger, has_locks=True) as mine:
        ownership._replace(media, other_host)
        mine._beaten_at -= ownership.STALE_S  # this process was stopped for so long
        with pytest.raises(MediaFolderTaken):
            mine.confirm()


def test_a_full_disk_keeps_nobody_from_owning_what_is_locked_and_the_beat_takes_no_space(
    small_disk: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.05)
    folder = small_disk / "media"
    (folder / ".partial").mkdir(parents=True)
    ballast = small_disk / "ballast"
    fill(ballast)
    with pytest.raises(OutOfSpace), owned(folder, ledger, has_locks=False):
        pass
    with owned(folder, ledger, has_locks=True) as mine:
        assert not os.path.lexists(file_of(folder))
        empty(ballast)
        until(lambda: os.path.lexists(file_of(folder)))
        fill(ballast)
        then = file_of(folder).lstat().st_mtime_ns
        until(lambda: file_of(folder).lstat().st_mtime_ns > then)
        mine.confirm()


def empty(ballast: Path) -> None:
    for path in (ballast, *ballast.parent.glob("[0-9]*")):
        path.unlink()


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    for number in range(100_000):  # the inodes, too: small links take no block
        try:
            ballast.with_name(f"{number}").symlink_to("x" * 200)
        except OSError:
            return


def test_an_owner_file_that_is_gone_is_made_anew(media: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "BEAT_S", 0.05)
    monkeypatch.setattr(ownership, "GRACE_S", 0.5)
    with owned(media, ledger, has_locks=True) as mine:
        (media / ".partial").rename(media.parent / "away")
        until(lambda: os.path.lexists(file_of(media)))
        mine.confirm()


def test_without_links_the_owner_file_is_a_file(media: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with owned(media, ledger, has_locks=False) as mine:
        assert file_of(media).is_file()
        assert ownership._read(media) == mine.owner
        with pytest.raises(MediaFolderTaken), owned(media, ledger, has_locks=False):
            pass


def test_whoever_lists_the_media_folder_does_not_stumble_over_the_owner_file(media: Path, ledger: Ledger) -> None:
    with owned(media, ledger, has_locks=True):
        assert [path for path in media.rglob("*") if path.is_file()] == []


def test_what_another_ledgers_exporter_has_left_is_not_touched(media: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(Ledger.open(tmp_path / name)) for name in ("ours.db", "theirs.db"))
        for one in (ours, theirs):
            begin(one, "a.dcm", size_bytes=1, mtime_ns=1, source="folder")
            folder = media / ".partial" / f"{one.mark}-7-1"
            folder.mkdir(parents=True)
            (folder / "0.part").write_bytes(b"half")
            intents.record(folder, intents.Intent("a.dcm", (f"{one.mark}.png",)))
            (media / f"{one.mark}.png").write_bytes(b"renamed")
        assert intents.recover(media, ours) == 1
        assert {path.name for path in media.glob("*.png")} == {f"{theirs.mark}.png"}
        left = {path.name for path in (media / ".partial").iterdir()}
        assert left == {f"{theirs.mark}-7-1", f"{theirs.mark}-7-notes"}
        assert intents.recover(media, theirs) == 1
        assert list((media / ".partial").iterdir()) == []


def test_the_partial_files_of_an_earlier_version_are_left_where_another_ledger_had_the_folder(
    media: Path, tmp_path: Path
) -> None:
    (media / ".partial" / "7-1").mkdir(parents=True)
    with Ledger.open(tmp_path / "ours.db") as ours:
        intents.recover(media, ours, "f" * 16)
        assert (media / ".partial" / "7-1").is_dir()
        intents.recover(media, ours)
        assert not (media / ".partial" / "7-1").exists()


def test_two_ledgers_on_one_media_folder_without_locks_do_not_harm_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holder: subprocess.Popen[bytes]
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path / "media":
            raise OSError(errno.ENOLCK, "No locks available")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    theirs = tmp_path / "media" / ".partial" / "7-1"
    theirs.mkdir()
    settings = Settings.model_validate({"media": {"dir": str(tmp_path / "media")}})
    with pytest.raises(MediaFolderTaken, match=f"process {holder.pid}"):
        exporter.export_file(CT, tmp_path / "out", settings)
    assert theirs.is_dir()
    holder.kill()
    holder.wait(100)
    assert isinstance(exporter.export_file(CT, tmp_path / "out", settings), exporter.Exported)
    assert theirs.is_dir(), "it may be the other's, who is dead and will be started again"


def until(condition: object) -> None:
    deadline = time.monotonic() + 100
    while not condition():  # type: ignore[operator]  # a function without arguments
        assert time.monotonic() < deadline
        time.sleep(0.01)
