"""Orthanc storage folders for tests: made by hand in every shape, read, and compared byte for byte."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import uuid
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pydicom

from exporter.inputs.backfill import ExportTarget
from exporter.inputs.entry_source import Progress
from exporter.inputs.orthanc_storage.storage import StorageRequest, opened_storage
from exporter.settings.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.inputs.orthanc_storage.stored import Noticed
    from exporter.work.contract import PublishedResult

COLUMNS = (
    "id INTEGER, fileType INTEGER, uuid TEXT, compressedSize INTEGER, uncompressedSize INTEGER, compressionType INTEGER"
)
MD5_COLUMNS = ", uncompressedMD5 TEXT, compressedMD5 TEXT"
LATER_COLUMNS = ", revision INTEGER, customData BLOB"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass
class Handmade:
    """A storage folder with an index of our own making."""

    folder: Path
    schema: str = "6"
    columns: str = COLUMNS + MD5_COLUMNS
    compression: int = 2
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, content: bytes, *, file_type: int = 1, stored: bytes | None = None, **different: Any) -> str:
        """Put one attachment; its path below the folder. `stored` and `different` are lies about it."""
        name = str(uuid.uuid4())
        packed = len(content).to_bytes(8, "little") + zlib.compress(content) if self.compression == 2 else content
        path = self.folder / name[:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed if stored is None else stored)
        row = {
            "id": len(self.rows) + 1,
            "fileType": file_type,
            "uuid": name,
            "compressedSize": len(packed),
            "uncompressedSize": len(content),
            "compressionType": self.compression,
            "uncompressedMD5": _md5(content),
            "compressedMD5": _md5(packed),
        }
        self.rows.append(row | different)
        return path.relative_to(self.folder).as_posix()

    def write_index(self, path: Path | None = None) -> None:
        """Write the index, from what was put."""
        (path or self.folder).mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect((path or self.folder) / "index")
        connection.execute("CREATE TABLE GlobalProperties(property INTEGER PRIMARY KEY, value TEXT)")
        connection.execute("INSERT INTO GlobalProperties VALUES (1, ?)", (self.schema,))
        connection.execute(f"CREATE TABLE AttachedFiles({self.columns})")
        there = {row[1] for row in connection.execute("PRAGMA table_info(AttachedFiles)")}
        for row in self.rows:
            known = {name: value for name, value in row.items() if name in there}
            marks = ", ".join("?" * len(known))
            statement = f"INSERT INTO AttachedFiles({', '.join(known)}) VALUES ({marks})"  # noqa: S608 - our own names
            connection.execute(statement, [*known.values()])
        connection.commit()
        connection.close()


@dataclass(frozen=True)
class Done:
    """What one run did."""

    tally: Progress
    results: dict[str, PublishedResult]
    noticed: Noticed
    remarks: str
    warnings: str

    def message(self, name: str) -> str:
        outcome = self.results[name].outcome
        assert outcome.status == "failed", outcome
        return f"{outcome.reason}: {outcome.message}"


def run(folder: Path, output: Path, *, index: Path | None = None, without_index: bool = False, **sections: Any) -> Done:
    """One whole run over a storage folder."""
    tally = Progress()
    target = ExportTarget(output, Settings.model_validate(sections), workers=0)
    with opened_storage(StorageRequest(folder, index, without_index), target, list_orphans=True) as storage:
        results = {one.work.name: one for one in storage.export(target, tally, threading.Event())}
        remarks = "\n".join(storage.remarks(output))
        return Done(tally, results, storage.reader.noticed, remarks, "\n".join(storage.warnings))


def lines(metadata: Path) -> dict[str, dict[str, Any]]:
    """The metadata lines by SOP Instance UID, without what names the input or our version."""
    found = {}
    for text in metadata.read_text().splitlines():
        line = json.loads(text)
        del line["dicom_file"], line["export"]["version"]
        assert line["SOP Instance UID"] not in found
        found[line["SOP Instance UID"]] = line
    return found


def media(root: Path) -> dict[str, str]:
    """SHA-256 of every media file by its path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def state(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything of a tree that a writer would change: modes, times, sizes, content, and that nothing was added."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        about = path.stat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path)] = (about.st_mode, about.st_mtime_ns, about.st_size, hashlib.sha256(content).digest())
    return found


def header_of(content: bytes) -> bytes:
    """A DICOM file in explicit VR up to its pixel data, as Orthanc cuts it."""
    item = pydicom.dcmread(BytesIO(content)).get_item("PixelData")
    assert isinstance(item, pydicom.dataelem.RawDataElement)
    return content[: item.value_tell - 12]  # PS3.5 7.1.2: tag, VR, two reserved bytes, length
