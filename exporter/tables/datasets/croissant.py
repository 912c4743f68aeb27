"""`croissant.json`: a description of the tables and media of a folder data set, by which programs load it.

Contract: conforms to Croissant 1.1. One FileObject per table with its SHA-256, one FileSet of media per root, one
RecordSet per table with a Field per column. The same data set gives the same bytes.

Source: MLCommons, "Croissant Format Specification 1.1".
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exporter.tables.columns import CellType, Column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.tables.datasets.card import FolderTable

DESCRIPTION: Final = "croissant.json"
_TYPES: Final = {
    CellType.TEXT: "sc:Text",
    CellType.JSON: "sc:Text",
    CellType.INTEGER: "sc:Integer",
    CellType.UNSIGNED: "sc:Integer",
    CellType.FLOAT: "sc:Float",
    CellType.BOOLEAN: "sc:Boolean",
}
_ENCODINGS: Final = {"images": "image/*", "videos": "video/*", "audio": "audio/*"}
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The JSON-LD context of the specification (appendix 1); terms that it adds are refused by readers when missing."""


@dataclass(frozen=True, slots=True)
class PublicationTerms:
    """Terms of a description that do not follow from the data."""

    date: str
    """Of the newest line, as YYYY-MM-DD."""
    license: str = "not stated"


def write_croissant(
    folder: Path, columns: Sequence[Column], tables: Sequence[FolderTable], terms: PublicationTerms
) -> None:
    """Write the description of a folder data set; its tables are complete.

    Raises:
        OSError: A table cannot be read, or the description not written.
    """
    digest = hashlib.sha256()
    files = []
    for table in tables:
        sha256 = _sha256(table.path)
        digest.update(sha256.encode())
        files.append(
            {
                "@type": "cr:FileObject",
                "@id": _table_id(table),
                "name": _table_id(table),
                "description": f"Rows of {table.root} in {table.split}",
                "contentUrl": table.path.relative_to(folder).as_posix(),
                "contentSize": f"{table.path.stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256,
            }
        )
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": "dicom-media",
        "description": "Media of DICOM instances with one row of metadata each.",
        "version": "1.0.0",
        "license": terms.license,
        "citeAs": "The publication of the instances that this was made of.",
        "datePublished": terms.date,
        "isLiveDataset": False,
        "identifier": digest.hexdigest(),
        "distribution": [*files, *(_media(root) for root in sorted({table.root for table in tables}))],
        "recordSet": [_record_set(table, columns) for table in tables],
    }
    text = json.dumps(described, indent=1, ensure_ascii=False, sort_keys=False)
    (folder / DESCRIPTION).write_text(f"{text}\n", encoding="utf-8")


def _table_id(table: FolderTable) -> str:
    return f"{table.root}-{table.split}.parquet"


def _media(root: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": root,
        "name": root,
        "description": f"Media files of {root}",
        "encodingFormat": _ENCODINGS[root],
        "includes": f"{root}/*/*",
    }


def _record_set(table: FolderTable, columns: Sequence[Column]) -> dict[str, Any]:
    name = f"{table.root}_{table.split}"
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"One record per media file of {table.root} in {table.split}",
        "field": [_field(name, column, _table_id(table)) for column in columns],
    }


def _field(record_set: str, column: Column, table: str) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{_field_id(column.name)}",
        "name": column.name,
        "description": column.description or column.name,
        "dataType": _TYPES[column.type],
        "source": {"fileObject": {"@id": table}, "extract": {"column": column.name}},
    }
    return field | ({"isArray": True, "arrayShape": "-1"} if column.is_list else {})


def _field_id(name: str) -> str:
    """Name of a column as a part of an identifier (RFC 3987): unique and without white space."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
