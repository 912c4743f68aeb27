"""What ends an export is what its error says: a full disk, a damaged frame, never the tidying up after it."""

from __future__ import annotations

import io
import os
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from exporter.dicom.instance import Instance
from exporter.errors import CorruptPixels, ExportError, OutOfSpace
from exporter.settings.settings import MediaSettings
from exporter.writers import choose
from exporter.writers.contract import WriterTask
from tests.exporter.writers.media import waves

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BASELINE = "1.2.840.10008.1.2.4.50"


@pytest.fixture
def small_disk(tmp_path: Path, peer: Callable[[str], str]) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        [peer("mount"), "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run([peer("umount"), str(folder)], check=True)


def noisy_jpegs(count: int) -> list[bytes]:
    frames = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 255, (128, 160, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        frames.append(data + b"\0" * (len(data) % 2))
    return frames


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"video": {"preset": "lossless"}},
        {"video": {"preset": "lossless-h264"}},
        {"video": {"extension": ".mkv"}},
        {"video": {"copy_jpeg": True}},
        {"frames": {"enabled": True}},
    ],
)
def test_a_full_disk_is_no_verdict_on_the_instance(
    make_instance: Callable[..., Path], small_disk: Path, settings: dict[str, Any]
) -> None:
    path = make_instance(
        encoded=noisy_jpegs(12),
        syntax=BASELINE,
        rows=128,
        columns=160,
        frames=12,
        PhotometricInterpretation="YBR_FULL_422",
    )
    media = MediaSettings.model_validate(settings)
    with Instance.open(path, media.limits) as instance, pytest.raises(OutOfSpace):
        choose(instance, media).write(WriterTask(instance, small_disk, media))


@pytest.mark.parametrize("frames", [1, 12])
def test_a_disk_that_is_mounted_read_only_is_no_verdict_on_the_instance(
    make_instance: Callable[..., Path], small_disk: Path, peer: Callable[[str], str], frames: int
) -> None:
    path = make_instance(
        encoded=noisy_jpegs(frames),
        syntax=BASELINE,
        rows=128,
        columns=160,
        frames=frames,
        PhotometricInterpretation="YBR_FULL_422",
    )
    subprocess.run([peer("mount"), "-o", "remount,ro", str(small_disk)], check=True)
    for settings in ({}, {"frames": {"enabled": True}}, {"video": {"extension": ".mkv"}}):
        media = MediaSettings.model_validate(settings)
        with Instance.open(path, media.limits) as instance, pytest.raises(OutOfSpace):
            choose(instance, media).write(WriterTask(instance, small_disk, media))


def test_a_stream_that_does_not_fit_is_no_verdict_on_the_instance(corpus: Path, small_disk: Path) -> None:
    media = MediaSettings()
    path = corpus / "synthetic-video" / "us_cine_mpeg2_mpml.100.dcm"
    with Instance.open(path, media.limits) as instance, pytest.raises(OutOfSpace):
        choose(instance, media).write(WriterTask(instance, small_disk, media))


@pytest.mark.parametrize(
    "settings", [{}, {"video": {"copy_jpeg": True}}, {"frames": {"enabled": True}}, {"video": {"preset": "lossless"}}]
)
@pytest.mark.parametrize("damaged", [1, 3])
def test_a_damaged_frame_in_a_cine_stays_the_verdict(
    make_instance: Callable[..., Path], export: Callable[..., Any], settings: dict[str, Any], damaged: int
) -> None:
    frames = []
    for number, image in enumerate(waves(4, 64, 96, gray=False)):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG")
        data = buffer.getvalue()
        if number == damaged:
            data = data[: len(data) // 2]
        frames.append(data + b"\0" * (len(data) % 2))
    path = make_instance(
        encoded=frames, syntax=BASELINE, rows=64, columns=96, frames=4, PhotometricInterpretation="YBR_FULL_422"
    )
    with pytest.raises(CorruptPixels):
        export(path, MediaSettings.model_validate(settings))


def test_no_mutant_of_a_stream_leaves_through_a_foreign_exception(
    corpus: Path, export: Callable[..., Any], tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    for path in sorted((corpus / "synthetic-video").glob("*.dcm")):
        whole = path.read_bytes()
        for number in range(12):
            mutant = bytearray(whole)
            for place in random.integers(2000, len(mutant), 30):
                mutant[place] = random.integers(0, 256)
            if number % 3 == 0:
                del mutant[int(random.integers(3000, len(mutant))) :]
            file = tmp_path / "mutant.dcm"
            file.write_bytes(mutant)
            try:
                export(file)
            except ExportError:
                continue
