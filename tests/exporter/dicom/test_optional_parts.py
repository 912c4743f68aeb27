"""Damage in a part that the picture can do without costs the part, never the picture, and is told."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from exporter.outcome import Exported
from exporter.settings.settings import MediaSettings
from exporter.work import pipeline, protocol
from exporter.work.protocol import WorkerJob
from tests.exporter.dicom.test_instance import bare, element, item, part10

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = np.random.default_rng(7).integers(0, 4096, (16, 16)).astype("<u2").tobytes()
EVERYTHING = MediaSettings.model_validate({"display": {"overlays": True}})
NO_TABLE = element(0x28, 0x3002, "US", b"") + element(0x28, 0x3006, "OW", b"")
CUT_TABLE = element(0x28, 0x3002, "US", struct.pack("<3H", 256, 0, 8)) + element(0x28, 0x3006, "OW", bytes(10))
PLAIN = {
    (0x28, 0x02): element(0x28, 0x02, "US", b"\1\0"),
    (0x28, 0x04): element(0x28, 0x04, "CS", b"MONOCHROME2 "),
    (0x28, 0x10): element(0x28, 0x10, "US", b"\x10\0"),
    (0x28, 0x11): element(0x28, 0x11, "US", b"\x10\0"),
    (0x28, 0x100): element(0x28, 0x100, "US", b"\x10\0"),
    (0x28, 0x101): element(0x28, 0x101, "US", b"\x0c\0"),
    (0x28, 0x102): element(0x28, 0x102, "US", b"\x0b\0"),
    (0x28, 0x103): element(0x28, 0x103, "US", b"\0\0"),
}
DAMAGED = {
    "an empty VOI LUT item": element(0x28, 0x3010, "SQ", item(b"")),
    "a VOI LUT item of empty elements": element(0x28, 0x3010, "SQ", item(NO_TABLE)),
    "a cut VOI LUT": element(0x28, 0x3010, "SQ", item(CUT_TABLE)),
    "a VOI LUT without data": element(0x28, 0x3010, "SQ", item(CUT_TABLE[:14])),
    "a VOI LUT that is no sequence": element(0x28, 0x3010, "OB", b"\1\2\3\4"),
    "an empty modality LUT item": element(0x28, 0x3000, "SQ", item(b"")),
    "a modality LUT item of empty elements": element(0x28, 0x3000, "SQ", item(NO_TABLE)),
    "a cut modality LUT": element(0x28, 0x3000, "SQ", item(CUT_TABLE)),
    "a modality LUT that is no sequence": element(0x28, 0x3000, "OB", b"\1\2\3\4"),
    "a rescale slope that is no number": element(0x28, 0x1053, "DS", b"steep "),
    "a window width that is no number": element(0x28, 0x1050, "DS", b"1 ") + element(0x28, 0x1051, "DS", b"wide"),
    "a cut ICC profile": element(
        0x28, 0x2000, "OB", struct.pack(">I", 5000) + bytes(12) + b"GRAY" + bytes(16) + b"acsp" + bytes(90)
    ),
    "an ICC profile that is none": element(0x28, 0x2000, "OB", bytes(200)),
    "a pixel aspect ratio of text": element(0x28, 0x34, "IS", b"wide\\high "),
    "a pixel aspect ratio of one number": element(0x28, 0x34, "IS", b"2 "),
    "shared functional groups that are no sequence": element(0x5200, 0x9229, "OB", b"\1\2\3\4"),
    "per-frame functional groups that are no sequence": element(0x5200, 0x9230, "OB", b"\1\2\3\4"),
    "a frame's window that is no sequence": element(
        0x5200, 0x9230, "SQ", item(element(0x28, 0x9132, "OB", b"\1\2\3\4"))
    ),
    "per-frame functional groups of other frames": element(0x5200, 0x9230, "SQ", item(b"") * 3),
    "a high bit of two values": element(0x28, 0x102, "US", b"\x0b\0\x0b\0"),
    "a supplemental palette without colours": element(0x08, 0x9205, "CS", b"MIXED ")
    + element(0x28, 0x1101, "US", struct.pack("<3H", 256, 0, 8)),
    "an overlay without its bits": element(0x6000, 0x10, "US", b"\x10\0") + element(0x6000, 0x11, "US", b"\x10\0"),
}
SILENT = {
    "ultrasound regions that are no sequence": element(0x18, 0x6011, "OB", b"\1\2\3\4"),
    "an empty ultrasound region": element(0x18, 0x6011, "SQ", item(b"")),
    "an icon without pixels": element(0x88, 0x200, "SQ", item(element(0x28, 0x10, "US", b"\1\0"))),
    "a frame time of a still": element(0x18, 0x1063, "DS", b"soon"),
    "a padding value of nothing": element(0x28, 0x120, "US", b""),
    "a shutter of nothing": element(0x18, 0x1600, "CS", b""),
    "a presentation LUT shape of nothing": element(0x2050, 0x20, "CS", b""),
}
"""Nothing is lost with these: there is nothing in them, or nothing here applies them to a picture."""


def export(folder: Path, damage: bytes) -> Exported:
    folder.mkdir(exist_ok=True)
    parts = dict(PLAIN)
    if damage:
        parts[struct.unpack_from("<HH", damage)] = damage
    path = folder / "instance.dcm"
    body = b"".join(parts[key] for key in sorted(parts))
    path.write_bytes(part10(bare() + body + element(0x7FE0, 0x10, "OW", PIXELS)))
    media = folder / "media"
    media.mkdir()
    outcome = protocol.run(pipeline.export(EVERYTHING, "s" * 64, WorkerJob(str(path), str(media))), lambda _: None)
    assert isinstance(outcome, Exported), outcome
    return outcome


@pytest.mark.parametrize("part", DAMAGED)
def test_damage_costs_the_part_and_is_told(tmp_path: Path, part: str) -> None:
    whole, damaged = export(tmp_path / "whole", b""), export(tmp_path / "damaged", DAMAGED[part])
    assert [medium.sha256 for medium in damaged.media] == [medium.sha256 for medium in whole.media]
    notes = damaged.rendering.notes if damaged.rendering is not None else ()
    assert len({*damaged.warnings, *notes}) > len(whole.warnings)


@pytest.mark.parametrize("part", SILENT)
def test_parts_that_hold_nothing_change_nothing(tmp_path: Path, part: str) -> None:
    whole, damaged = export(tmp_path / "whole", b""), export(tmp_path / "damaged", SILENT[part])
    assert [medium.sha256 for medium in damaged.media] == [medium.sha256 for medium in whole.media]
