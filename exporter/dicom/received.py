"""Settings that apply to a received file: those of the AE title that its sender called.

Contract: the listener writes that title as (0002,0018) into the file meta information of what it receives; this reads
it back, and nothing else. Only what our own listener wrote counts: files that came another way (Orthanc, a folder) may
hold an element of that name from a system that has nothing to do with ours, and take the top-level settings.

Must never: fail for the content of a file: one without a known AE title takes the top-level settings too. A file that
cannot be read now is another matter: its settings may be those that keep a name out of its media.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from listener.intake.file_meta import IMPLEMENTATION_CLASS, RECEIVING_AE_TITLE, elements_of, text_of
from listener.intake.identity import IMPLEMENTATION_CLASS_UID

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from exporter.settings.settings import Settings

_HEAD_BYTES: Final = 2048
"""File meta information of the listener's making ends well before."""
_NO_FILE: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.ENODEV})
"""Errors of opening a link, a socket or a device that does not exist: no received file."""


def called_ae_title(path: Path, titles: AbstractSet[str]) -> str:
    """The AE title of ours that a received file was sent to, if it is one of `titles`; empty otherwise.

    Raises:
        OSError: The file cannot be read.
    """
    if not titles:
        return ""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _NO_FILE:
            return ""
        raise
    try:
        head = os.pread(fd, _HEAD_BYTES, 0)
    except IsADirectoryError:
        return ""
    finally:
        os.close(fd)
    elements = dict(elements_of(head))
    if text_of(elements.get(IMPLEMENTATION_CLASS, b"")) != IMPLEMENTATION_CLASS_UID:
        return ""
    title = text_of(elements.get(RECEIVING_AE_TITLE, b""))
    return title if title in titles else ""


def settings_for(settings: Settings, path: Path) -> tuple[str, Settings]:
    """Settings of one file, and the AE title whose settings they are (empty for the top-level settings)."""
    by_title = settings.by_ae_title
    try:
        title = called_ae_title(path, by_title.keys())
    except OSError:  # the export of the file reports that
        title = ""
    return title, by_title.get(title, settings)
