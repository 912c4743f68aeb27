"""A file or a folder that appears complete or not at all.

Contract: the content is written under a partial name beside the final one, made durable, and renamed; an error before
the rename removes it. An existing file stays until the new one replaces it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.tables.errors import TableError
from listener.foundation.disk import is_full, mapped
from listener.foundation.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Give a partial file to write, which becomes `path` when the block ends without an error.

    Raises:
        TableError: The disk is full, or the file cannot be written there.
    """
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(6)}")
    with mapped(lambda error: _table_error(path, error)):
        try:
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            yield partial
            _sync(partial)
            partial.rename(path)
            fsync_folder(path.parent)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


@contextmanager
def published_folder(path: Path) -> Iterator[Path]:
    """Give a partial folder to fill, which becomes `path` (not yet existing) when the block ends without an error.

    Raises:
        TableError: The disk is full, or the folder cannot be made there.
    """
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(6)}")
    with mapped(lambda error: _table_error(path, error)):
        try:
            partial.mkdir(mode=0o700)
            yield partial
            for folder, _, files in os.walk(partial, topdown=False):
                for name in files:
                    written = Path(folder, name)
                    if written.stat().st_nlink == 1:  # a hard link was durable before
                        _sync(written)
                fsync_folder(Path(folder))
            partial.rename(path)
            fsync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _table_error(path: Path, error: OSError) -> TableError:
    if is_full(error):
        cause = "the disk is full; free some space and start again, nothing of it was published"
    else:
        cause = (error.strerror or type(error).__name__).lower()
    return TableError(f"{path} cannot be written: {cause}")
