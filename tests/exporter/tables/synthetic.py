"""Metadata lines without an exporter: as many as wanted, of as many different elements as wanted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def made_line(dicom_file: str, **elements: Any) -> dict[str, Any]:
    """One line of the form of ours; `export` and `media_*` can be given too."""
    export = {
        "status": "exported",
        "reason": None,
        "media": [],
        "timing": None,
        "rendering": None,
        "source_sha256": "a" * 64,
        "content_sha256": "b" * 64,
        "settings_sha256": "c" * 64,
        "ae_title": None,
        "version": "0.1.0",
        "warnings": [],
        "duplicate_of": None,
        "conflict_with": None,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "left_out": [],
        "private_left_out": None,
        "privacy": None,
    } | elements.pop("export", {})
    ours = {"dicom_file": dicom_file, "media_file": None, "media_type": "none", "export": export}
    return ours | elements


def write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    """A metadata file of these lines."""
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return path


def write_many(path: Path, number: int, columns: int = 600, filled: int = 110) -> None:
    """`number` lines of about 4 kB; each fills some of `columns` elements, so that all of them come up."""
    from pydicom._dicom_dict import DicomDictionary

    values = {"DS": 1.25, "IS": 7, "US": 512, "FD": 0.5, "FL": 2.5, "CS": "VALUE", "LO": "some text", "UI": "1.2.3.4"}
    elements = [
        (entry[2], values[entry[0]] if entry[1] == "1" else [values[entry[0]]] * 3)
        for entry in DicomDictionary.values()
        if entry[0] in values and entry[2] and entry[2] not in {"Patient ID", "SOP Instance UID"}
    ][:columns]
    pieces = [json.dumps({name: value})[1:-1] for name, value in elements]
    base = json.dumps(made_line("@", **{"SOP Instance UID": "1.2.@", "Patient ID": "P#"}))[:-1]
    with path.open("w", encoding="utf-8") as file:
        for count in range(number):
            start = count * 37 % columns
            some = [pieces[(start + step) % columns] for step in range(filled)]
            ours = base.replace("@", str(count)).replace("#", str(count % 997))
            file.write(f"{ours}, {', '.join(some)}}}\n")


if __name__ == "__main__":
    write_many(Path(sys.argv[1]), int(sys.argv[2]))
