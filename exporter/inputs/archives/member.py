"""Common parts of zip and tar: a member, an archive of members, and the budget of reading one.

Must never: trust a declared size: what is read is counted as it comes.
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
"""So much may be unpacked of any archive, however small it is."""


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
    """Declared size; 0 where the archive has it behind the content."""
    kind: MemberKind
    problem: ExportError | None = None
    """Why its content cannot be had, where that is known."""


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
    """Budget of bytes that may come out of one archive."""

    def __init__(self, archive_bytes: int, max_ratio: int) -> None:
        self._max_ratio = max_ratio
        self._left = max(RATIO_FLOOR_BYTES, archive_bytes * max_ratio)

    def spend(self, size_bytes: int) -> None:
        """Count what was unpacked.

        Raises:
            TooLarge: It is more than the archive may hold; so it is from then on.
        """
        self._left -= size_bytes
        self.check()

    def check(self) -> None:
        """Whether more may come.

        Raises:
            TooLarge: No.
        """
        if self._left < 0:
            raise TooLarge(f"the archive holds more than {self._max_ratio} times its own size (archives.max_ratio)")
