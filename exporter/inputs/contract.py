"""The interface between an input at rest (folder, archive, ...) and the run that exports it.

Contract: an `InputReader` yields one `InputEntry` for each thing that the run has to account for, except those that
`EarlierOutcomes` says are done. An entry is either decided already (a link, a damaged file: it needs no worker), or has
an `InputContent` that a worker process can open by path. The run asks for the content just before it hands the entry to
a worker, and before it asks for the next entry; it releases the content when the result of the entry is final. So a
reader may be a stream that is read once, and it needs copies only of entries under way.

Names are the key of the ledger and the `dicom_file` of the metadata lines: the same input has the same name in every
run. A name inside a container is the container's name, `INSIDE`, and the name within it: no real path has an empty
component, so that the two never meet.

Readers know inputs by their paths alone; `exporter.inputs.entry_source` gives an entry its key (`EarlierOutcomes.key`).

Must never: change what it reads, or yield one name twice in one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from exporter.inputs.scratch import Scratch
    from exporter.outcome import Failed, Skipped

INSIDE: Final = "//"
"""Between a container's name and a name within it: ``clinic/studies.zip//1/IM0001``."""


class InputUnusable(Unusable):
    """The input is missing, holds nothing to export, or cannot be read."""

    exit_code = 2


class InputContent(Protocol):
    """The bytes of one entry."""

    def readable(self) -> Path:
        """Path of a regular file that holds the bytes until `release`; called at most once, before the next entry.

        Raises:
            ExportError: The bytes cannot be read: the entry fails with this error.
            OutOfSpace: There is no room for a copy.
        """
        ...

    def release(self) -> None:
        """Release the file of `readable`; called once after it, from the thread of the run."""
        ...


@dataclass(frozen=True, slots=True)
class InputEntry:
    """One thing to account for: an instance, or something that is not one and gets a skip or a failure."""

    name: str
    size_bytes: int
    mtime_ns: int
    """Modification time; a different one, or a different size, means that the entry has changed."""
    content: InputContent | None = None
    """None for an entry that is `decided`."""
    decided: Skipped | Failed | None = None
    """Outcome of an entry that needs no worker."""
    mirrors: str | None = None
    """Relative path that output names mirror; None: output is named by identity, as `media.layout` says."""
    within: str | None = None
    """Name of the container that the entry belongs to. A container comes after all its members, decided, and its
    outcome becomes final after theirs: until then a rerun looks into it again."""


class EarlierOutcomes(Protocol):
    """Results of earlier runs."""

    def foresee(self, names: Sequence[str]) -> None:
        """Take note that `is_done` will be asked of these names next: many are looked up faster than one by one."""
        ...

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:
        """Whether an input, unchanged, was finished under these settings, with everything inside it (about 10 us).

        A finished input is counted here and must not be yielded. An unreadable one is not done where `changed_ns`, the
        time (ctime) of the last change of the file or its permissions, is later than that verdict.
        """
        ...

    def key(self, name: str) -> str:
        """Name by which the ledger has an input: keyed where nothing may identify a patient."""
        ...

    def failed(self, prefix: str) -> Collection[str]:
        """Keys of inputs that failed and whose names begin with `prefix`, which ends in ``/``."""
        ...

    def closed_folders(self, root: Path) -> Collection[str]:
        """Names of folders below `root` that could not be read."""
        ...


class InputReader(Protocol):
    """One thing at rest that holds instances."""

    @property
    def root(self) -> Path:
        """Folder that names are relative to."""
        ...

    def members(self, container: str) -> Iterator[str]:
        """Names of everything inside a container."""
        ...

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """Yield the entries that are not done; called once.

        Args:
            memory: Outcomes of earlier runs.
            scratch: Folder for the copies that workers need.

        Raises:
            InputUnusable: The input cannot be read at all.
            OutOfSpace: There is no room for a copy.
        """
        ...

    def count(self) -> Iterator[int]:
        """Yield the number of names found so far, for `Progress`; called from another thread.

        Names inside containers need not be counted: the run adds them when it comes to the container.
        """
        ...

    def together(self, names: Sequence[str], scratch: Scratch) -> AbstractContextManager[list[Path]]:
        """Give the regular files of several entries at once, for series volumes; missing ones are left out.

        Raises:
            OutOfSpace: There is no room for copies.
        """
        ...
