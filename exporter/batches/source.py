"""The units of one batch as an input reader, and what earlier starts of the batch have finished.

Contract: entries are those that a local run has for the same files, in the same order; each gets a place, which is the
same in every start: the index of its unit, and its position inside that.

Must never: list the input: the plan says what is in it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from exporter.batches.plan import REOPENED, WHOLE
from exporter.inputs.folder import FolderReader, reopened_entry
from exporter.inputs.place import found_at
from exporter.inputs.walk import FileKind, WalkedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from exporter.batches.plan import PlannedUnit
    from exporter.inputs.contract import EarlierOutcomes, InputEntry, InputReader
    from exporter.inputs.scratch import Scratch

LAST: Final = 1 << 40
"""Position of a container inside its unit: after all its members."""


class JournalMemory:
    """Outcomes of earlier starts, and the places of all entries that were asked about; an `EarlierOutcomes`."""

    def __init__(self, finished: Mapping[str, bool]) -> None:
        """`finished` says by name of an entry whether it failed."""
        self._finished = finished
        self._unit: PlannedUnit | None = None
        self._position = 0
        self.places: dict[str, tuple[int, int]] = {}
        """Place of every entry of this start by its name."""

    def begin_unit(self, unit: PlannedUnit) -> None:
        """Count positions from here on for another unit."""
        self._unit, self._position = unit, 0

    def foresee(self, names: Sequence[str]) -> None:
        """See `EarlierOutcomes`: all outcomes are in memory."""

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:  # noqa: ARG002 - the contract's shape
        """Whether an earlier start has finished an entry, even if its file has changed since."""
        self._place(name)
        return name in self._finished

    def add_entry(self, entry: InputEntry) -> None:
        """Give an entry its place: a container comes last, others where `is_done` was asked about them."""
        if self._unit is None:
            raise AssertionError("a unit begins before its entries")
        if entry.name == self._unit.name and self._position > 1:
            self.places[entry.name] = (self._unit.index, LAST)
        else:
            self._place(entry.name)

    def _place(self, name: str) -> None:
        if self._unit is not None and name not in self.places:
            self.places[name] = (self._unit.index, self._position)
            self._position += 1

    def key(self, name: str) -> str:
        """The name itself: batches are planned for what is not de-identified."""
        return name

    def failed(self, prefix: str) -> list[str]:
        """See `EarlierOutcomes`."""
        return [name for name, has_failed in self._finished.items() if has_failed and name.startswith(prefix)]

    def closed_folders(self, root: Path) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
        """No names: the plan lists such folders as units."""
        return ()


class BatchReader:
    """An `InputReader` of planned units."""

    def __init__(self, reader: InputReader, root: Path, units: Sequence[PlannedUnit], memory: JournalMemory) -> None:
        """Read `units` of the input of `reader`, in the folder `root`."""
        self._reader = reader
        self.root = root
        """See `InputReader`."""
        self._units = units
        self._memory = memory

    def members(self, container: str) -> Iterator[str]:
        """See `InputReader`."""
        return self._reader.members(container)

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:  # noqa: ARG002 - its own memory
        """See `InputReader`."""
        for unit in self._units:
            self._memory.begin_unit(unit)
            for entry in self._entries_of(unit, scratch):
                self._memory.add_entry(entry)
                yield entry

    def _entries_of(self, unit: PlannedUnit, scratch: Scratch) -> Iterator[InputEntry]:
        if unit.kind == WHOLE:
            yield from self._reader.entries(self._memory, scratch)
        elif unit.kind == REOPENED:
            if not self._memory.is_done(unit.name, 0, 0):
                yield reopened_entry(unit.name)
        elif isinstance(self._reader, FolderReader):
            yield from self._reader.entries_of(self._found(unit), self._memory, scratch)

    def _found(self, unit: PlannedUnit) -> WalkedFile:
        """The file of a unit as it is now; a folder that could not be read stays one."""
        if unit.name.endswith("/"):
            return WalkedFile(unit.name, f"{self.root / unit.name}", FileKind.UNREADABLE, 0, 0)
        return found_at(self.root, unit.name)

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        yield len(self._units)

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `InputReader`."""
        with self._reader.together(names, scratch) as paths:
            yield paths
