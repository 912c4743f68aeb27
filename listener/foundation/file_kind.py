"""What a path leads to, in a word for messages."""

from __future__ import annotations

import stat
from typing import Final

_KINDS: Final = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISLNK, "a symbolic link"),
)


def kind_of(mode: int) -> str:
    """Name of the kind of file that `mode` (`os.stat_result.st_mode`) says."""
    return next((kind for test, kind in _KINDS if test(mode)), "no regular file")
