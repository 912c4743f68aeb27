"""A lost or damaged ledger made anew from what it described: metadata lines, media and the spool's quarantine.

Contract: the old database is moved aside, never deleted. Every line of ``metadata.jsonl`` that is ours, and before it
those of rotated files that lie beside it, becomes the instance it tells of, byte by byte the same line; lines of
others keep their place. Quarantined spool files become quarantined instances; files that wait in the spool need no
ledger. What cannot be known any more is not invented: failures and skips of a backfill, and sizes and times of its
inputs, so that a rerun exports those anew under the same names, without a second line where nothing changed; and what
became of a kept spool file that no line tells of, so that it waits again. Run `exporter.results.reconcile` afterwards.

Must never: run beside an exporter, change the metadata file beyond cutting a torn tail (kept), touch media, or delete
anything.
"""

from __future__ import annotations

import lzma
import time
import zlib
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.errors import Reason, SkipReason
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Skipped
from exporter.results.deidentification import RecordedDeidentification
from exporter.results.ledger import Completed, DuplicateCheck, InstanceStatus, Ledger, WorkItem
from exporter.results.line import WITHDRAWN, fs_name, rejects_of
from exporter.results.metadata.dicom_json import text_in
from exporter.results.metadata.inspection import MOST_LINE_BYTES
from exporter.results.metadata.jsonl import Appender, MetadataFileUnusable
from exporter.results.metadata.rotation import START, open_rotated, rotated_files
from listener.spool import view
from listener.spool.names import NAME, SpoolState
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.results.ledger.types import Source
    from exporter.results.reconcile import Folders

_BATCH: Final = 1000


@dataclass(slots=True)
class Rebuilt:
    """Sources of a new ledger."""

    kept: Path | None
    """Path of the old database now."""
    lines: int = 0
    rotated: int = 0
    """Lines among them that are in rotated files."""
    foreign_bytes: int = 0
    """Bytes of the metadata file that are whole lines of others."""
    quarantined: int = 0
    waiting_again: int = 0
    """Kept spool files that no line tells of."""


@dataclass(slots=True)
class _Replay:
    """The lines of ours that were read and are not yet in the ledger, and what lies between them."""

    ledger: Ledger
    completed: dict[str, Completed] = field(default_factory=dict)
    """By name."""
    lines: int = 0
    foreign: list[tuple[int, int, int]] = field(default_factory=list)
    recorded: RecordedDeidentification = field(default_factory=RecordedDeidentification)

    def add(self, completed: Completed) -> None:
        if completed.work.name in self.completed or len(self.completed) >= _BATCH:
            self.flush()  # a later line of the same input begins after the earlier one has ended
        self.completed[completed.work.name] = completed
        self.lines += 1

    def add_foreign(self, text: bytes) -> None:
        before = self.lines + 1
        length, crc32 = 0, 0
        if self.foreign and self.foreign[-1][0] == before:
            _, length, crc32 = self.foreign.pop()
        self.foreign.append((before, length + len(text), zlib.crc32(text, crc32)))

    def flush(self) -> None:
        works = [one.work for one in self.completed.values()]
        begun = self.ledger.begin_many(works)
        again = [
            replace(work, source="folder")
            for work, entry in zip(works, begun, strict=True)
            if entry.state is not InstanceStatus.ACTIVE
        ]  # a spool name that comes twice
        self.ledger.begin_many(again)
        for one in self.completed.values():
            if isinstance(one.outcome, Exported | Skipped) and one.outcome.rejects is not None:
                self.ledger.record_rejections(one.work.name, one.outcome.rejects)
        paths = self.ledger.finish_many(self.completed.values())
        self.ledger.forget_superseded(paths)  # deleted long ago, by the exporter that superseded them
        self.completed = {}


def rebuild(folders: Folders) -> Rebuilt:
    """Make the ledger of these folders anew.

    Raises:
        LedgerUnusable: An exporter is running, or the new database cannot be written.
        MetadataFileUnusable: The metadata file cannot be read.
        OutOfSpace: The disk is full.
    """
    with Ledger.locked(folders.ledger):
        rebuilt = Rebuilt(_set_aside(folders.ledger))
        with Ledger.open(folders.ledger, exclusive=False) as ledger:
            replay = _Replay(ledger)
            rebuilt.rotated = _replay_rotated(folders, ledger, replay.recorded)
            replay.lines = rebuilt.rotated
            has_file = folders.metadata.is_file()
            if has_file:
                _replay_lines(folders, replay)
            replay.recorded.restore(ledger)
            ledger.set_file(replay.lines, {START: rebuilt.rotated}, replay.foreign)
            rebuilt.quarantined = _replay_quarantine(folders.spool, ledger)
            rebuilt.waiting_again = _wait_again(folders.spool, ledger)
            if has_file:
                Appender(folders.metadata, ledger, append=True).close()  # checks every line, and cuts a torn tail
    rebuilt.lines = replay.lines
    rebuilt.foreign_bytes = sum(length for _, length, _ in replay.foreign)
    return rebuilt


def prospect(folders: Folders) -> str:
    """Description of what `rebuild` would do, as the end of a sentence about a damaged ledger; read-only."""
    lines = _count_lines(folders.metadata)
    rotated = len(rotated_files(folders.metadata))
    parts = [f"{lines} lines of {folders.metadata.name}"]
    if rotated:
        parts.append(f"the lines of {rotated} rotated files")
    stays = "what failed or was skipped is looked at again"
    if folders.spool is not None:
        parts.append(f"{sum(1 for _ in _quarantined(folders.spool))} files in quarantine")
        waiting = sum(len(view.entries(folders.spool, state)) for state in view.WAITING)
        stays = f"the {waiting} files that wait in the spool stay and are exported then"
    return (
        "starting again does not mend it. Stop the exporter and run `exporter reconcile --rebuild`: it keeps the"
        f" damaged database under another name and makes a new one of {', '.join(parts)}; {stays}; no media is touched"
        " and no line is written twice"
    )


def _count_lines(path: Path) -> int:
    if not path.is_file():
        return 0
    try:
        with path.open("rb") as file:
            return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return 0


def _set_aside(ledger: Path) -> Path | None:
    """Move the database and its log away, together."""
    stamp = f"lost-{time.time_ns()}"
    for suffix in ("-wal", "-shm"):
        source = Path(f"{ledger}{suffix}")
        if source.exists():
            source.rename(f"{ledger}.{stamp}{suffix}")
    return ledger.rename(f"{ledger}.{stamp}") if ledger.exists() else None


def _replay_rotated(folders: Folders, ledger: Ledger, recorded: RecordedDeidentification) -> int:
    """Replay the lines of rotated files, oldest first.

    Returns:
        Number of lines.

    Raises:
        MetadataFileUnusable: A rotated file cannot be read.
    """
    replay = _Replay(ledger, recorded=recorded)
    for path in rotated_files(folders.metadata):
        try:
            with open_rotated(path) as file:
                while text := file.readline(MOST_LINE_BYTES):
                    read = _read(text, folders, recorded) if text.endswith(b"\n") else None
                    if read is not None:
                        replay.add(read)
        except (OSError, EOFError, lzma.LZMAError) as error:
            cause = f"it cannot be read ({getattr(error, 'strerror', None) or 'damaged'})"
            raise MetadataFileUnusable(path, cause, "mend it, or move it out of the folder") from error
    replay.flush()
    last = deque(ledger.line_places(), maxlen=1)  # a line that two files hold is one line
    return last[0][0] if last else 0


def _replay_lines(folders: Folders, replay: _Replay) -> None:
    with folders.metadata.open("rb") as file:
        while (text := file.readline(MOST_LINE_BYTES)).endswith(b"\n"):
            read = _read(text, folders, replay.recorded)
            if read is None:
                replay.add_foreign(text)
            else:
                replay.add(read)
    replay.flush()


def _read(text: bytes, folders: Folders, recorded: RecordedDeidentification) -> Completed | None:
    """The statements of a line, of which `recorded` keeps those about de-identification; None if it is not ours."""
    try:
        said = orjson.loads(text)
        ours = said["export"]
        name = str(said["dicom_file"])
        source: Source = "spool" if folders.spool is not None and NAME.fullmatch(name) else "folder"
        media = tuple(_medium(one) for one in ours["media"])
        if fs_name(name) != name and not all((folders.media / one.file).exists() for one in media):
            name, media = fs_name(name), tuple(replace(one, file=fs_name(one.file)) for one in media)
        work = WorkItem(name, Path(), 0, 0, source, ae_title=str(ours.get("ae_title") or ""))
        outcome: Exported | Skipped
        identity, source_sha256, settings_sha256 = _identity(said, ours), ours["source_sha256"], ours["settings_sha256"]
        if ours["status"] == "exported":
            outcome = Exported(identity, media, "", source_sha256, settings_sha256, rejects=rejects_of(ours))
        else:
            reason, rejects = SkipReason(ours["reason"]), rejects_of(ours)
            outcome = Skipped(reason, "", identity, source_sha256=source_sha256, rejects=rejects)
        relation = DuplicateCheck(ours["duplicate_of"], ours["conflict_with"])
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError):
        return None
    if ours["status"] != WITHDRAWN:
        recorded.add(work.ae_title, ours.get("privacy"))
    return Completed(work, outcome, relation, settings_sha256=settings_sha256, line=text)


def _identity(said: dict[str, Any], ours: dict[str, Any]) -> InstanceIdentity:
    """The identity that a line states; without a hash of the content the ledger keeps none."""
    content = ours.get("content_sha256") or ""
    tags = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)
    sop_class, sop_instance, study, series = (text_in(said, tag) for tag in tags)
    return InstanceIdentity(sop_class, sop_instance, study, series, str(content))


def _medium(one: dict[str, Any]) -> MediaFile:
    path = str(one["path"])
    return MediaFile(
        file=path,
        suffix=PurePosixPath(path).suffix + ("/" if path.endswith("/") else ""),
        kind=MediaType(one["kind"]),
        bytes=int(one["bytes"]),
        sha256=str(one["sha256"]),
        codec=str(one["codec"]),
        transcoded=bool(one["transcoded"]),
        width=one["width"],
        height=one["height"],
        frames=one["frames"],
        duration_s=one["duration_s"],
    )


def _replay_quarantine(spool: Path | None, ledger: Ledger) -> int:
    number = 0
    if spool is None:
        return 0
    for reason, name in _quarantined(spool):
        path = view.folder(spool, SpoolState.QUARANTINE, reason) / name
        found = path.stat()
        work = WorkItem(name, path, found.st_size, found.st_mtime_ns, "spool")
        if ledger.begin_attempt(work).state is InstanceStatus.ACTIVE:
            message = str(view.report(spool, reason, name).get("message", ""))
            ledger.finish_many([Completed(work, Failed(Reason(reason), message, may_pass=False))])
            number += 1
    return number


def _wait_again(spool: Path | None, ledger: Ledger) -> int:
    """Give kept files without a line back to `new/`: they were skipped, or their lines are lost."""
    if spool is None:
        return 0
    names = [name for name in view.entries(spool, SpoolState.DONE) if ledger.entry(name) is None]
    if names:
        with Spool.open(spool) as opened:
            opened.put_back_kept(names)
    return len(names)


def _quarantined(spool: Path) -> Iterator[tuple[str, str]]:
    """Reason and name of what the exporter, not the listener, put into quarantine."""
    for reason in set(Reason).intersection(view.reasons(spool)):
        yield from ((reason, name) for name in sorted(view.entries(spool, SpoolState.QUARANTINE, reason)))
