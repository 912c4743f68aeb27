"""A skip passes over no medium in silence: what the elements describe and what is not there is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exporter.errors import SkipReason
from exporter.outcome import Skipped
from exporter.settings.settings import MediaSettings
from exporter.work import pipeline, protocol
from exporter.work.protocol import WorkerJob
from tests.exporter.dicom.test_instance import bare, element, image, part10

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = image(rows=64, columns=64)


def skipped(folder: Path, elements: bytes) -> tuple[str, ...]:
    """Warnings of an instance that has no media."""
    (folder / "in.dcm").write_bytes(part10(bare() + elements))
    job = WorkerJob(str(folder / "in.dcm"), str(folder))
    outcome = protocol.run(pipeline.export(MediaSettings(), "s" * 64, job), lambda _: None)
    assert isinstance(outcome, Skipped), outcome
    assert outcome.reason is SkipReason.NO_MEDIA
    assert outcome.record is not None
    return outcome.warnings


def test_an_instance_that_never_has_media_says_nothing(tmp_path: Path) -> None:
    assert skipped(tmp_path, element(0x40, 0xA40, "CS", b"PLAN") + element(0x71, 0x1001, "OB", bytes(9000))) == ()


def test_an_image_without_its_pixel_data_says_so(tmp_path: Path) -> None:
    (warning,) = skipped(tmp_path, IMAGE + element(0x71, 0x1001, "OB", bytes(20)))
    assert "describe an image" in warning


@pytest.mark.parametrize(
    ("creator", "number", "size", "says"),
    [
        (b"ELSCINT1", 0x100A, 50, "(07A1,100A) of ELSCINT1 holds pixel data in a private form"),
        (b"ACME", 0x100A, 3000, "(07A1,100A) private element: its 3000 bytes may be pixel data"),
        (b"ACME", 0x100A, 50, None),
        (b"ELSCINT1", 0x100B, 50, None),
    ],
)
def test_pixel_data_in_a_private_element_are_named(
    tmp_path: Path, creator: bytes, number: int, size: int, says: str | None
) -> None:
    private = element(0x07A1, 0x10, "LO", creator) + element(0x07A1, number, "OB", bytes(size))
    _, *warnings = skipped(tmp_path, IMAGE + private)
    assert [warning.startswith(says) for warning in warnings] == [True] if says else warnings == []


def test_an_empty_document_says_that_it_is_empty(tmp_path: Path) -> None:
    (warning,) = skipped(tmp_path, element(0x42, 0x11, "OB", b""))
    assert "Encapsulated Document is empty" in warning
