"""F50-F53: spool, output or ledger full, out of inodes, broken or read-only; then well again.

In every row a real sender goes on all the time, the disk is made bad and good again, and from that moment the seconds
are counted until an instance is stored again, and until everything that was acknowledged is exported. A daemon that
ends loudly is started again, as systemd does by its unit; how often is part of the figure.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.daemons import Keeper, Late, daemons, wait_for
from tests.faults.disks import breakable_disk, remount, small_disk
from tests.faults.invariants import check_settled, check_visible
from tests.faults.report import NotPermitted, Row, Scale, attempt
from tests.faults.senders import Pynetdicom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from io import FileIO
    from pathlib import Path

    from tests.faults.disks import Disk

NO_MARKS: Final = """spool:
  refuse_below_bytes: 0
  reject_below_bytes: 0
  resume_above_bytes: 0
  refuse_below_files: 0
room:
  pause_below_bytes: 0
  resume_above_bytes: 0
  pause_below_files: 0
  resume_above_files: 0
  reserve_bytes: 1000000
"""
"""The disk itself is what refuses."""
MARKS: Final = """spool:
  refuse_below_bytes: 4000000
  reject_below_bytes: 3000000
  resume_above_bytes: 4500000
  refuse_below_files: 80
  reject_below_files: 60
  resume_above_files: 90
room:
  pause_below_bytes: 2000000
  resume_above_bytes: 2500000
  pause_below_files: 40
  resume_above_files: 50
  reserve_bytes: 1000000
"""
"""Above what is kept in reserve, and above what a bad disk is left with (`no_space`, `no_inodes`)."""
LEFT_BYTES: Final = 1_500_000
LEFT_FILES: Final = 30
WAIT_S: Final = 90.0


@dataclass
class ProductPaths:
    """Where the parts of one product lie."""

    data: Path
    media: Path
    metadata: Path
    bad: Path
    """The mount that is made bad."""

    def settings(self, marks: str) -> str:
        return f"{marks}media: {{dir: {self.media}}}\nmetadata: {{file: {self.metadata}}}\nnum_workers: 1\n"


@dataclass
class Story:
    """What happened in one row."""

    refused: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    """How often a daemon ended and was started again."""
    stored_again_s: float = 0.0
    paused: int = 0
    """How often the exporter paused."""
    settled_s: float = 0.0
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def figure(self) -> str:
        refused = ", ".join(f"{count} x {word}" for word, count in self.refused.items()) or "nobody refused"
        return (
            f"{self.acknowledged} acknowledged; {refused}; paused {self.paused} times; stored again after "
            f"{self.stored_again_s:.1f} s, all exported after {self.settled_s:.1f} s; {self.restarts} restarts"
        )


@contextmanager
def product_paths(scratch: Path, bad: str, options: str) -> Iterator[ProductPaths]:
    """A product whose part `bad` (spool, output, ledger, lines, everything) lies on a small tmpfs of its own."""
    data = scratch / "data"
    data.mkdir(parents=True)
    with ExitStack() as stack:
        point = {
            "spool": data / "spool",
            "output": scratch / "media",
            "ledger": data,
            "lines": scratch / "lines",
            "everything": data,
        }[bad]
        stack.enter_context(small_disk(point, options))
        if bad == "ledger":  # the spool below it has to be elsewhere
            (data / "spool").mkdir()
            stack.enter_context(small_disk(data / "spool", "size=64m"))
        media = data / "media" if bad == "everything" else scratch / "media"
        lines = {"lines": scratch / "lines", "everything": data}.get(bad, scratch)
        yield ProductPaths(data, media, lines / "metadata.jsonl", point)


# -- ways to make it bad ---------------------------------------------------------------------------------------------


@contextmanager
def little_space(point: Path) -> Iterator[Callable[[], None]]:
    """Fill the disk up to a little below the marks, and again whenever something was freed."""

    def grow(filler: FileIO) -> None:
        found = os.statvfs(point)
        surplus = found.f_bavail * found.f_frsize - LEFT_BYTES
        while surplus > 0:
            surplus -= filler.write(bytes(min(surplus, 1 << 16)))

    with _a_file_that_grows(point, grow) as fill:
        yield fill


@contextmanager
def no_space(point: Path) -> Iterator[Callable[[], None]]:
    """Fill the disk with a file to its last byte, and again whenever something was freed."""

    def grow(filler: FileIO) -> None:
        for size in (1 << 16, 1 << 12):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)) == size:
                    pass

    with _a_file_that_grows(point, grow) as fill:
        yield fill


@contextmanager
def few_inodes(point: Path) -> Iterator[Callable[[], None]]:
    """Use up the disk's inodes to a little below the marks, and again whenever some were freed."""
    with _empty_files(point, lambda: range(os.statvfs(point).f_favail - LEFT_FILES)) as fill:
        yield fill


@contextmanager
def no_inodes(point: Path) -> Iterator[Callable[[], None]]:
    """Use up the disk's inodes with empty files, and again whenever some were freed."""
    with _empty_files(point, itertools.count) as fill:
        yield fill


@contextmanager
def _a_file_that_grows(point: Path, grow: Callable[[FileIO], None]) -> Iterator[Callable[[], None]]:
    filler = point / ".filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            grow(file)

    fill()
    try:
        yield fill
    finally:
        filler.unlink()


@contextmanager
def _empty_files(point: Path, turns: Callable[[], Iterable[int]]) -> Iterator[Callable[[], None]]:
    folder = point / ".fillers"
    folder.mkdir()
    numbers = itertools.count()

    def fill() -> None:
        with contextlib.suppress(OSError):
            for _ in turns():
                (folder / str(next(numbers))).touch()

    fill()
    try:
        yield fill
    finally:
        shutil.rmtree(folder)


@contextmanager
def read_only(point: Path) -> Iterator[Callable[[], None]]:
    """Mount it read-only while it is in use."""
    for _ in range(200):  # a file open for writing forbids it, and there is one now and then
        try:
            remount(point, "ro")
        except NotPermitted:
            time.sleep(0.02)
        else:
            break
    else:
        raise NotPermitted(
            "the kernel refuses: a lock or the ledger is open for writing on it; F52 injects EROFS instead"
        )
    try:
        yield lambda: None
    finally:
        remount(point, "rw")


# -- the row ---------------------------------------------------------------------------------------------------------


def row(
    scratch: Path,
    bad: str,
    what: str,
    spoil: Callable[[Path], AbstractContextManager[Callable[[], None]]],
    options: str,
    marks: str,
) -> Row:
    """One product, one part of it made bad and good again."""
    story = Story()
    with product_paths(scratch, bad, options) as where:
        with daemons(where.data, scratch / "logs", extra=where.settings(marks)) as product:
            product.start("run")
            product.start("listener")
            keeper = Keeper(product)
            sender = Pynetdicom(product.port, pause_s=0.02)
            sender.start()
            try:
                good_at = _live_through(keeper, where, sender, spoil, story)
            finally:
                sender.stop.set()
                sender.join(60)
            _settle(keeper, story)
            story.settled_s = time.monotonic() - good_at
            story.restarts = keeper.restarts
            story.violations += product.reconciled()
            for name in ("run", "listener"):
                product.stop(name)
            story.paused = product.log("run").count("paused: no space")
        story.acknowledged = len(sender.acknowledged)
        story.refused = sender.refused
        story.violations += check_settled(where.data, sender.acknowledged, media=where.media, metadata=where.metadata)
        failed = list((where.data / "spool" / "quarantine").rglob("*.dcm"))
        if failed:
            reasons = {p.parent.name for p in failed}
            story.violations.append(f"{len(failed)} good instances in quarantine: {sorted(reasons)}")
    if (bad in {"spool", "everything"} or marks == MARKS) and not story.refused:
        story.violations.append("nobody was refused: the disk was not bad enough to show anything")
    if marks == MARKS and bad != "spool" and not story.paused:
        story.violations.append("the exporter did not pause below its mark")
    if marks == MARKS and story.restarts:
        story.violations.append("a daemon ended although there was space below the marks")
    words = set(story.refused) - {"0xA700"}
    if words:
        story.violations.append(f"refused with {sorted(words)} instead of 0xA700")
    return Row(
        f"F50-F53 {what}", f"{bad} alone" if bad != "everything" else bad, 1, tuple(story.violations), story.figure
    )


def _live_through(
    keeper: Keeper,
    where: ProductPaths,
    sender: Pynetdicom,
    spoil: Callable[[Path], AbstractContextManager[Callable[[], None]]],
    story: Story,
) -> float:
    """Make the disk bad and good again under load; when it was good again."""
    lines = where.metadata
    wait_for(lambda: len(sender.acknowledged) > 5 and lines.is_file() and lines.stat().st_size, 60, "it runs")
    with spoil(where.bad) as spoil_again:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            spoil_again()
            keeper.look()
            time.sleep(0.1)
        check_visible(where.data, story.violations, media=where.media, metadata=where.metadata)
        before = len(sender.acknowledged)
    good_at = time.monotonic()
    try:
        wait_for(lambda: keeper.look() or len(sender.acknowledged) > before, WAIT_S, "stored again")
    except Late as late:
        story.violations.append(str(late))
    story.stored_again_s = time.monotonic() - good_at
    return good_at


def _settle(keeper: Keeper, story: Story) -> None:
    """Wait until everything that was stored is exported."""
    product = keeper.daemons

    def quiet() -> bool:
        keeper.look()
        spool = product.data / "spool"
        return not any(any((spool / folder).iterdir()) for folder in ("new", "active"))

    try:
        wait_for(quiet, WAIT_S, "everything is exported")
        product.settled(60)
    except Late as late:
        story.violations.append(str(late))


def emergency_row(scratch: Path, bad: str) -> Row:
    """F53: ext4 meets an error and turns read-only under open files; an administrator repairs it; nothing is lost.

    The kernel permits no write after that before the file system was unmounted and checked, and no unmounting while
    files are open: here, and nowhere else, a human has to act, and stops and starts the daemons meanwhile.
    """
    story = Story()
    data = scratch / "data"
    points = {"spool": data / "spool", "output": scratch / "media", "ledger": data, "everything": data}
    data.mkdir(parents=True)
    with breakable_disk(scratch / "ext4.img", points[bad]) as ext4:
        media = data / "media" if bad == "everything" else scratch / "media"
        where = ProductPaths(data, media, (data if bad == "everything" else scratch) / "metadata.jsonl", ext4.mount)
        if bad == "ledger":
            (scratch / "spool").mkdir(mode=0o700)
            (data / "spool").symlink_to(scratch / "spool")
        with daemons(data, scratch / "logs", extra=where.settings(NO_MARKS)) as product:
            product.start("run")
            product.start("listener")
            keeper = Keeper(product)
            sender = Pynetdicom(product.port, pause_s=0.02)
            sender.start()
            try:
                repaired_at = _break_and_repair(keeper, where, sender, ext4, story)
            finally:
                sender.stop.set()
                sender.join(60)
            _settle(keeper, story)
            story.settled_s = time.monotonic() - repaired_at
            story.restarts = keeper.restarts
            story.violations += product.reconciled()
            for name in ("run", "listener"):
                product.stop(name)
        story.acknowledged, story.refused = len(sender.acknowledged), sender.refused
        story.violations += check_settled(data, sender.acknowledged, media=media, metadata=where.metadata)
    odd = set(story.refused) - {"0xA700", "no answer"}  # no answer: the administrator stopped the listener
    story.violations += [f"refused with {sorted(odd)} instead of 0xA700"] * bool(odd)
    return Row("F53 turned read-only by an error", bad, 1, tuple(story.violations), story.figure)


def _break_and_repair(keeper: Keeper, where: ProductPaths, sender: Pynetdicom, ext4: Disk, story: Story) -> float:
    """The error, six seconds of trouble, and the repair; when the daemons were started again."""
    lines, product = where.metadata, keeper.daemons
    wait_for(lambda: len(sender.acknowledged) > 20 and lines.is_file() and lines.stat().st_size, 60, "it runs")
    ext4.fail()
    until = time.monotonic() + 6
    while time.monotonic() < until:
        keeper.look()
        time.sleep(0.1)
    check_visible(where.data, story.violations, media=where.media, metadata=where.metadata)
    for name in ("run", "listener"):
        if product.processes[name].poll() is not None:
            continue  # ended loudly, and would be started again
        code = product.stop(name)
        if code != 0 and not (name == "run" and where.data == ext4.mount):  # without a ledger an exporter cannot run
            story.violations.append(f"{name} ended with {code} on a disk that is read-only")
    ext4.repair()
    check_visible(where.data, story.violations, media=where.media, metadata=where.metadata)
    before, repaired_at = len(sender.acknowledged), time.monotonic()
    for name in ("run", "listener"):
        product.start(name, wait=False)
    try:
        wait_for(lambda: keeper.look() or len(sender.acknowledged) > before, WAIT_S, "stored again")
    except Late as late:
        story.violations.append(str(late))
    story.stored_again_s = time.monotonic() - repaired_at
    return repaired_at


def rows(scratch: Path, _: Scale) -> Iterator[Row]:
    """Every part of the product on a bad disk, one after another."""
    five, four = ("spool", "output", "ledger", "lines", "everything"), ("spool", "output", "ledger", "everything")
    for what, spoil, options, marks, parts in (
        ("disk full", no_space, "size=12m", NO_MARKS, five),
        ("disk below its marks", little_space, "size=16m", MARKS, five),
        ("inodes full", no_inodes, "size=32m,nr_inodes=2000", NO_MARKS, four),
        ("inodes below their marks", few_inodes, "size=32m,nr_inodes=2000", MARKS, four),
        ("read-only remount", read_only, "size=32m", NO_MARKS, four),
    ):
        for bad in parts:
            at = scratch / f"{what}-{bad}".replace(" ", "-").replace(",", "")
            at.mkdir(parents=True)
            yield attempt(f"F50-F53 {what}", bad, partial(row, at, bad, what, spoil, options, marks))
    for bad in four:
        at = scratch / f"error-{bad}"
        at.mkdir(parents=True)
        yield attempt("F53 turned read-only by an error", bad, partial(emergency_row, at, bad))
