"""The proof that every instance is accounted for: spool, ledger, media and metadata lines agree, or it says where not.

Contract: looks only; works on a data folder whose exporter runs or does not, and on a backfill's output folder. What
an interrupted exporter repairs at its next start is a note, not a fault. While one runs, things move under the eye:
a fault counts only when it is still there on another look.

What is proved (`ReconcileFault.kind` in brackets):

- every file of the spool is in one folder, and that folder fits its state in the ledger (`two_places`, `two_states`);
- every instance that is not exported or skipped has its bytes (`lost`);
- every medium the ledger knows is there with its size, as a file or in a shard, with `deep` its SHA-256 (`no_medium`,
  `other_medium`);
- every file below the media folder, and every member of a shard, belongs to an instance (`no_owner`);
- ``metadata.jsonl`` has every line of the ledger, in order, byte by byte (`damaged_lines`); every exported instance has
  one, and its newest says what the ledger says (`no_line`, `other_line`);
- the numbers that the ledger keeps are those of its rows (`miscounted`);
- the database itself is sound (`damaged_ledger`).

Must never: change anything, or hold what grows with the number of instances (faults are counted, and listed up to
`MOST_LISTED`).
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.outcome import MediaType
from exporter.results.intents import pending
from exporter.results.ledger import InstanceStatus, Ledger
from exporter.results.line import fs_name, shown
from exporter.results.metadata.inspection import inspect
from exporter.results.metadata.rotation import FACTS, START, is_rotated
from exporter.results.output_names import PARTIAL
from exporter.results.stores.shard_reading import MediaReader, MediumDamaged
from exporter.results.stores.shards import is_shard
from listener.foundation import locks
from listener.foundation.file_kind import kind_of
from listener.spool import view
from listener.spool.names import SpoolState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.outcome import MediaFile
    from exporter.results.ledger import InstanceRow
    from exporter.results.stores.shard_reading import ShardMedium

MOST_LISTED: Final = 1000
"""Faults that are listed one by one."""
LOOKS: Final = 3
"""Number of looks at a running exporter's folder before a fault counts."""
PAUSE_S: Final = 1.0
"""Time between two looks: longer than any step between renaming media and committing them takes."""


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders that belong together."""

    ledger: Path
    media: Path
    metadata: Path
    spool: Path | None = None
    """None for a backfill."""
    others: tuple[Path, ...] = ()
    """Files and folders of ours that may lie in the media folder, and are no media of these instances."""


@dataclass(frozen=True, slots=True)
class ReconcileFault:
    """One thing that is not as it must be."""

    kind: str
    subject: str
    """Name of the instance, or path below the media folder; never a value of a data set."""
    message: str


@dataclass(slots=True)
class ReconcileReport:
    """Counts of things checked, and findings."""

    instances: dict[str, int] = field(default_factory=dict)
    """Instances of the ledger by state."""
    waiting: int = 0
    """Spool files nobody has begun."""
    refused: int = 0
    """Spool files that the listener put into quarantine."""
    media: int = 0
    media_bytes: int = 0
    lines: int = 0
    """Lines of ours in the metadata file; those in rotated files are not counted."""
    foreign_bytes: int = 0
    """Bytes of the metadata file that are whole lines of others."""
    notes: Counter[str] = field(default_factory=Counter)
    """Repairs that the next start of an exporter will do, as sentences."""
    faults: list[ReconcileFault] = field(default_factory=list)
    fault_count: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether everything is accounted for."""
        return self.fault_count == 0

    def fault(self, kind: str, subject: str, message: str) -> None:
        """Count a fault, and list it while there is room."""
        self.fault_count += 1
        if len(self.faults) < MOST_LISTED:
            self.faults.append(ReconcileFault(kind, subject, message))


def reconcile(folders: Folders, *, deep: bool = False) -> ReconcileReport:
    """Look at everything and compare.

    Args:
        folders: What belongs together.
        deep: Whether to read every medium and compare its SHA-256, and check every page of the database.

    Raises:
        LedgerUnusable: The ledger cannot be read at all.
    """
    report = _look(folders, deep=deep)
    looks = 1
    while report.fault_count and looks < LOOKS and locks.is_held(locks.lock_file_of(folders.ledger)):
        time.sleep(PAUSE_S)
        before = {(fault.kind, fault.subject) for fault in report.faults}
        report = _look(folders, deep=deep)
        looks += 1
        if report.fault_count <= MOST_LISTED:
            report.faults = [fault for fault in report.faults if (fault.kind, fault.subject) in before]
            report.fault_count = len(report.faults)
    return report


def _look(folders: Folders, *, deep: bool) -> ReconcileReport:
    report = ReconcileReport()
    with Ledger.open_read_only(folders.ledger) as ledger, MediaReader(folders.media) as media_reader:
        problem = ledger.problem() if deep else None
        if problem is not None:
            report.fault("damaged_ledger", folders.ledger.name, problem)
            return report
        if folders.spool is not None:
            _spool_files(folders.spool, ledger, report)
        states: Counter[str] = Counter()
        last_line = _lines(folders.metadata, ledger, report)
        for entry in ledger.entries():
            states[entry.state] += 1
            if entry.source == "spool":
                _has_bytes(entry, folders.spool, report)
            media = ledger.media(entry.name)
            if entry.state is InstanceStatus.EXPORTED and not media:
                report.fault("no_medium", shown(entry.name), "it is exported, but owns no medium")
            for medium in media:
                _medium_is_there(entry, medium, media_reader, folders.media, report, deep=deep)
            _line_agrees(entry, media, last_line, ledger, report)
        report.instances = dict(states)
        _owners(folders, ledger, report)
        _members_have_owners(media_reader, ledger, report)
        for counted in ledger.miscounted():
            report.fault("miscounted", counted, "the number that is kept of these instances is not theirs")
    return report


# -- spool -----------------------------------------------------------------------------------------------------------

_PENDING: Final = frozenset((InstanceStatus.ACTIVE, InstanceStatus.DEFERRED))
_DONE: Final = frozenset((InstanceStatus.EXPORTED, InstanceStatus.SKIPPED))


def _spool_files(spool: Path, ledger: Ledger, report: ReconcileReport) -> None:
    for state in view.COMMITTED:
        for name in view.entries(spool, state):
            _file_fits(state, name, ledger.entry(name), report)
    for reason in view.reasons(spool):
        for name in view.entries(spool, SpoolState.QUARANTINE, reason):
            entry = ledger.entry(name)
            if view.find(spool, name, view.COMMITTED) is not None:
                report.fault("two_places", name, "its file is in quarantine and elsewhere in the spool")
            elif entry is None:
                report.refused += 1
            elif entry.state is not InstanceStatus.QUARANTINED:
                hint = "; `exporter failures retry` it again" if entry.state in _PENDING else ""
                report.fault("two_states", name, f"its file is in quarantine, the ledger says {entry.state}{hint}")
            elif entry.reason != reason:
                report.fault("two_states", name, f"its file is in quarantine/{reason}, the ledger says {entry.reason}")


def _file_fits(state: SpoolState, name: str, entry: InstanceRow | None, report: ReconcileReport) -> None:
    if state is SpoolState.DONE:
        if entry is None or entry.state not in _DONE:
            said = "does not know it" if entry is None else f"says {entry.state}"
            report.fault("two_states", name, f"its file is in done/, the ledger {said}")
    elif entry is None:
        report.waiting += 1
    elif entry.state not in _PENDING:
        report.notes["files of finished instances wait to leave the spool"] += 1


def _has_bytes(entry: InstanceRow, spool: Path | None, report: ReconcileReport) -> None:
    if spool is None or entry.state in _DONE:
        return
    states = view.WAITING if entry.state in _PENDING else (*view.WAITING, SpoolState.QUARANTINE)
    # Twice: an item that is put back between two looks moves from the second folder to the first.
    if view.find(spool, entry.name, (*states, *states), str(entry.reason)) is None:
        report.fault("lost", entry.name, f"the ledger says {entry.state}, but its file is not in the spool")


# -- media -----------------------------------------------------------------------------------------------------------


def _medium_is_there(
    entry: InstanceRow, medium: MediaFile, reader: MediaReader, media: Path, report: ReconcileReport, *, deep: bool
) -> None:
    fault = _fault_of_file(media / medium.file, medium, deep=deep)
    if fault is not None and (in_shards := _in_shards(reader, medium, looks_again=fault[0] == "no_medium")) is not None:
        fault = _fault_in_shards(reader, in_shards, medium, deep=deep)
    if fault is None:
        report.media += 1
        report.media_bytes += medium.bytes
    elif entry.state in _PENDING:
        report.notes["media of instances that are exported anew"] += 1
    else:
        report.fault(fault[0], shown(medium.file), fault[1])


def _fault_of_file(path: Path, medium: MediaFile, *, deep: bool) -> tuple[str, str] | None:
    """Kind and sentence of what is wrong with a medium that is a file or folder; None if nothing is."""
    size, digest = 0, None
    if medium.suffix.endswith("/"):
        if not path.is_dir():
            return "no_medium", "its folder is not there"
        size, digest = _folder_facts(path, deep=deep)
    else:
        try:
            status = path.lstat()
        except OSError:
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            return "no_medium", "its file is not there"
        size, digest = status.st_size, _sha256(path) if deep else None
    return _fault_of_facts(medium, size, digest if deep else medium.sha256)


def _fault_of_facts(medium: MediaFile, size: int, digest: str | None) -> tuple[str, str] | None:
    if size != medium.bytes:
        return "other_medium", f"it has {size} bytes, the ledger says {medium.bytes}"
    if digest != medium.sha256:
        return "other_medium", "its SHA-256 is not the one in the ledger"
    return None


def _in_shards(reader: MediaReader, medium: MediaFile, *, looks_again: bool) -> ShardMedium | None:
    """A medium as members of shards; its file may have been moved into one while we look."""
    path = shown(medium.file)
    found = reader.in_shards(path)
    if found is None and looks_again and reader.has_grown():
        reader.reload()
        found = reader.in_shards(path)
    return found


def _fault_in_shards(
    reader: MediaReader, found: ShardMedium, medium: MediaFile, *, deep: bool
) -> tuple[str, str] | None:
    """Kind and sentence of what is wrong with a medium in shards; None if nothing is."""
    fault = _fault_of_facts(medium, found.bytes, found.sha256)
    if fault is None and not deep and not reader.is_present(found):
        return "no_medium", f"shard {found.members[0].shard} is not there, or too short to hold it"
    if fault is None and deep:
        try:
            for entry in found.members:
                deque(reader.read(entry), maxlen=0)
        except MediumDamaged as error:
            return "other_medium", str(error)
    return fault


def _members_have_owners(reader: MediaReader, ledger: Ledger, report: ReconcileReport) -> None:
    """Look for members of shards that no instance owns."""
    for entry in reader.entries():
        if entry.path is not None and not (ledger.owns(entry.path) or ledger.owns(fs_name(entry.path))):
            report.fault("no_owner", entry.path, f"no instance owns this member of shard {entry.shard}")


def _folder_facts(folder: Path, *, deep: bool) -> tuple[int, str | None]:
    r"""Bytes of a folder's files, and the SHA-256 of their sorted lines ``<sha256>  <name>\n``."""
    size, lines = 0, []
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = sorted(os.listdir(folder))  # noqa: PTH208 - names only
    for name in names:
        size += (folder / name).lstat().st_size
        if deep:
            lines.append(f"{_sha256(folder / name)}  {name}\n")
    return size, hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest() if deep else None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _owners(folders: Folders, ledger: Ledger, report: ReconcileReport) -> None:
    """Look for files below the media folder that no instance owns."""
    under_way = set(_under_way(folders.media))
    ours = _ours_below(folders)
    for path in _files_below(folders.media):
        if not path.startswith(ours) and not is_shard(path) and not ledger.owns(path):
            if any(path == target or path.startswith(f"{target}/") for target in under_way):
                report.notes["media that were renamed and not committed"] += 1
            else:
                report.fault("no_owner", shown(path), "no instance owns this file")


def _ours_below(folders: Folders) -> tuple[str, ...]:
    """Beginnings of our own files where they lie in the media folder: ledger, metadata, and what goes with them."""
    media = folders.media.resolve()
    files = [path.resolve() for path in (folders.ledger, folders.metadata, *folders.others)]
    return tuple(str(file.relative_to(media)) for file in files if file.is_relative_to(media))


def _files_below(media: Path) -> Iterator[str]:
    """Files below the media folder, relative to it, without those in work; links are not followed."""
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            entries = list(os.scandir(media / folder))
        except FileNotFoundError:
            continue
        for entry in entries:
            path = f"{folder}{entry.name}"
            if path == PARTIAL:
                continue
            if entry.is_dir(follow_symlinks=False):
                pending.append(f"{path}/")
            else:
                yield path


def _under_way(media: Path) -> Iterator[str]:
    """Final names that are noted beside partial files: `exporter.results.publish` makes the note before it renames."""
    for promise in pending(media):
        yield from (target.rstrip("/") for target in promise.targets)


# -- lines -----------------------------------------------------------------------------------------------------------


def _lines(metadata: Path, ledger: Ledger, report: ReconcileReport) -> int:
    """Compare the metadata file with the ledger; the last line that is in its place."""
    progress = ledger.progress()
    published, start = progress.get("published_seq", 0), progress.get(START, 0)
    seen = {key: progress[key] for key in FACTS if key in progress}
    if seen and is_rotated(metadata, seen):
        report.notes["the metadata file was rotated; the exporter goes on in a new one"] += 1
        return published
    try:
        mode = metadata.stat().st_mode
        if not stat.S_ISREG(mode):
            report.fault("damaged_lines", metadata.name, f"it is {kind_of(mode)}; the exporter refuses to start")
            return 0
        file = metadata.open("rb")
    except FileNotFoundError:
        if published > start:
            report.fault("damaged_lines", metadata.name, "the file is gone; the exporter makes it anew when it starts")
        return start
    with file:
        finding = inspect(
            file,
            ledger.line_places(start),
            start=(start, 0),
            foreign=ledger.foreign_bytes(),
            published_seq=published,
            repeats=lambda: lambda _: False,
        )
    report.lines = finding.seq - start
    report.foreign_bytes = sum(length for _, length, _ in finding.foreign)
    if finding.seq < published:
        message = f"line {finding.seq - start + 1} of {published - start} is not there or not as it was written"
        report.fault("damaged_lines", metadata.name, f"{message}; the exporter mends it when it starts")
    elif finding.end < finding.size:
        report.notes["bytes behind the last metadata line"] += finding.size - finding.end
    return finding.seq


def _line_agrees(
    entry: InstanceRow, media: tuple[MediaFile, ...], last_line: int, ledger: Ledger, report: ReconcileReport
) -> None:
    """Whether the newest line of an instance says what the ledger says."""
    name = shown(entry.name)
    if entry.line_seq is None:
        if entry.state is InstanceStatus.EXPORTED or (
            entry.state is InstanceStatus.SKIPPED and entry.reason == "no_media"
        ):
            report.fault("no_line", name, f"it is {entry.state}, but has no metadata line")
        return
    if entry.line_seq > last_line:
        report.notes["metadata lines that wait to be written to the file"] += 1
    line = ledger.line(entry.line_seq)
    if line is None:
        report.fault("no_line", name, "the ledger does not have its metadata line")
        return
    try:
        said = orjson.loads(line)
    except orjson.JSONDecodeError:
        report.fault("other_line", name, "its metadata line is not JSON")
        return
    if not _says(said, name, media):
        report.fault("other_line", name, "its metadata line does not say what the ledger says")


def _says(said: Any, name: str, media: tuple[MediaFile, ...]) -> bool:
    try:
        listed = [(one["path"], one["sha256"], one["bytes"]) for one in said["export"]["media"]]
        kind = media[0].kind if media else MediaType.NONE
        return (
            said["dicom_file"] == name
            and listed == [(shown(one.file), one.sha256, one.bytes) for one in media]
            and said["media_file"] == (listed[0][0] if listed else None)
            and said["media_type"] == kind
        )
    except (LookupError, TypeError):
        return False
