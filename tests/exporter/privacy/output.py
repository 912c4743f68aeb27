"""Instances with identifiers planted in and around them, and everything that an exporter left behind, as bytes."""

from __future__ import annotations

import sqlite3
import zipfile
import zlib
from contextlib import closing
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.data import get_testdata_file

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom.dataset import FileDataset

NAME = "ZQUIXOTE"
GIVEN = "ZALONSO"
PATIENT = "ZPAT4711"
ACCESSION = "ZACC0815"
STUDY = "1.2.826.0.1.4711.99.1"
SERIES = "1.2.826.0.1.4711.99.2"
BIRTH = "19470911"
TITLE = "ZRESEARCH"
TOKENS = (NAME, GIVEN, PATIENT, ACCESSION, STUDY, SERIES, BIRTH, TITLE)


def instance(number: int = 1, patient: str = PATIENT, study: str = STUDY) -> FileDataset:
    """A CT image of a patient, in which every token stands."""
    found = dcmread(get_testdata_file("CT_small.dcm"))
    found.PatientName, found.PatientID, found.PatientBirthDate = f"{NAME}^{GIVEN}", patient, BIRTH
    found.AccessionNumber, found.StudyInstanceUID, found.SeriesInstanceUID = ACCESSION, study, SERIES
    found.StudyDescription = f"CT of {GIVEN} {NAME}"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = f"{study}.{number}"
    found.file_meta.SourceApplicationEntityTitle = NAME
    return found


def plant(folder: Path) -> Path:
    """A folder whose names identify the patient as its instances do: files, an archive, a file that is no instance."""
    inner = folder / f"{NAME}^{GIVEN}" / PATIENT
    inner.mkdir(parents=True)
    instance(1).save_as(inner / f"{ACCESSION}.dcm")
    instance(2).save_as(inner / f"{STUDY}.2")
    with zipfile.ZipFile(folder / f"{NAME}.zip", "w") as archive:
        instance(3).save_as(folder / "member")
        archive.write(folder / "member", f"{PATIENT}/{NAME}.dcm")
        archive.writestr(f"{PATIENT}/{NAME}.txt", "no instance")
    (folder / "member").unlink()
    (inner / f"{NAME}.txt").write_text("no instance")
    (inner / f"{GIVEN}.link").symlink_to(inner / f"{ACCESSION}.dcm")
    return folder


def found_in(data: bytes, tokens: tuple[str, ...] = TOKENS) -> set[str]:
    """The tokens in bytes, in ASCII and UTF-16, in any case."""
    lower = data.lower()
    encodings = ("ascii", "utf-16-le", "utf-16-be")
    return {token for token in tokens for encoding in encodings if token.lower().encode(encoding) in lower}


def left_behind(output: Path, apart: tuple[str, ...] = ()) -> dict[str, set[str]]:
    """Tokens by place: in the name or the bytes of every file below a folder, and within what a database packs.

    Args:
        output: The folder.
        apart: Names of folders, right below it, that are passed over.
    """
    places: dict[str, set[str]] = {}
    for path in sorted(output.rglob("*")):
        place = path.relative_to(output)
        if place.parts[0] in apart:
            continue
        found = found_in(str(place).encode("utf-8", "surrogateescape"))
        if path.is_symlink():
            found |= found_in(str(path.readlink()).encode())
        elif path.is_file():
            data = path.read_bytes()
            found |= found_in(data)
            if data.startswith(b"SQLite format 3"):
                found |= found_in(_packed(path))
        if found:
            places[str(place)] = found
    return places


def _packed(path: Path) -> bytes:
    """Everything in a database, compressed values unpacked."""
    pieces = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.text_factory = bytes
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f"SELECT * FROM {table.decode()}"):  # noqa: S608 - names of our tables
                for value in row:
                    if isinstance(value, bytes):
                        pieces.append(value)
                        pieces += [zlib.decompress(value)] if value[:1] == b"\x78" else []
                    elif value is not None:
                        pieces.append(str(value).encode())
    return b"\n".join(pieces)
