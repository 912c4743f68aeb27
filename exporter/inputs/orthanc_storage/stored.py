"""The instances of a storage folder as its index lists them.

Contract: every whole DICOM file of the index is one entry, in the order in which Orthanc took them in, named by its
path below the folder; output is named by identity, as that of received instances. A file that is missing, or that the
index describes in a way that cannot be, fails by name. What is no whole DICOM file (headers, summaries, attachments of
users) is no entry. `look_around` then searches the folder for files that the index does not know.

Must never: believe the index where it can be checked, or change the folder.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import ExportError, Unreadable
from exporter.inputs.contract import InputEntry
from exporter.inputs.orthanc_storage.ahead import ahead
from exporter.inputs.orthanc_storage.attachments import AttachmentFacts, Indexed, missing, place
from exporter.inputs.orthanc_storage.orphans import list_orphans, orphans, uuid_at
from exporter.outcome import Failed
from exporter.privacy.input_names import InputNames

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.orthanc_storage.index import Attachment, StorageIndex
    from exporter.inputs.scratch import Scratch
    from exporter.settings.settings import LimitSettings


@dataclass(slots=True)
class Noticed:
    """Findings about a storage folder beside its instances; counted during the run."""

    missing: int = 0
    """Instances without a file."""
    elsewhere: int = 0
    """Attachments that a storage plugin keeps at places of its own."""
    headers: int = 0
    """Headers that were recognised by their content."""
    summaries: int = 0
    """Summaries in JSON that were recognised by their content."""
    orphans: int | None = None
    """Attachments that the index does not know; None as long as they were not looked for."""
    strangers: int | None = None
    """Files that are no attachments."""


class IndexedReader:
    """An `InputReader` of a storage folder with its index."""

    def __init__(
        self,
        folder: Path,
        index: StorageIndex,
        limits: LimitSettings,
        output: Path | None,
        *,
        threads: int,
        names: InputNames | None = None,
    ) -> None:
        """Read `folder`, an absolute path without links.

        Args:
            folder: The storage folder.
            index: Its index.
            limits: Of one instance.
            output: Folder of the list of orphans; None: they are only counted.
            threads: Number of threads that check attachments.
            names: Names of files in the list of orphans.
        """
        self._names = names or InputNames()
        self._folder = folder
        self._index = index
        self._limits = limits
        self._output = output
        self._threads = threads
        self._repeated = index.repeated()
        self.noticed = Noticed()

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """See `InputReader`."""
        return ahead(self._listed(memory, scratch), self._threads)

    def _listed(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        for attachment in self._index.instances():
            entry = self._entry(attachment, scratch)
            if not memory.is_done(entry.name, entry.size_bytes, entry.mtime_ns):
                yield entry

    def look_around(self, stop: threading.Event) -> None:
        """Look for files that the index does not know, unless stopped.

        Raises:
            OutOfSpace, MediaFolderUnusable: The list of them cannot be written.
            InputUnusable: The index, or the folder, cannot be read any more.
        """
        counted = list_orphans(orphans(self._folder, self._index.known(), stop), self._output, stop, self._names)
        if counted is not None:
            self.noticed.orphans, self.noticed.strangers = counted.unknown, counted.outside

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self._folder

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`: it has no containers."""
        return iter(())

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        yield self._index.holdings.instances

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `InputReader`."""
        with readable_together(self._folder, names, self._limits, scratch) as paths:
            yield paths

    def _entry(self, attachment: Attachment, scratch: Scratch) -> InputEntry:
        uuid = attachment.uuid
        nameless = f"index/row-{attachment.row}"  # `index` is a file: no real path begins so
        if not uuid:
            return _failed(nameless, f"row {attachment.row} of AttachedFiles: {attachment.fault}")
        if self._repeated.get(uuid, attachment.row) != attachment.row:
            return _failed(nameless, f"attachment {uuid}: the index gives it to another instance as well")
        path = self._folder / place(uuid)
        try:
            about = path.lstat()
        except OSError as error:
            if attachment.elsewhere:
                self.noticed.elsewhere += 1
                return _failed(place(uuid), f"attachment {uuid}: {_ELSEWHERE}")
            self.noticed.missing += isinstance(error, (FileNotFoundError, NotADirectoryError))
            return _failed(place(uuid), missing(uuid, path))
        if attachment.fault:
            decided = Failed.of(Unreadable(f"attachment {uuid}: {attachment.fault}"))
            return InputEntry(place(uuid), about.st_size, about.st_mtime_ns, decided=decided)
        content = Indexed(attachment, path, self._limits, scratch)
        return InputEntry(place(uuid), about.st_size, about.st_mtime_ns, content)


_ELSEWHERE = (
    "a storage plugin keeps it at a place of its own, which is not read: take it from Orthanc while it runs, or let "
    "the plugin move it back"
)


def _failed(name: str, message: str) -> InputEntry:
    return InputEntry(name, 0, 0, decided=Failed.of(Unreadable(message)))


@contextmanager
def readable_together(
    folder: Path, names: Sequence[str], limits: LimitSettings, scratch: Scratch
) -> Iterator[list[Path]]:
    """Regular files of attachments that were exported, recognised by their content, without missing ones.

    Raises:
        OutOfSpace: There is no room for copies.
    """
    held: list[AttachmentFacts] = []
    paths: list[Path] = []
    try:
        for name in names:
            uuid = uuid_at(name)
            if uuid is None:
                continue
            attachment = AttachmentFacts(uuid, folder / name, limits, scratch)
            held.append(attachment)
            try:
                paths.append(attachment.readable())
            except ExportError:
                continue
        yield paths
    finally:
        for attachment in held:
            attachment.release()
