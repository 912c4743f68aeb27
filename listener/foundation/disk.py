"""What an error of the file system says: that the disk takes no more, that a folder is gone, that a file is too large.

Contract: the one place that knows these error numbers. A caller decides what follows, and there is one rule for that: a
condition of the machine is never a verdict on an instance.

| answer | numbers | what follows |
|---|---|---|
| `is_full` | ENOSPC, EDQUOT | senders are refused for lack of resources; the exporter waits |
| `is_out_of_space` | these, and EROFS | the exporter waits; for the listener EROFS is a storage that fails |
| `is_too_large` | EFBIG | see there |
| `is_gone` | ENOENT and others | the exporter waits for its folder |
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_GONE: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ENFILE}
)


def is_full(error: OSError) -> bool:
    """Whether a disk or a quota is exhausted."""
    return error.errno in _FULL


def is_out_of_space(error: OSError) -> bool:
    """Whether a disk takes no more for now: it is full, or was mounted read-only, as Linux does after an error."""
    return is_full(error) or error.errno == errno.EROFS


def is_too_large(error: OSError) -> bool:
    """Whether one file would be larger than a limit of the process or of the file system permits.

    That is no full disk, since other files still fit: what a worker writes of an instance is too large. The spool and
    the metadata file count it as lack of resources: another storage may take the instance, and a file that is rotated
    takes the next line.
    """
    return error.errno == errno.EFBIG


def is_gone(error: OSError) -> bool:
    """Whether a folder or file of ours is not there, or its server does not answer, whatever is in it."""
    return error.errno in _GONE


@contextmanager
def mapped(meaning: Callable[[OSError], Exception]) -> Iterator[None]:
    """Raise what an `OSError` of the block means instead of it.

    Raises:
        Exception: What `meaning` makes of the error.
    """
    try:
        yield
    except OSError as error:
        raise meaning(error) from error
