"""Orphans: files of a storage folder that are not in the index, which are listed and left alone.

Contract: every file below the folder is compared with the index, in memory that does not grow with either: the tree is
walked in the order of its names, and the index is asked for its UUIDs in the same order. The list is one JSON object
per line (`file`: path below the storage folder, `bytes`, `why`); it is complete or not there.

Must never: open a file, or follow a link.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.inputs.contract import InputUnusable
from exporter.inputs.orthanc_storage.index import OWN_FILES, UUID
from exporter.inputs.walk import Outputs, walk
from exporter.machine_conditions import out_of_space
from exporter.results.intents import MediaFolderUnusable
from listener.foundation.disk import mapped

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from exporter.inputs.walk import WalkedFile
    from exporter.privacy.input_names import InputNames

LIST: Final = "orthanc-orphans.jsonl"
UNKNOWN: Final = "not in the index"
OUTSIDE: Final = "outside the layout of a storage"
_PLACE: Final = re.compile(rf"([0-9a-f]{{2}})/([0-9a-f]{{2}})/({UUID.pattern})")


def uuid_at(name: str) -> str | None:
    """The UUID of the attachment that lies at this path below the storage folder; None where none does."""
    found = _PLACE.fullmatch(name)
    if found is None or not found[3].startswith(found[1] + found[2]):
        return None
    return found[3]


def files(folder: Path, stop: threading.Event | None = None) -> Iterator[WalkedFile]:
    """Every file below a storage folder but for the index itself, in the order of their names' folders, until `stop`.

    Raises:
        InputUnusable: The folder cannot be read.
    """
    try:
        for found in walk(folder, Outputs(frozenset())):
            if stop is not None and stop.is_set():
                return
            if found.name not in OWN_FILES:
                yield found
    except OSError as error:
        raise InputUnusable(f"the folder {folder} cannot be read any more: {error.strerror}") from error


def orphans(
    folder: Path, known: Iterator[str], stop: threading.Event | None = None
) -> Iterator[tuple[WalkedFile, str]]:
    """Every file that the index does not know, and the reason.

    Args:
        folder: The storage folder.
        known: Every UUID of the index, in order.
        stop: When set, the search ends.
    """
    place, here = "", set[str]()
    ahead = next(known, None)
    for found in files(folder, stop):
        uuid = uuid_at(found.name)
        if uuid is None:
            yield found, OUTSIDE
            continue
        if uuid[:4] != place:  # folders come in order: the names of one at a time are held
            place, here = uuid[:4], set()
            while ahead is not None and ahead[:4] <= place:
                if ahead[:4] == place:
                    here.add(ahead)
                ahead = next(known, None)
        if uuid not in here:
            yield found, UNKNOWN


@dataclass(frozen=True, slots=True)
class Orphans:
    """Number of orphans."""

    unknown: int
    """Attachments that the index does not know."""
    outside: int
    """Files that are no attachments."""


def list_orphans(
    found: Iterator[tuple[WalkedFile, str]], output: Path | None, stop: threading.Event, names: InputNames
) -> Orphans | None:
    """Count orphans, and list them below the output folder, if there is one; without any there is no list.

    When `stop` has ended the search there is no answer, and an earlier list stays.

    Raises:
        OutOfSpace: The disk is full.
        MediaFolderUnusable: The output folder cannot be written.
    """
    counts = Counter[str]()
    if output is None:
        counts.update(why for _, why in found)
    else:
        partial = output / f".{LIST}.part"
        with _disk_errors(output):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(partial, flags, 0o600), "w", encoding="ascii")
        with file:
            for one, why in found:
                counts[why] += 1
                with _disk_errors(output):
                    file.write(json.dumps({"file": names.name(one.name), "bytes": one.size_bytes, "why": why}) + "\n")
            with _disk_errors(output):
                file.flush()
                os.fsync(file.fileno())
        with _disk_errors(output):
            if stop.is_set():
                partial.unlink()
            elif counts:
                partial.replace(output / LIST)
            else:
                partial.unlink()
                (output / LIST).unlink(missing_ok=True)
    return None if stop.is_set() else Orphans(counts[UNKNOWN], counts[OUTSIDE])


def _disk_errors(output: Path) -> AbstractContextManager[None]:
    what = f"list of orphans in {output}"
    return mapped(lambda error: out_of_space(what, error) or MediaFolderUnusable(output, error))
