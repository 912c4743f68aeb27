"""Lines of several exporters as one metadata file with one line for each instance.

Contract: folders are read in the order in which they are given, and lines in the order of their files; of lines with
one content (`content_sha256`) the first stays, and the others are counted. An instance with the SOP Instance UID of an
earlier one and other content stays, and names that one in `conflict_with`. Names of inputs and media begin with the
name of their folder, so that they are unique, and media are found below the folder that all exporters share. Records
are under names (`exporter.results.metadata.keys`). The file appears whole or not at all.

Memory does not grow with the number of lines, but for 16 bytes each: what was seen is in a temporary file of SQLite.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from exporter.tables.publication import published_file
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exporter.tables.lines import Line
    from exporter.tables.output_folder import ExportedFolder


@dataclass(slots=True)
class CombinedCounts:
    """Numbers of lines of a combined file."""

    instances: int = 0
    duplicates: int = 0
    """Lines that were left out: another folder, or an earlier line, has the same content."""
    conflicts: int = 0
    """Instances with the SOP Instance UID of an earlier one and other content."""


def combine(folders: Mapping[str, ExportedFolder], target: Path) -> CombinedCounts:
    """Write the lines of several folders into one file.

    Args:
        folders: Folders by the name with which their inputs and media begin: that of their media folder below the
            shared one.
        target: The file.

    Raises:
        TableError: Lines cannot be read, or the file cannot be written.
    """
    counts = CombinedCounts()
    with (
        closing(sqlite3.connect("")) as seen,
        published_file(target) as partial,
        partial.open("wb") as file,
    ):
        seen.execute("CREATE TABLE seen (content TEXT PRIMARY KEY, uid TEXT, name TEXT) WITHOUT ROWID")
        seen.execute("CREATE INDEX of_uid ON seen (uid)")
        for name, folder in folders.items():
            with folder.lines() as lines:
                for line, _ in lines.rows():
                    _put_below(name, line)
                    if _is_first(line, seen, counts):
                        file.write(json_escaped(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)))
                        counts.instances += 1
    return counts


def _put_below(name: str, line: Line) -> None:
    """Let names of the input and of media begin with the name of the folder."""
    about: dict[str, Any] = line["export"]
    of_media = [(medium, ("path",)) for medium in about.get("media") or ()]
    for holder, keys in (
        (line, ("dicom_file", "media_file")),
        (about, ("duplicate_of", "conflict_with")),
        *of_media,
    ):
        for key in keys:
            if holder.get(key) is not None:
                holder[key] = f"{name}/{holder[key]}"


def _is_first(line: Line, seen: sqlite3.Connection, counts: CombinedCounts) -> bool:
    """Whether no line before had the content of this one; then a conflict with an earlier one is noted in it."""
    about = line["export"]
    content, uid = about.get("content_sha256"), str(line.get("SOP Instance UID") or "")
    if content is None:
        return True
    if seen.execute("SELECT 1 FROM seen WHERE content = ?", (content,)).fetchone():
        counts.duplicates += 1
        return False
    earlier = seen.execute("SELECT name FROM seen WHERE uid = ?", (uid,)).fetchone() if uid else None
    if earlier is not None:
        about["conflict_with"] = about.get("conflict_with") or earlier[0]
        counts.conflicts += 1
    seen.execute("INSERT INTO seen VALUES (?, ?, ?)", (content, uid, line["dicom_file"]))
    return True
