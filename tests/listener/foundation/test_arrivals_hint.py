"""The hint that files have come into a folder: it comes, it stands for many, and without it nothing breaks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from listener.foundation.arrivals_hint import ArrivalsHint

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_that_is_moved_into_the_folder_rings(tmp_path: Path) -> None:
    folder, rang = tmp_path / "new", threading.Event()
    folder.mkdir()
    with ArrivalsHint(folder, rang.set):
        for name in ("first", "second"):
            (tmp_path / name).touch()
            (tmp_path / name).rename(folder / name)
            assert rang.wait(100)
            rang.clear()


def test_afterwards_there_is_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with ArrivalsHint(tmp_path, lambda: None):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_a_folder_that_is_not_there_gives_no_hint_and_no_error(tmp_path: Path) -> None:
    rang = threading.Event()
    with ArrivalsHint(tmp_path / "absent", rang.set):
        pass
    assert not rang.is_set()
