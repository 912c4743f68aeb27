"""What others see of a spool: names by state, files wherever they are now, and whether a role is taken."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from listener.spool import view
from listener.spool.names import SpoolState, lock_file, received_at
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from listener.spool.incoming import SpoolItem

REPORT = {"message": "no"}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool.open(tmp_path / "spool") as opened:
        yield opened


def put(spool: Spool) -> SpoolItem:
    incoming = spool.receive()
    incoming.write([b"x"])
    return incoming.commit()


def test_an_item_is_found_in_every_state_it_goes_through(spool: Spool) -> None:
    item = put(spool)
    assert view.entries(spool.root, SpoolState.NEW) == [item.name]
    assert view.find(spool.root, item.name, view.WAITING) == item.path
    claimed = spool.claim(item)
    assert claimed is not None
    assert view.find(spool.root, item.name, view.WAITING) == claimed.path
    kept = spool.quarantine(claimed, "unreadable", REPORT)
    assert view.find(spool.root, item.name, view.WAITING) is None
    assert view.find(spool.root, item.name, (SpoolState.QUARANTINE,), "unreadable") == kept.path
    assert view.entries(spool.root, SpoolState.QUARANTINE, "unreadable") == [item.name]
    assert view.report(spool.root, "unreadable", item.name) == REPORT


def test_folders_are_those_of_items_that_are_not_exported_in_the_order_they_go_through(spool: Spool) -> None:
    spool.quarantine(put(spool), "unreadable", REPORT)
    spool.quarantine(put(spool), "damaged", REPORT)
    (spool.root / "quarantine" / "lost+found").mkdir()
    names = [folder.relative_to(spool.root).as_posix() for folder in view.folders(spool.root)]
    assert names == ["new", "active", "quarantine/damaged", "quarantine/unreadable"]


def test_what_is_not_an_item_is_not_seen(spool: Spool) -> None:
    (spool.root / "new" / "notes.txt").write_text("x")
    assert view.entries(spool.root, SpoolState.NEW) == []


def test_where_there_is_no_spool_there_is_nothing_to_see(tmp_path: Path) -> None:
    assert view.entries(tmp_path / "none", SpoolState.DONE) == []
    assert view.reasons(tmp_path / "none") == []
    assert view.report(tmp_path / "none", "unreadable", "a") == {}
    assert not view.holder_lives(tmp_path / "none", "listener")


def test_a_role_is_held_as_long_as_the_process_of_its_lock_file_lives(spool: Spool) -> None:
    with spool.lock("listener"):
        assert view.holder_lives(spool.root, "listener")
        assert not view.holder_lives(spool.root, "exporter")
    gone = subprocess.Popen(["true"])
    gone.wait()
    lock_file(spool.root, "listener").write_text(f"{gone.pid}\n")
    assert not view.holder_lives(spool.root, "listener")
    lock_file(spool.root, "listener").write_text("no number\n")
    assert not view.holder_lives(spool.root, "listener")


def test_kept_items_wait_again_under_their_names_and_times(spool: Spool) -> None:
    spool.keep_days = 1
    item = put(spool)
    claimed = spool.claim(item)
    assert claimed is not None
    spool.finish(claimed)
    assert view.entries(spool.root, SpoolState.DONE) == [item.name]
    spool.put_back_kept([item.name])
    (again,) = spool.pending()
    assert received_at(again.name) == received_at(item.name)
    assert view.entries(spool.root, SpoolState.DONE) == []
