"""Common parts of zip and tar: a member, an archive of members, and the budget of reading one.

Must never: trust a declared size: bytes are counted as they are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from exporter.errors import TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.errors import ExportError

CHUNK: Final = 1 << 16
RATIO_FLOOR_BYTES: Final = 1 << 30
"""Bytes that may be unpacked from any archive, however small."""


class MemberKind(Enum):
    """Kind of a member."""

    FILE = "file"
    FOLDER = "folder"
    """No instance and no outcome: as a folder of a file system."""
    OTHER = "other"
    """A link, device or pipe: never followed."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """One member, as its archive describes it."""

    raw_name: bytes
    """Name as the archive has it; `exporter.inputs.archives.names` makes names of the run of it."""
    from_windows: bool
    """Whether a backslash separates folders."""
    size_bytes: int
    """Declared size; 0 if the archive has it after the content."""
    kind: MemberKind
    problem: ExportError | None = None
    """Why its content cannot be read, if that is known already."""


class Archive(Protocol):
    """An open archive; used by one thread."""

    def members(self) -> Iterator[ArchiveMember]:
        """Every member, in an order of its own.

        Raises:
            ExportError: No further members can be found; those before are unharmed.
        """
        ...

    def content(self) -> Iterator[bytes]:
        """The content of the member that `members` gave last, in parts; once, and not after the next was asked for.

        Raises:
            ExportError: It is damaged, or larger than permitted.
        """
        ...


class Budget:
    """Limit of the bytes unpacked from one archive."""

    def __init__(self, archive_bytes: int, max_ratio: int) -> None:
        self._max_ratio = max_ratio
        self._left = max(RATIO_FLOOR_BYTES, archive_bytes * max_ratio)

    def spend(self, size_bytes: int) -> None:
        """Count what was unpacked.

        Raises:
            TooLarge: It is more than the archive may hold, now and for every later call.
        """
        self._left -= size_bytes
        self.check()

    def check(self) -> None:
        """Check that the limit was not exceeded.

        Raises:
            TooLarge: It was.
        """
        if self._left < 0:
            raise TooLarge(f"the archive holds more than {self._max_ratio} times its own size (archives.max_ratio)")
