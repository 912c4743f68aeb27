"""What is remembered: durable with its position or not at all, and never ahead of what is open."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.foundation.errors import SourceUnusable
from listener.sources.orthanc.answers import Change
from listener.sources.orthanc.cursor import Cursor
from listener.sources.orthanc.downloads import AlreadyStored, DownloadJob, Gone, LeftOut, Taken, Troubled
from listener.sources.orthanc.identifiers import resource_id, spelled
from listener.sources.orthanc.memory import InstanceState, KnownInstance, Position, SyncState
from listener.sources.orthanc.outcomes import outcome
from listener.sources.orthanc.troubles import CutOff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE, TWO = bytes(20), bytes(range(20))


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SyncState]:
    found = SyncState.open(tmp_path / "sources" / "orthanc-tested.db")
    yield found
    found.close()


def test_outcomes_and_position_are_there_after_it_is_opened_again(memory: SyncState, tmp_path: Path) -> None:
    noted = KnownInstance(ONE, InstanceState.TAKEN, 3, 17, bytes(16), bytes(range(16)))
    memory.record(
        [noted, KnownInstance(TWO, InstanceState.FAILED, 3, 18, why="cut_off")], Position(3, 18, b"anchor", 5)
    )
    memory.close()
    again = SyncState.open(tmp_path / "sources" / "orthanc-tested.db")
    assert again.position() == Position(3, 18, b"anchor", 5)
    assert again.known([ONE, TWO, b"x" * 20])[ONE] == noted
    assert [one.instance for one in again.failed(b"", 10)] == [TWO]
    assert (again.count_failed(), again.count_gone()) == (1, 0)
    again.close()


def test_a_failed_transaction_leaves_neither_outcome_nor_position(memory: SyncState) -> None:
    with pytest.raises(sqlite3.Error):
        memory.record(
            [KnownInstance(ONE, InstanceState.TAKEN, 0, 1), KnownInstance(TWO, None, 0, 2)], Position(0, 2, None)
        )  # type: ignore[arg-type]  # what the data base refuses
    assert memory.known([ONE, TWO]) == {}
    assert memory.position() == Position(0, 0, None)
    memory.record([KnownInstance(ONE, InstanceState.TAKEN, 0, 1)], Position(0, 1, None))
    assert memory.position().seq == 1


@pytest.mark.parametrize("content", [b"this is no data base at all, whatever its name says" * 50, b""])
def test_a_file_that_is_no_data_base_is_said_in_one_sentence_and_an_empty_one_is_used(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "orthanc-x.db"
    path.write_bytes(content)
    if content:
        with pytest.raises(SourceUnusable, match="move it away"):
            SyncState.open(path)
        assert path.read_bytes() == content
    else:
        SyncState.open(path).close()


def test_a_data_base_of_another_version_is_left_alone(memory: SyncState, tmp_path: Path) -> None:
    memory.close()
    path = tmp_path / "sources" / "orthanc-tested.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(SourceUnusable, match=str(path)):
        SyncState.open(path)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "orthanc-x.db").symlink_to(tmp_path / "target")
    with pytest.raises(SourceUnusable):
        SyncState.open(tmp_path / "orthanc-x.db")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=60), st.randoms(use_true_random=False))
def test_the_position_never_passes_what_is_open_and_reaches_the_end_when_nothing_is(
    entries: list[tuple[bool, int]], rng: object
) -> None:
    cursor, seq = Cursor(Position(0, 0, None)), 0
    open_seqs: list[int] = []
    for is_open, gap in entries:
        seq += 1 + gap
        cursor.read(Change(seq, None, b""), is_open=is_open, vanished=gap)
        open_seqs += [seq] if is_open else []
        assert all(cursor.position.seq < one for one in open_seqs)
    rng.shuffle(open_seqs)  # type: ignore[attr-defined]  # a `random.Random`
    while open_seqs:
        cursor.finish(open_seqs.pop())
        assert all(cursor.position.seq < one for one in open_seqs)
    assert cursor.position.seq == seq
    assert cursor.position.vanished == sum(gap for _, gap in entries)
    assert cursor.length == 0


def test_content_that_was_taken_stays_known_whatever_comes_after() -> None:
    uuid, md5, other = b"u" * 16, b"m" * 16, b"o" * 16
    job = DownloadJob(ONE, 1, (5, 9))
    _, taken = outcome(Taken(job, uuid, md5, 10, is_verified=True))
    assert taken == KnownInstance(ONE, InstanceState.TAKEN, 1, 9, uuid, md5)
    later = DownloadJob(ONE, 1, (12,), known=taken)
    assert outcome(Gone(later))[1] == KnownInstance(ONE, InstanceState.GONE, 1, 12, uuid, md5)
    assert outcome(Troubled(later, CutOff("x")))[1] == KnownInstance(
        ONE, InstanceState.FAILED, 1, 12, uuid, md5, "cut_off"
    )
    assert outcome(AlreadyStored(later, other, md5))[1] == KnownInstance(ONE, InstanceState.TAKEN, 1, 12, other, md5)
    # Left out with other content: the MD5 is not that of this attachment.
    assert outcome(LeftOut(later, "labels:f", other))[1] == KnownInstance(
        ONE, InstanceState.FILTERED, 1, 12, other, None, "labels:f"
    )
    found_by_list = DownloadJob(ONE, 2, known=taken)
    assert outcome(Gone(found_by_list))[1] == KnownInstance(ONE, InstanceState.GONE, 1, 9, uuid, md5)


@pytest.mark.parametrize(
    "value",
    [
        *("", 7, None, "0" * 44, "../../etc/passwd", "-".join(["\u0660" * 8] * 5)),
        "00000000-00000000-00000000-00000000-0000000g",
        "00000000-00000000-00000000-00000000-00000000\n",
        "00000000-00000000-00000000-00000000-00000000/file",
    ],
)
def test_what_is_no_identifier_never_becomes_one(value: object) -> None:
    assert resource_id(value) is None


def test_an_identifier_goes_out_as_it_came() -> None:
    assert spelled(TWO) == "00010203-04050607-08090a0b-0c0d0e0f-10111213"
    assert resource_id(spelled(TWO)) == TWO


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_nothing_is_recorded_where_it_would_not_be_found_again(memory: SyncState, tmp_path: Path, suffix: str) -> None:
    memory.record([KnownInstance(ONE, InstanceState.TAKEN, 0, 1)], Position(0, 1, None))
    (tmp_path / "sources" / f"orthanc-tested.db{suffix}").unlink()
    with pytest.raises(sqlite3.Error, match="was removed"):
        memory.record([KnownInstance(TWO, InstanceState.TAKEN, 0, 2)], Position(0, 2, None))
