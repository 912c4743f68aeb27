"""One archive, given by itself.

Contract: its members have the names that they have in a run over the folder it lies in, so that both share a ledger.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.inputs.archives.members import ArchiveLimits, ArchiveMembers, container_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.inputs.contract import EarlierOutcomes, InputEntry
    from exporter.inputs.scratch import Scratch


@dataclass(frozen=True, slots=True)
class OneArchive:
    """An `InputReader` of one archive."""

    path: Path
    """Without symbolic links."""
    limits: ArchiveLimits

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """See `InputReader`."""
        about = self.path.stat()
        if not memory.is_done(self.path.name, about.st_size, about.st_mtime_ns):
            yield from self._members().entries(memory, scratch)

    @property
    def root(self) -> Path:
        """See `InputReader`."""
        return self.path.parent

    def members(self, container: str) -> Iterator[str]:  # noqa: ARG002 - the contract's shape
        """See `InputReader`."""
        return self._members().names()

    def count(self) -> Iterator[int]:
        """See `InputReader`."""
        yield 1

    @contextmanager
    def together(self, names: Sequence[str], scratch: Scratch) -> Iterator[list[Path]]:
        """See `InputReader`."""
        own = [name for name in names if container_of(name) == self.path.name]
        with self._members().copies(own, scratch) as copies:
            yield list(copies.values())

    def _members(self) -> ArchiveMembers:
        return ArchiveMembers(self.path.name, self.path, self.limits)
