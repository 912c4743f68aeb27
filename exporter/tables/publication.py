"""Errors of files and folders of tables and data sets, as sentences; they appear complete or not at all.

Contract: the mechanism is `listener.foundation.durable.replaced_file`. An existing file stays until the new one
replaces it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from exporter.tables.errors import TableError
from listener.foundation.disk import is_full, mapped
from listener.foundation.durable import replaced_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Give a partial file to write, which becomes `path` when the block ends without an error.

    Raises:
        TableError: The disk is full, or the file cannot be written there.
    """
    with writable(path), replaced_file(path) as partial:
        yield partial


def writable(path: Path) -> AbstractContextManager[None]:
    """Turn the operating system's errors of writing a file or folder into sentences.

    Raises:
        TableError: The disk is full, or it cannot be written there.
    """
    return mapped(lambda error: _table_error(path, error))


def _table_error(path: Path, error: OSError) -> TableError:
    if is_full(error):
        cause = "the disk is full; free some space and start again, nothing of it was published"
    else:
        cause = (error.strerror or type(error).__name__).lower()
    return TableError(f"{path} cannot be written: {cause}")
