"""The folder of a data set, which appears complete or not at all and may replace an earlier data set.

Contract: an existing folder that this module did not make is left alone.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from exporter.tables.errors import TableError
from exporter.tables.publication import published_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.tables.output_folder import ExportedFolder

MARK: Final = ".exporter-dataset"
"""File in a data set that marks it as ours: it may be replaced."""


@contextmanager
def data_set_folder(target: Path, source: ExportedFolder) -> Iterator[Path]:
    """Give a folder to fill, which becomes `target` when the block ends without an error.

    Raises:
        TableError: `target` exists and is not ours, or it would be in or around the folder it is made from.
    """
    _check(target, source)
    before = None
    try:
        with published_folder(target) as partial:
            yield partial
            (partial / MARK).write_text("made by `exporter dataset`, which replaces this folder when it runs again\n")
            if target.exists():
                before = target.with_name(f".{target.name}.before-{secrets.token_hex(6)}")
                target.rename(before)
    except BaseException:
        if before is not None and not target.exists():
            before.rename(target)
        raise
    if before is not None:
        shutil.rmtree(before, ignore_errors=True)


def _check(target: Path, source: ExportedFolder) -> None:
    if not target.parent.is_dir():
        raise TableError(f"there is no folder {target.parent} for the data set")
    place = target.resolve()
    media, root = source.media.resolve(), source.root.resolve()
    if place.is_relative_to(media) or root.is_relative_to(place) or media.is_relative_to(place):
        raise TableError(f"the data set {target} would lie in the media folder, or around it: name another folder")
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir() or target.is_symlink():
        raise TableError(f"{target} is there and is no folder: name another")
    if any(target.iterdir()) and not (target / MARK).is_file():
        raise TableError(f"{target} is there and was not made by `exporter dataset`: name another folder, or empty it")
