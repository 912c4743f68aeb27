"""The files of an open SQLite database in WAL mode, and whether somebody removed or replaced one of them.

Contract: SQLite does not notice. It goes on with files that no name leads to any more, and whoever opens the database
next sees what it held before its log was last moved into it, or nothing (sqlite.org/howtocorrupt.html, 2.5). So the one
that writes looks for itself, which costs three calls of stat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PARTS: Final = {
    "": "database file",
    "-wal": "write-ahead log",
    "-shm": "index of the write-ahead log",
}


class DatabaseFiles:
    """A database file and its companions, as they were when this was made."""

    def __init__(self, path: Path) -> None:
        """Remember the files of the database at `path`, which is open and has been read or written.

        Raises:
            OSError: The database file cannot be found.
        """
        path.stat()
        self._paths = {suffix: Path(f"{path}{suffix}") for suffix in _PARTS}
        self._seen = {suffix: _identity(one) for suffix, one in self._paths.items()}

    def loss(self) -> str | None:
        """What happened to the files, as part of a sentence; None where all are as they were."""
        for suffix, what in _PARTS.items():
            before, now = self._seen[suffix], _identity(self._paths[suffix])
            if before is not None and before != now:
                how = "was removed" if now is None else "was replaced"
                return f"its {what} ({self._paths[suffix].name}) {how} while it was in use"
        return None

    @property
    def can_be_saved(self) -> bool:
        """Whether the open log may be moved into the database: nobody has written another log, or another database.

        (One that only reads makes an empty log where there is none.)
        """
        log = self._paths["-wal"]
        try:
            is_empty = log.stat().st_size == 0
        except OSError:
            is_empty = True
        return _identity(self._paths[""]) == self._seen[""] and (is_empty or _identity(log) == self._seen["-wal"])


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where it cannot be found."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
