"""The instances of a storage folder whose index is lost or is not SQLite: recognised by their content.

Contract: every file at an attachment's place is opened, inflated where it is compressed, and is exactly one of

* a whole instance: anything that may be one, also what is damaged; a worker judges it;
* a header: a sound data set with Rows and Columns and no pixel data at all, as Orthanc keeps one beside each whole
  instance with pixels (`dicom-until-pixel-data`). It is skipped where the whole instance of its SOP Instance UID is
  here or was exported before, and fails where not: then all that is left of an instance is its header;
* a summary in JSON, as Orthanc kept them up to 1.9.0: skipped.

What has been decided once is not opened again. Without the index nothing tells what Orthanc has deleted, nor whether
anything is missing.

Must never: take a header for an instance without pixels, or lose one silently.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from exporter.errors import ExportError, NotDicom, OutOfSpace, SkipInstance, SkipReason, Unreadable
from exporter.inputs.contract import InputEntry
from exporter.inputs.orthanc_storage.attachments import AttachmentFacts
from exporter.inputs.orthanc_storage.orphans import OUTSIDE, files, list_orphans, uuid_at
from exporter.inputs.orthanc_storage.stored import Noticed, readable_together
from exporter.inputs.place import entry_of
from exporter.inputs.walk import FileKind
from exporter.outcome import Failed, InstanceIdentity, Skipped
from exporter.privacy.input_names import InputNames
from exporter.results.ledger import Ledger

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch
    from exporter.inputs.walk import WalkedFile
    from exporter.settings.settings import LimitSettings


class Holds(Enum):
    """Kind of an attachment by its content."""

    WHOLE = "a whole instance, or something that a worker has to judge"
    HEADER = "an instance up to its pixel data"
    SUMMARY = "a summary in JSON"


@dataclass(frozen=True, slots=True)
class Ready:
    """An attachment whose content can be read already: an `InputContent`."""

    path: Path
    attachment: AttachmentFacts

    def readable(self) -> Path:
        """The file, or what it inflated to."""
        return self.path

    def release(self) -> None:
        """Remove the copy, where there is one."""
        self.attachment.release()


class UnindexedReader:
    """An `InputReader` of a storage folder without an index."""

    def __init__(
        self, folder: Path, ledger: Path, limits: LimitSettings, output: Path | None, names: InputNames | None = None
    ) -> None:
        """Read `folder`, an absolute path without links.

        Args:
            folder: The storage folder.
            ledger: Knows what earlier runs have exported.
            limits: Of one instance.
            output: Folder of the list of files that are no attachments; None: they are only counted.
            names: Names of files in that list.
        """
        self._names = names or InputNames()
        self._folder = folder
        self._ledger = ledger
        self._limits = limits
        self._output = output
        self.noticed = Noticed()

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """See `InputReader`."""
        with closing(_Uids()) as uids:
            for found in files(self._folder):
                uuid = uuid_at(found.name)
                if uuid is None or memory.is_done(found.name, found.size_bytes, found.mtime_ns):
                    continue
                entry = self._entry(found, uuid, uids, scratch)
                if entry is not None:
                    yield entry
            yield from self._headers(uids)

    def look_around(self, stop: threading.Event) -> None:
        """Look for files that are no attachments, unless stopped.

        Raises:
            OutOfSpace, MediaFolderUnusable: The list of them cannot be written.
            InputUnusable: The folder cannot be read any more.
        """
        outside = ((found, OUTSIDE) for found in files(self._folder, stop) if uuid_at(found.name) is None)
        counted = list_orphans(outside, self._output, stop, self._names)
        if counted is not None:
            self.noticed.strangers = counted.outside

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self._folder

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`: it has no containers."""
        return iter(())

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        total = 0
        for found in files(self._folder):
            total += uuid_at(found.name) is not None
            if total % 1000 == 0:
                yield total
        yield total

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `InputReader`."""
        with readable_together(self._folder, names, self._limits, scratch) as paths:
            yield paths

    def _entry(self, found: WalkedFile, uuid: str, uids: _Uids, scratch: Scratch) -> InputEntry | None:
        """The entry of one attachment; None for a header, which has to wait."""
        if found.kind is not FileKind.REGULAR:
            told_by_folder = entry_of(found)
            return InputEntry(found.name, found.size_bytes, found.mtime_ns, decided=told_by_folder.decided)
        attachment = AttachmentFacts(uuid, found.path, self._limits, scratch)
        try:
            path = attachment.readable()
        except ExportError as error:
            decided = Failed.of(error)
            return InputEntry(found.name, found.size_bytes, found.mtime_ns, decided=decided)
        holds, uid = look_into(path, self._limits)
        if holds is Holds.WHOLE:
            uids.add_whole(uid)
            return InputEntry(found.name, found.size_bytes, found.mtime_ns, Ready(path, attachment))
        attachment.release()
        if holds is Holds.HEADER:
            uids.add_header(found, uid)
            return None
        self.noticed.summaries += 1
        skipped = Skipped(SkipReason.EXCLUDED, "a summary in JSON, as Orthanc kept beside each instance")
        return InputEntry(found.name, found.size_bytes, found.mtime_ns, decided=skipped)

    def _headers(self, uids: _Uids) -> Iterator[InputEntry]:
        """The headers, now that every whole instance is known."""
        with closing(Ledger.open_read_only(self._ledger)) if self._ledger.exists() else closing(_Nothing()) as ledger:
            for name, size_bytes, mtime_ns, uid, here in uids.headers():
                self.noticed.headers += 1
                forms = {uid, self._names.uid(uid)}
                if here or any(ledger.conflict_with(InstanceIdentity("", form, "", "", "")) for form in forms):
                    message = "an instance up to its pixel data, as Orthanc keeps beside the whole one"
                    yield InputEntry(name, size_bytes, mtime_ns, decided=Skipped(SkipReason.EXCLUDED, message))
                else:
                    message = (
                        f"attachment {uuid_at(name)}: it holds an instance only up to its pixel data, and the whole "
                        "instance is not here"
                    )
                    yield InputEntry(name, size_bytes, mtime_ns, decided=Failed.of(Unreadable(message)))


def look_into(path: Path, limits: LimitSettings) -> tuple[Holds, str]:
    """Kind of a file, and the SOP Instance UID in it; pixels are not read."""
    from exporter.dicom.elements import text_of
    from exporter.dicom.instance import Instance

    try:
        with Instance.open(path, limits) as instance:
            header = instance.header
            uid = text_of(header, "SOPInstanceUID")
            # PS3.3 C.7.6.3: pixels that are elsewhere have a provider's address in their place.
            image = "Rows" in header and "Columns" in header and "PixelDataProviderURL" not in header
            is_header = image and uid.isascii() and uid != "" and instance.pixels is None
            return (Holds.HEADER, uid) if is_header else (Holds.WHOLE, uid if uid.isascii() else "")
    except NotDicom:
        with path.open("rb") as file:
            return (Holds.SUMMARY if file.read(64).lstrip()[:1] == b"{" else Holds.WHOLE), ""
    except (ExportError, SkipInstance):
        return Holds.WHOLE, ""


class _Nothing:
    """No ledger yet."""

    def conflict_with(self, identity: InstanceIdentity) -> None:
        """No instance was exported before."""

    def close(self) -> None:
        """Close without effect: nothing is open."""


class _Uids:
    """SOP Instance UIDs of this run, in a database without a name that SQLite keeps on disk where it grows."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._connection.executescript(
            """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE whole (uid TEXT PRIMARY KEY) WITHOUT ROWID;
            CREATE TABLE header (name TEXT, size_bytes INTEGER, mtime_ns INTEGER, uid TEXT);"""
        )

    def close(self) -> None:
        self._connection.close()

    def add_whole(self, uid: str) -> None:
        self._write("INSERT OR IGNORE INTO whole VALUES (?)", (uid,))

    def add_header(self, found: WalkedFile, uid: str) -> None:
        self._write("INSERT INTO header VALUES (?, ?, ?, ?)", (found.name, found.size_bytes, found.mtime_ns, uid))

    def headers(self) -> Iterator[tuple[str, int, int, str, bool]]:
        """Every header, and whether its whole instance is among those of this run."""
        for row in self._connection.execute(
            """SELECT name, size_bytes, mtime_ns, uid, EXISTS (SELECT 1 FROM whole WHERE whole.uid = header.uid)
            FROM header ORDER BY rowid"""
        ):
            yield row[0], row[1], row[2], row[3], bool(row[4])

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._connection.execute(statement, values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise OutOfSpace("temporary files of SQLite: see the environment variable TMPDIR") from error
            raise
