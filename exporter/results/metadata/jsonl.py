"""``metadata.jsonl``: every line the ledger committed, in order, exactly once.

Contract: the file is a projection of the ledger and can be made anew from it. Lines are appended whole, by one process
(a lock says so), and fsynced before the ledger remembers them. Whatever happens to the file - a torn tail after a
crash, damage, truncation, rotation, deletion, lines of others - the appender notices before it writes, says so in the
log, keeps what it must remove as ``<file>.kept-<time>``, and goes on so that no line is missing and none is doubled.
It must never write a line twice, never leave a torn line behind an error, and never delete bytes it did not keep.

After a rotation (`exporter.results.metadata.rotation`) the new file begins with the line that follows the old one's
last. A file that is gone or damaged is no rotation: its lines, from where it began, are written anew.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
import time
import zlib
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, Self

import structlog

from exporter.errors import MachineCondition, OutOfSpace, StorageUnavailable
from exporter.results.ledger import LedgerUnusable
from exporter.results.line import is_line
from exporter.results.metadata.inspection import Finding, inspect
from exporter.results.metadata.rotation import FACTS, START, facts, is_rotated
from listener.foundation import locks
from listener.foundation.disk import is_gone, is_out_of_space, is_too_large
from listener.foundation.durable import fsync_folder
from listener.foundation.errors import Unusable
from listener.foundation.file_kind import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from exporter.results.ledger import Ledger

_TAIL = 1000
"""Lines at the end of the file that are looked at after a crash; those before were fsynced long ago."""


class MetadataFileUnusable(Unusable):
    """The metadata file cannot be used."""

    def __init__(self, path: Path, cause: str, hint: str) -> None:
        super().__init__(f"metadata file {path}", cause, hint)
        self.path = path


class Appender:
    """The only writer of a metadata file."""

    def __init__(self, path: Path, ledger: Ledger, *, append: bool = False) -> None:
        """Open the file, made if absent, and bring it into agreement with the ledger.

        Args:
            path: The metadata file.
            ledger: Whose lines it gets.
            append: Whether lines may follow those of a file that this ledger did not write.

        Raises:
            MetadataFileUnusable: Another exporter appends to it, it is not permitted, or it holds other lines and
                `append` is false.
            OutOfSpace: The disk is full.
            LedgerUnusable: The ledger cannot be read or written.
        """
        self.path = path
        self._ledger = ledger
        self._append_permitted = append
        self._publishing = threading.Lock()
        self._file = -1
        self._lock = -1
        progress = ledger.progress()
        self._foreign = tuple(ledger.foreign_bytes())
        self._seq = progress.get("published_seq", 0)
        self._start = progress.get(START, 0)
        """The last line that is in a rotated file; ours begins with the next."""
        self._end = self._place(self._seq) + sum(length for _, length, _ in self._foreign)
        self._seen: dict[str, int] = {key: progress[key] for key in FACTS if key in progress}
        """State of the file after our last write; empty when this ledger never had a file."""
        try:
            self._lock = _take_lock(path)
            self._refresh()
        except BaseException:
            self.close()
            raise

    def publish(self) -> int:
        """Write every line that was committed before this call; safe from many threads.

        Returns:
            Number of lines that this call wrote.

        Raises:
            OutOfSpace: The disk is full; nothing is torn, and a later call goes on.
            StorageUnavailable: The folder of the file is gone; the lines stay in the ledger, and a later call goes on.
            MetadataFileUnusable: The file cannot be read or written.
            LedgerUnusable: The ledger cannot be read or written.
        """
        written = 0
        with self._publishing:
            self._refresh()
            while lines := self._ledger.outbox(self._seq):
                self._write(b"".join(line.text for line in lines))
                self._seq = lines[-1].seq
                self._seen = facts(os.fstat(self._file))
                self._ledger.mark_published(self._seq, self._seen)
                written += len(lines)
        return written

    def close(self) -> None:
        """Let go of the file and its lock; lines that were not published stay in the ledger."""
        with self._publishing:
            if self._file >= 0:
                with suppress(LedgerUnusable, MachineCondition):  # the file itself tells the next one what is in it
                    self._ledger.wait()
            for descriptor in (self._file, self._lock):
                if descriptor >= 0:
                    os.close(descriptor)
            self._file = self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, text: bytes) -> None:
        """Append whole lines and make them durable, or leave the file as it was."""
        rest = memoryview(text)
        try:
            while rest:  # where space ends the kernel takes a part, without an error
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            # After a failed fsync nobody knows what reached the disk: these bytes are cut and written again. Should
            # the cut fail too, the next call finds a size it does not know and mends it.
            with suppress(OSError):
                os.ftruncate(self._file, self._end)
                self._seen = facts(os.fstat(self._file))
            raise self._verdict("lines cannot be appended", error) from error
        self._end += len(text)

    def _refresh(self) -> None:
        """Make sure that the file is as we left it; otherwise find out what is in it, and mend it."""
        try:
            self._refuse_what_is_no_file()
            now = self._look()
            if now == self._seen and now.get("size") == self._end:
                if self._file < 0:
                    self._reopen()
                return
            if self._seen.get("size") == self._end and is_rotated(self.path, self._seen, descriptor=self._file):
                structlog.get_logger().info("metadata file was rotated: a new one goes on", file=self.path.name)
                self._begin(self._seq)
            elif not now:
                if self._seen:
                    _warn("metadata file is gone: it is written anew from the ledger", self.path)
                self._begin(self._start)
            else:
                # A crash leaves more in the file than the ledger heard of; whatever else it is, all of it is in doubt.
                same = all(now[key] == self._seen.get(key) for key in ("device", "inode"))
                crashed = self._file < 0 and same and now["size"] > self._end
                self._reopen()
                self._mend(tail_only=crashed)
        except OSError as error:
            raise self._verdict("it cannot be opened, examined or made", error) from error

    def _refuse_what_is_no_file(self) -> None:
        """Make sure that a regular file is at the path, or nothing: a pipe would wait for a reader when it is opened.

        Raises:
            MetadataFileUnusable: It is something else.
            OSError: It cannot be looked at.
        """
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            hint = "move it away, or choose another with `metadata.file`; lines need a regular file"
            raise MetadataFileUnusable(self.path, f"it is {kind_of(mode)}", hint)

    def _look(self) -> dict[str, int]:
        """State of the file; empty if absent."""
        try:
            return facts(self.path.stat())
        except FileNotFoundError:
            return {}

    def _begin(self, seq: int) -> None:
        """Begin a file with the line after `seq`."""
        self._reopen()
        fsync_folder(self.path.parent)
        self._start = seq
        self._settle(Finding(seq, 0, (), 0))

    def _place(self, seq: int) -> int:
        """Offset of the end of line `seq` in the file, in bytes, lines of others not counted."""
        return self._ledger.line_end(seq) - self._ledger.line_end(self._start)

    def _mend(self, *, tail_only: bool) -> None:
        """Find out what is in the file, and cut what must not stay."""
        with self.path.open("rb") as file:
            tail = max(self._start, self._seq - _TAIL)
            finding = self._inspect(file, tail) if tail_only and not self._foreign else None
            if finding is None or finding.seq < self._seq:
                finding = self._inspect(file, self._start)
            if finding.seq == self._start > 0 and finding.size:
                finding = self._joined(file) or finding
            if not self._seen and finding.size:
                self._check_first_file(file, finding)
            if finding.end < finding.size:
                self._cut(file, finding)
        if finding.seq < self._seq:
            _warn("metadata file is damaged: lines are written anew", self.path, lines=self._seq - finding.seq)
        if len(finding.foreign) > len(self._foreign):
            self._tell_of_foreign(finding)
        os.fsync(self._file)
        self._settle(finding)

    def _tell_of_foreign(self, finding: Finding) -> None:
        """Say that whole lines which the ledger does not know are in the file, and stay.

        Lines are in the ledger before they are in the file: those that look like ours were lost there, by harm to its
        log or an old copy of it.
        """
        length = finding.foreign[-1][1]
        with self.path.open("rb") as file:
            file.seek(finding.end - length)
            first = file.readline()
        if self._seen and is_line(first):
            structlog.get_logger().error(
                "the ledger has lost lines that the metadata file has: they stay",
                file=self.path.name,
                bytes=length,
                hint="stop the exporter and run `exporter reconcile --rebuild`",
            )
        else:
            _warn("metadata file has lines of others: they stay", self.path, bytes=length)

    def _joined(self, file: BinaryIO) -> Finding | None:
        """Contents of a file in which somebody put rotated files and the present one together again."""
        start, foreign, self._start, self._foreign = self._start, self._foreign, 0, ()
        finding = self._inspect(file, 0)
        if finding.seq >= self._seq:
            return finding
        self._start, self._foreign = start, foreign
        return None

    def _inspect(self, file: BinaryIO, seq: int) -> Finding:
        return inspect(
            file,
            self._ledger.line_places(seq),
            start=(seq, self._place(seq)),
            foreign=self._foreign,
            published_seq=self._seq,
            repeats=self._repeats,
        )

    def _check_first_file(self, file: BinaryIO, finding: Finding) -> None:
        """Whether a file that this ledger never had may be taken.

        Raises:
            MetadataFileUnusable: It may not.
        """
        if not self._append_permitted:
            hint = "move it away, permit metadata.append, or run `exporter reconcile --rebuild` if the ledger was lost"
            raise MetadataFileUnusable(self.path, "it has lines that this ledger did not write", hint)
        file.seek(finding.end)
        if any(b"\n" in part for part in iter(lambda: file.read(1 << 20), b"")):
            hint = "choose another file; metadata.append is for files of JSON lines"
            raise MetadataFileUnusable(self.path, "it is not a file of JSON lines", hint)

    def _cut(self, file: BinaryIO, finding: Finding) -> None:
        """Move what follows the finding's end into a file of its own."""
        kept = self.path.with_name(f"{self.path.name}.kept-{time.time_ns()}")
        file.seek(finding.end)
        with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as target:
            shutil.copyfileobj(file, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        fsync_folder(self.path.parent)
        os.ftruncate(self._file, finding.end)
        removed = finding.size - finding.end
        _warn("metadata file had bytes that are no line of the ledger: moved", self.path, bytes=removed, kept=kept.name)

    def _settle(self, finding: Finding) -> None:
        self._seq, self._end, self._foreign = finding.seq, finding.end, finding.foreign
        self._seen = facts(os.fstat(self._file))
        self._ledger.set_file(self._seq, {**self._seen, START: self._start}, self._foreign)

    def _repeats(self) -> Callable[[bytes], bool]:
        known = {(length << 32) | crc32 for _, length, crc32 in self._ledger.line_places()}
        return lambda text: ((len(text) << 32) | zlib.crc32(text)) in known

    def _reopen(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _verdict(self, what: str, error: OSError) -> MachineCondition | MetadataFileUnusable:
        if is_out_of_space(error) or is_too_large(error):  # lines wait in the ledger until it passes
            return OutOfSpace(f"metadata file {self.path}: the disk or quota is full, or read-only")
        if is_gone(error):
            return StorageUnavailable(f"metadata file {self.path}: {what}", error)
        hint = "check that its folder exists, who may write in it, and the disk"
        return MetadataFileUnusable(self.path, f"{what} ({error.strerror or type(error).__name__})", hint)


def _warn(event: str, path: Path, **facts: int | str) -> None:
    structlog.get_logger().warning(event, file=path.name, **facts)


def _take_lock(path: Path) -> int:
    busy = ("another exporter appends to it", "wait for it to end, or choose another file")
    return locks.lock(path, busy, partial(MetadataFileUnusable, path))
