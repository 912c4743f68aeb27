"""The contract of a media store: how the media of published instances are kept, whatever their names.

Contract: a medium is named by its path below the media folder, in ledger and metadata lines alike; the store alone
knows where its bytes are. The publisher calls `write_out`, `put`, `sync` for a batch of instances, commits their
outcomes, and then calls `finish`; media that were synced are durable, also when the process ends before `finish`.
Where a step fails, `undo` and `take_back` remove what was put of an instance that is not committed.

Must never: replace media of another instance, or lose media whose outcome is committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile


@dataclass(frozen=True, slots=True)
class InstanceMedia:
    """The media of one instance on their way into a store."""

    name: str
    """Name of the instance."""
    folder: Path
    """Folder of its partial files."""
    partial: Sequence[MediaFile]
    """Media under their names in that folder."""
    final: Sequence[MediaFile]
    """The same media under their final names."""
    study_uid: str = ""
    line: bytes = b""
    """Its metadata line."""


class MediaStore(Protocol):
    """See the module; used by one thread."""

    def is_taken(self, path: str, *, may_replace: bool) -> bool:
        """Whether something foreign is in the way of an output file or folder (which ends in ``/``)."""

    def write_out(self, folder: Path, media: Sequence[MediaFile]) -> None:
        """See that partial files which a worker left to its batch are on the disk, as far as `put` needs that.

        Raises:
            OSError: One cannot be written; it is never tried again.
        """

    def undo(self, name: str, folder: Path) -> None:
        """Undo an earlier `put` of this instance that failed half-way.

        Raises:
            OSError: The file system fails again.
        """

    def put(self, media: InstanceMedia) -> None:
        """Bring media to their final names, all or none.

        Raises:
            BadWorkerAnswer: The partial files are not what the worker said.
            OSError: The file system refuses; nothing was put, or `undo` takes it back before the next attempt.
        """

    def sync(self) -> None:
        """Make everything that was put durable.

        Raises:
            OSError: The file system refuses.
        """

    def take_back(self, name: str | None = None) -> None:
        """Remove what was put of an instance that is not committed, now or at a later call; None does what is left."""

    def forget(self) -> None:
        """Take nothing for granted that was seen of the file system: it has refused something."""

    def finish(self, folders: Sequence[Path]) -> None:
        """Let go of what was put and is committed now, its notes and partial files; never raises `OSError`.

        Args:
            folders: Folders of partial files of the committed instances.
        """

    def remove(self, paths: Sequence[str]) -> None:
        """Delete media that no instance owns any more, by their names.

        Raises:
            OSError: One cannot be deleted now.
        """

    def close(self) -> None:
        """Close the store; committed media stay."""
