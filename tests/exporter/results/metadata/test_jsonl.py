"""The metadata file: every committed line once, whatever happens to the file or the process."""

from __future__ import annotations

import json
import os
import random
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from exporter.errors import OutOfSpace
from exporter.results.ledger import InstanceStatus, Ledger
from exporter.results.metadata.jsonl import Appender, MetadataFileUnusable
from tests.exporter.ledger_rows import begin, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WRITER = Path(__file__).with_name("writing.py")


class Bench:
    """A ledger and a metadata file, and what must be in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "metadata.jsonl"
        self.ledger = Ledger.open(folder / "exporter.db")
        self.number = 0

    def commit(self, number: int = 1, size: int = 20) -> None:
        for _ in range(number):
            self.number += 1
            name = f"{self.number}"
            begin(self.ledger, name, size_bytes=1, mtime_ns=2, source="folder")
            line = b'{"n":%d,"pad":"%s"}\n' % (self.number, b"x" * size)
            finish(self.ledger, name, state=InstanceStatus.EXPORTED, line=line)

    def appender(self, *, append: bool = False) -> Appender:
        return Appender(self.file, self.ledger, append=append)

    def numbers(self) -> list[int]:
        content = self.file.read_bytes()
        assert content == b"" or content.endswith(b"\n")
        return [row["n"] for row in map(json.loads, content.splitlines()) if "n" in row]

    def check(self) -> None:
        """Every line once and in order."""
        assert self.numbers() == list(range(1, self.number + 1))

    def kept(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted(self.folder.glob("metadata.jsonl.kept-*"))]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def warnings() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def test_lines_are_appended_in_order_as_they_are_committed(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(3)
        assert appender.publish() == 3
        assert appender.publish() == 0
        bench.commit(2)
        assert appender.publish() == 2
    bench.check()
    assert bench.file.stat().st_mode & 0o077 == 0


def test_what_was_committed_and_not_written_is_written_at_the_next_start(bench: Bench) -> None:
    bench.commit(3)
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
    bench.check()


def test_nothing_is_written_twice_when_the_ledger_did_not_hear_of_it(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
        bench.commit(3)
    with bench.file.open("ab") as file:  # written and fsynced; the process ended before the ledger knew
        file.writelines(line.text for line in bench.ledger.outbox(2))
    with bench.appender() as appender:
        assert appender.publish() == 0
    bench.check()
    assert bench.kept() == []


@pytest.mark.parametrize("cut", [1, 10, 20])
def test_a_torn_tail_is_cut_and_kept(bench: Bench, warnings: list[Any], cut: int) -> None:
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
        bench.commit(2)
    text = b"".join(line.text for line in bench.ledger.outbox(2))
    with bench.file.open("ab") as file:
        file.write(text[:-cut])
    with bench.appender() as appender:
        appender.publish()
    bench.check()
    assert len(bench.kept()) == 1
    assert text.splitlines(keepends=True)[1].startswith(bench.kept()[0])
    assert [entry["log_level"] for entry in warnings] == ["warning"]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    "harm",
    [
        "deleted",
        "moved away and lost",
        "truncated, with a copy kept",
        "truncated to nothing",
        "truncated in a line",
        "a block of zeros",
        "a line removed",
        "a line doubled",
        "a byte changed",
        "replaced by other text",
        "a half line appended",
        "a copy put in its place",
    ],
)
def test_whatever_happens_to_the_file_it_ends_whole(
    bench: Bench, warnings: list[Any], harm: str, *, running: bool
) -> None:
    appender = bench.appender()
    bench.commit(20)
    appender.publish()
    if not running:
        appender.close()
    before = bench.file.read_bytes()
    lines = before.splitlines(keepends=True)
    match harm:
        case "deleted":
            bench.file.unlink()
        case "moved away and lost":
            bench.file.rename(bench.folder / "lost.jsonl")
            (bench.folder / "lost.jsonl").unlink()
            bench.file.touch()
        case "truncated, with a copy kept":  # logrotate's copytruncate
            shutil.copy2(bench.file, bench.folder / "old.jsonl")
            os.truncate(bench.file, 0)
        case "truncated to nothing":
            os.truncate(bench.file, 0)
        case "truncated in a line":
            os.truncate(bench.file, len(before) // 2 + 3)
        case "a block of zeros":
            patch(bench.file, len(before) // 2, bytes(50))
        case "a line removed":
            bench.file.write_bytes(b"".join(lines[:5] + lines[6:]))
        case "a line doubled":
            bench.file.write_bytes(b"".join(lines[:5] + lines[4:]))
        case "a byte changed":
            patch(bench.file, before.index(b"xx"), b"y")
        case "replaced by other text":
            bench.file.unlink()
            bench.file.write_bytes(b"something else\n" * 100)
        case "a half line appended":
            patch(bench.file, len(before), b'{"n":')
        case _:
            assert harm == "a copy put in its place"
            bench.file.rename(bench.folder / "old.jsonl")
            bench.file.write_bytes(before)
    if not running:
        appender = bench.appender()
    bench.commit(3)
    appender.publish()
    bench.check()
    appender.publish()
    bench.check()
    appender.close()
    if harm != "a copy put in its place":
        assert warnings
    old = bench.folder / "old.jsonl"
    assert not old.exists() or old.read_bytes() == before


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("created", [True, False])
def test_after_a_rotation_the_new_file_goes_on_where_the_old_one_ended(
    bench: Bench, *, running: bool, created: bool
) -> None:
    with bench.file.open("wb") as file:
        file.write(b'{"theirs":1}\n')
    appender = bench.appender(append=True)
    rotated = []
    for number in range(3):
        bench.commit(5)
        appender.publish()
        if not running:
            appender.close()
        rotated.append(bench.file.rename(bench.folder / f"metadata.jsonl.{number}"))
        if created:
            bench.file.touch()
        if not running:
            appender = bench.appender()
        bench.commit(2)
        appender.publish()
        assert bench.numbers() == [7 * number + 6, 7 * number + 7]
    appender.close()
    with bench.appender() as appender:  # what was remembered of the new file is right
        bench.commit(1)
        appender.publish()
    assert bench.kept() == []
    bench.file.write_bytes(b"".join(file.read_bytes() for file in [*rotated, bench.file]))
    bench.check()


def test_in_a_rotated_file_nobody_has_a_hand_any_more(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(5)
        appender.publish()
        old = bench.file.rename(bench.folder / "old.jsonl")
        before = old.read_bytes()
        bench.commit(3)
        appender.publish()
    assert old.read_bytes() == before


@pytest.mark.parametrize("harm", ["deleted", "cut", "changed"])
def test_a_file_that_follows_a_rotated_one_is_made_whole_from_where_it_began(bench: Bench, harm: str) -> None:
    with bench.appender() as appender:
        bench.commit(5)
        appender.publish()
        bench.file.rename(bench.folder / "old.jsonl")
        bench.commit(4)
        appender.publish()
        match harm:
            case "deleted":
                bench.file.unlink()
            case "cut":
                os.truncate(bench.file, 50)
            case _:
                patch(bench.file, 3, b"~~~")
        bench.commit(1)
        appender.publish()
        assert bench.numbers() == list(range(6, 11))


def test_a_rotated_file_that_was_changed_is_none(bench: Bench, warnings: list[Any]) -> None:
    with bench.appender() as appender:
        bench.commit(5)
        appender.publish()
        bench.file.rename(bench.folder / "old.jsonl")
        os.truncate(bench.folder / "old.jsonl", 50)
        bench.commit(1)
        appender.publish()
    bench.check()
    assert warnings


def test_rotated_files_may_be_put_together_again(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(5)
        appender.publish()
        old = bench.file.rename(bench.folder / "old.jsonl")
        bench.commit(4)
        appender.publish()
    bench.file.write_bytes(old.read_bytes() + bench.file.read_bytes())
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
    bench.check()
    assert bench.kept() == []


def patch(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_bytes_that_are_removed_are_kept_first(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
        bench.file.write_bytes(b"not ours\n")
        appender.publish()
    bench.check()
    assert bench.kept() == [b"not ours\n"]


def test_whole_lines_of_others_stay_where_they_are(bench: Bench, warnings: list[Any]) -> None:
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
        patch(bench.file, bench.file.stat().st_size, b'{"theirs":1}\n{"theirs":2}\n')
        bench.commit(2)
        appender.publish()
    with bench.appender() as appender:
        bench.commit(1)
        appender.publish()
        patch(bench.file, bench.file.stat().st_size, b'{"theirs":3}\n')
        appender.publish()
        patch(bench.file, bench.file.stat().st_size, b'{"theirs":4}\n')
        appender.publish()
    bench.check()
    rows = [json.loads(line) for line in bench.file.read_bytes().splitlines()]
    assert [next(iter(row.values())) if "theirs" in row else row["n"] for row in rows] == [1, 2, 1, 2, 3, 4, 5, 3, 4]
    assert bench.kept() == []
    assert warnings
    bench.file.rename(bench.folder / "old.jsonl")
    (bench.folder / "metadata.jsonl").write_bytes((bench.folder / "old.jsonl").read_bytes())
    with bench.appender() as appender:  # another file with the same content: checked, and found right
        bench.commit(1)
        appender.publish()
    bench.check()
    assert bench.file.read_bytes().count(b"theirs") == 4


def test_one_of_our_lines_appended_by_somebody_is_removed(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit(3)
        appender.publish()
        last = bench.file.read_bytes().splitlines(keepends=True)[-1]
        patch(bench.file, bench.file.stat().st_size, last)
        bench.commit(1)
        appender.publish()
    bench.check()
    assert bench.kept() == [last]


def test_a_file_of_another_ledger_is_refused_and_left_alone(bench: Bench) -> None:
    bench.file.write_bytes(b'{"theirs":1}\n')
    bench.commit()
    with pytest.raises(MetadataFileUnusable, match=r"did not write.*metadata.append"):
        bench.appender()
    assert bench.file.read_bytes() == b'{"theirs":1}\n'


def test_with_leave_to_append_lines_follow_those_of_another_ledger(bench: Bench) -> None:
    bench.file.write_bytes(b'{"theirs":1}\n{"theirs":2}\n{"torn')
    with bench.appender(append=True) as appender:
        bench.commit(2)
        appender.publish()
    with bench.appender() as appender:  # from now on they are known
        bench.commit(1)
        appender.publish()
    assert bench.file.read_bytes().startswith(b'{"theirs":1}\n{"theirs":2}\n{"n":1,')
    bench.check()
    assert bench.kept() == [b'{"torn']


def test_a_file_that_is_no_json_lines_is_refused_even_with_leave_to_append(bench: Bench) -> None:
    bench.file.write_bytes(b"a,b\n1,2\n")
    with pytest.raises(MetadataFileUnusable, match="not a file of JSON lines"):
        bench.appender(append=True)
    assert bench.file.read_bytes() == b"a,b\n1,2\n"


def test_two_exporters_cannot_append_to_one_file(bench: Bench, tmp_path: Path) -> None:
    with (
        bench.appender(),
        Ledger.open(tmp_path / "other.db") as other,
        pytest.raises(MetadataFileUnusable, match="another exporter"),
    ):
        Appender(bench.file, other, append=True)


def test_a_folder_that_is_not_there_is_said_to_be(bench: Bench) -> None:
    with pytest.raises(MetadataFileUnusable, match="check that its folder exists"):
        Appender(bench.folder / "nowhere" / "metadata.jsonl", bench.ledger)


def test_a_full_disk_leaves_no_torn_line_and_passes(
    bench: Bench, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    bench.file = small_disk / "metadata.jsonl"
    filler = small_disk / "filler"
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
        fill(filler)
        bench.commit(3, size=20_000)
        for _ in range(3):
            with pytest.raises(OutOfSpace):
                appender.publish()
            assert bench.numbers() == [1, 2]
        filler.unlink()
        assert appender.publish() == 3
    bench.check()
    assert bench.kept() == []


def test_a_restart_on_a_full_disk_goes_on_when_there_is_space(
    bench: Bench, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    bench.file = small_disk / "metadata.jsonl"
    filler = small_disk / "filler"
    with bench.appender() as appender:
        bench.commit(2)
        appender.publish()
    fill(filler)
    bench.commit(2, size=20_000)
    with bench.appender() as appender, pytest.raises(OutOfSpace):
        appender.publish()
    filler.unlink()
    with bench.appender() as appender:
        appender.publish()
    bench.check()


@pytest.mark.peer
def test_lines_are_synced_before_the_ledger_hears_of_them(peer: Callable[[str], str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=openat,write,pwrite64,fsync,fdatasync,rename"
    done = subprocess.run(
        [
            peer("strace"),
            "-f",
            "-y",
            "-e",
            calls,
            "-o",
            str(trace),
            sys.executable,
            str(WRITER),
            str(tmp_path),
            "1",
            "5",
        ],
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    lines = [line for line in trace.read_text().splitlines() if str(tmp_path) in line]
    written = [index for index, line in enumerate(lines) if "write(" in line and "metadata.jsonl>" in line]
    assert len(written) == 5
    for index in written:
        following = (line for line in lines[index + 1 :] if "sync(" in line or "write" in line)
        assert "fsync" in (first := next(following)), "something was written between a line and its fsync"
        assert "metadata.jsonl>" in first
        # and no line before the outcome it tells of is durable
        before = [line for line in lines[:index] if "exporter.db-wal" in line]
        assert "sync(" in before[-1]


def test_after_kill_9_every_acknowledged_line_is_there_once_and_whole(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    torn = 0
    chance = random.Random(20261122)  # noqa: S311 - moments of death, the same in every run
    for _ in range(12):
        acknowledged |= killed_writer(tmp_path, chance.uniform(0.02, 0.25))
        content = (tmp_path / "metadata.jsonl").read_bytes() if (tmp_path / "metadata.jsonl").exists() else b""
        torn += bool(content) and not content.endswith(b"\n")
        with Ledger.open(tmp_path / "exporter.db") as ledger:
            interrupted = {entry.name for entry in ledger.recover()}
            with Appender(tmp_path / "metadata.jsonl", ledger) as appender:
                appender.publish()
            exported = {entry.name for entry in ledger.entries(InstanceStatus.EXPORTED)}
            assert ledger.problem() is None
        rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_bytes().splitlines()]
        names = [row["name"] for row in rows]
        assert len(names) == len(set(names)), "a line was written twice"
        assert set(names) == exported
        assert acknowledged <= set(names), "an acknowledged line is missing"
        assert not interrupted & acknowledged
    assert len(acknowledged) > 100
    print(f"{len(acknowledged)} acknowledged, {torn} torn tails")  # noqa: T201 - the figure of this test


def killed_writer(folder: Path, after_s: float) -> set[str]:
    """Names that a writing process acknowledged before it was killed `after_s` after its first."""
    process = subprocess.Popen([sys.executable, str(WRITER), str(folder), "3", "1000000"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        ready, _, _ = select.select([process.stdout], [], [], 30)
        assert ready, "the writer did not start"
        time.sleep(after_s)  # not synchronisation: the moment of death is the input of this test
        process.kill()
        said = process.stdout.read()
    process.wait(100)
    return {name.decode() for name in said.splitlines(keepends=True) if name.endswith(b"\n") for name in [name.strip()]}


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a named pipe (FIFO)"),
        (os.mkdir, "a folder"),
        (lambda path: path.symlink_to(os.devnull), "a character device"),
        (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), "a socket"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_no_regular_file_is_called_what_it_is(bench: Bench, make: Callable[[Path], object], kind: str) -> None:
    make(bench.file)
    with pytest.raises(MetadataFileUnusable, match=re.escape(f"metadata.jsonl: it is {kind}; move it away")):
        bench.appender()


def test_a_pipe_that_takes_the_place_of_the_file_is_noticed_at_the_next_line(bench: Bench) -> None:
    with bench.appender() as appender:
        bench.commit()
        appender.publish()
        bench.file.unlink()
        os.mkfifo(bench.file)
        bench.commit()
        with pytest.raises(MetadataFileUnusable, match="FIFO"):
            appender.publish()


def test_lines_that_only_the_file_has_are_told_apart_from_those_of_others(bench: Bench) -> None:
    ours = json.dumps({"dicom_file": "a", "export": {"status": "exported", "settings_sha256": "s"}}).encode() + b"\n"
    told = []
    for text in (ours, b'{"somebody": "else"}\n'):
        bench.commit()
        with bench.appender(append=True) as appender:
            appender.publish()
        with bench.file.open("ab") as file:
            file.write(text)
        with structlog.testing.capture_logs() as logs, bench.appender(append=True):
            told += [(entry["log_level"], entry["event"]) for entry in logs]
        bench.check()
    assert told == [
        ("error", "the ledger has lost lines that the metadata file has: they stay"),
        ("warning", "metadata file has lines of others: they stay"),
    ]
