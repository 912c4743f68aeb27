"""Locks between processes: one holder at a time, its number in the lock file, free again when it dies."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from listener.foundation import locks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from listener.foundation import locks
locks.take(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock file."""
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


class Refused(Exception):
    def __init__(self, cause: str, hint: str) -> None:
        super().__init__(f"{cause}; {hint}")


def take_and_close(file: Path) -> None:
    os.close(locks.take(file))


def test_a_lock_that_another_process_holds_names_that_process(tmp_path: Path) -> None:
    file = tmp_path / "exporter.lock"
    with another_process(file) as process, pytest.raises(locks.LockBusy) as busy:
        locks.take(file)
    assert busy.value.holder == f"process {process.pid}"


def test_a_lock_is_free_again_when_its_process_dies(tmp_path: Path) -> None:
    file = tmp_path / "exporter.lock"
    with another_process(file):
        assert locks.is_held(file)
    assert not locks.is_held(file)
    take_and_close(file)


def test_a_lock_file_is_private_and_names_its_holder(tmp_path: Path) -> None:
    file = tmp_path / "exporter.lock"
    take_and_close(file)
    assert (file.stat().st_mode & 0o777, file.read_text()) == (0o600, f"{os.getpid()}\n")


def test_what_was_in_a_lock_file_does_not_pass_for_its_holder(tmp_path: Path) -> None:
    file = tmp_path / "exporter.lock"
    with another_process(file):
        file.write_text('{"not": "a number"}')
        with pytest.raises(locks.LockBusy, match="an unknown process"):
            locks.take(file)


def test_a_link_is_not_followed_to_a_lock_file(tmp_path: Path) -> None:
    (tmp_path / "exporter.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        locks.take(tmp_path / "exporter.lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_busy_lock_is_refused_in_the_words_of_its_caller(tmp_path: Path) -> None:
    path = tmp_path / "exporter.db"
    with another_process(locks.lock_file_of(path)) as process, pytest.raises(Refused) as refused:
        locks.lock(path, ("another exporter works with it", "wait for it"), Refused)
    assert str(refused.value) == f"another exporter works with it (process {process.pid}); wait for it"


def test_a_lock_in_a_folder_that_is_gone_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"cannot be taken \(No such file or directory\); check that its folder exists"):
        locks.lock(tmp_path / "gone" / "exporter.db", ("", ""), Refused)


def test_a_lock_file_that_was_removed_is_no_longer_in_place(tmp_path: Path) -> None:
    path = tmp_path / "exporter.db"
    with closing(os.fdopen(locks.lock(path, ("", ""), Refused))) as held:
        assert locks.is_in_place(path, held.fileno())
        locks.lock_file_of(path).unlink()
        assert not locks.is_in_place(path, held.fileno())


def test_folders_are_locked_like_files(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        locks.try_to_lock(first)
        with pytest.raises(locks.LockBusy, match="an unknown process"):
            locks.try_to_lock(second)
    finally:
        os.close(first)
        os.close(second)


def test_a_turn_ends_with_its_block(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(2))
    try:
        with locks.turn(first), pytest.raises(locks.LockBusy):
            locks.try_to_lock(second)
        locks.try_to_lock(second)
    finally:
        os.close(first)
        os.close(second)
