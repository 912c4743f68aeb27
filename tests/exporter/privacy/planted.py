"""Data sets with one token in every attribute of the data dictionary that can hold text, dates, UIDs or bytes."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from exporter.dicom.elements import quiet_reading

CONTAINERS = (0x00081115, 0x00082112, 0x00400275, 0x0040A730, 0x52009230, 0x00189346, 0x00081140, 0x00540016)
"""Sequences that hold what is planted below the top level, ones with a rule and ones without."""
TEXT = frozenset(
    [
        "AE",
        "AS",
        "CS",
        "LO",
        "LT",
        "PN",
        "SH",
        "ST",
        "UC",
        "UR",
        "UT",
        "DA",
        "DT",
        "TM",
        "UI",
        "OB",
        "OW",
        "OF",
        "OD",
        "OL",
        "OV",
        "UN",
    ]
)


@dataclass(frozen=True)
class Planted:
    """A data set as it is read from bytes, and the tokens in it."""

    data_set: Dataset
    tokens: dict[str, int]
    """Tags by token."""


def attributes() -> dict[int, str]:
    """Tags and first VRs of the attributes that can hold a token."""
    found = {}
    for tag, (vrs, _, _, _, _) in DicomDictionary.items():
        vr = vrs.split(" or ")[-1]
        if vr in TEXT and tag >> 16 >= 8 and tag >> 16 != 0xFFFE:
            found[tag] = vr
    return found


def token_for(vr: str, number: int) -> str:
    """A value of that VR that occurs nowhere else."""
    if vr in ("DA", "DT"):
        return f"{1800 + number // 336:04d}{number // 28 % 12 + 1:02d}{number % 28 + 1:02d}"
    if vr == "TM":
        return f"1{number % 10}{number // 10 % 60:02d}{number // 600 % 60:02d}.{770000 + number}"
    if vr == "UI":
        return f"1.2.826.0.1.{700000 + number}.9"
    if vr == "AS":
        return f"{number % 1000:03d}Q"
    return f"TOK{number:05d}Q"


def planted(seed: int, sop_class: str = "1.2.840.10008.5.1.4.1.1.6.1", *, implicit: bool = False) -> Planted:
    """A data set of every such attribute, each at a depth of 0 to 3 that the seed chooses."""
    chance = random.Random(seed)  # noqa: S311 - where tokens stand
    root, tokens = Dataset(), {}
    places: list[list[Dataset]] = [[root], [], [], []]
    for depth in range(3):
        for parent in places[depth]:
            for tag in CONTAINERS:
                item = Dataset()
                parent[tag] = DataElement(tag, "SQ", [item])
                places[depth + 1].append(item)
    with quiet_reading():
        for number, (tag, vr) in enumerate(sorted(attributes().items())):
            if tag in (0x00080016, 0x00080005):
                continue
            token = token_for(vr, number)
            tokens[token] = tag
            value: object = token
            if vr in ("OB", "OW", "OF", "OD", "OL", "OV", "UN"):
                value = token.encode() * 8
            chance.choice(places[chance.randrange(4)]).add(DataElement(tag, vr, value))
        root.SOPClassUID = sop_class
        for group in (0x0009, 0x0029):
            root.add(DataElement(Tag(group, 0x0010), "LO", "TOKCREATORQ"))
            item = Dataset()
            item.PatientName = "TOKPRIVATENAMEQ"
            root.add(DataElement(Tag(group, 0x1001), "SQ", [item]))
            root.add(DataElement(Tag(group, 0x1002), "UN", b"TOKPRIVATEBYTESQ"))
        tokens |= {"TOKCREATORQ": 0x00090010, "TOKPRIVATENAMEQ": 0x00091001, "TOKPRIVATEBYTESQ": 0x00091002}
    return Planted(read(encoded(root, implicit=implicit), implicit=implicit), tokens)


def encoded(data_set: Dataset, *, implicit: bool = False) -> bytes:
    """A data set in little endian."""
    from pydicom.filebase import DicomBytesIO

    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, implicit
    with quiet_reading():
        write_dataset(file, data_set)
    return file.getvalue()


def read(raw: bytes, *, implicit: bool = False) -> Dataset:
    with quiet_reading():
        return read_dataset(io.BytesIO(raw), implicit, is_little_endian=True)
