"""Real files: every one with pixels decodes, or is refused for a reason; independent decoders agree."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from exporter.dicom.instance import Instance
from exporter.errors import ExportError, SkipInstance
from exporter.frames import DisplayOptions, open_frames
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LIMITS = LimitSettings()
JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
LOSSY = {f"1.2.840.10008.1.2.4.{tail}" for tail in ("50", "51", "53", "55", "81", "91", "203")}

REFUSED = {
    # DCMTK pads what is missing, with a warning; a third of the bytes is there.
    "Brigid-DICOM__brigid/1010.dcm": "corrupt_pixels",
    "Brigid-DICOM__brigid/1011.dcm": "corrupt_pixels",
    "Brigid-DICOM__brigid/1012.dcm": "corrupt_pixels",
    "Brigid-DICOM__brigid/1013.dcm": "corrupt_pixels",
    "pydicom-wheel/MR_truncated.dcm": "corrupt_pixels",
    # The SIZ marker segment is overwritten with a delimiter; no decoder reads it.
    "pydicom-wheel/JPEG2000-embedded-sequence-delimiter.dcm": "bad_geometry",
    "pydicom-wheel/badVR.dcm": "bad_geometry",
    "pydicom-wheel/meta_missing_tsyntax.dcm": "bad_geometry",
    "pydicom-wheel/nested_priv_SQ.dcm": "bad_geometry",
}

LABELLED_WRONGLY = {
    # The stored values as the codestream has them; the catalogue believes the header.
    "microsoft__dicom-server/JPEGProcess2_4.dcm",
    "microsoft__dicom-server/layer1.dcm",
    "pydicom__pylibjpeg-data/SC_rgb_jpeg_lossy_gdcm.dcm",
}


def instances(corpus: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Instance]]:
    """The rows whose file opens and has pixel data that are no video."""
    for row in rows:
        try:
            instance = Instance.open(corpus / row["file"], LIMITS)
            if instance.pixels is not None and "/synthetic-video" not in f"/{row['file']}":
                yield row, instance
        except (ExportError, SkipInstance):
            continue


def digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:24]


def test_every_file_with_pixels_decodes_or_is_refused_for_a_reason(
    corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    refused = {}
    for row in corpus_catalog:
        try:
            instance = Instance.open(corpus / row["file"], LIMITS)
            if instance.pixels is None:
                continue
            frames = open_frames(instance, LIMITS)
            if frames.is_video_stream:
                assert frames.open_stream().read(64)
                continue
            shown = list(frames.display())
            assert len(shown) == instance.pixels.frames
            size = (instance.pixels.rows, instance.pixels.columns)
            assert all(f.shape == (*size, 3) if frames.is_colour else f.shape == size for f in shown)
        except SkipInstance:
            continue
        except ExportError as error:
            if row.get("has_pixeldata"):
                refused[row["file"]] = error.reason.value
    assert refused == REFUSED


def test_stored_values_are_those_of_the_catalogue(corpus: Path, corpus_catalog: list[dict[str, Any]]) -> None:
    """The catalogue holds SHA-256 (24 digits) of the array that pydicom with pylibjpeg, gdcm or pyjpegls decoded."""
    same, compared, differing = 0, 0, set()
    for row, instance in instances(corpus, corpus_catalog):
        lossy_jpeg = instance.transfer_syntax in LOSSY and row["photometric"].startswith("YBR")
        if not row.get("pixel_sha") or row["file"] in REFUSED | dict.fromkeys(LABELLED_WRONGLY, ""):
            continue
        frames = open_frames(instance, LIMITS)
        decoded = list(frames.stored())
        array = np.stack(decoded) if len(decoded) > 1 else decoded[0]
        if str(row["dtype"]).startswith(">"):
            array = array.astype(row["dtype"])
        compared += 1
        if digest(array) == row["pixel_sha"]:
            same += 1
        elif frames.is_colour and row["photometric"] != "PALETTE COLOR":  # the catalogue's colours are RGB
            shown = list(frames.display())
            same += digest(np.stack(shown) if len(shown) > 1 else shown[0]) == row["pixel_sha"] or lossy_jpeg
        elif instance.transfer_syntax in LOSSY:  # another inverse DCT, another rounding
            assert abs(int(array.max()) - row["px_max"]) <= 3
            same += 1
        else:
            differing.add(row["file"])
    assert differing == set()
    assert same == compared > 230


@pytest.mark.slow
def test_a_codestream_padded_behind_its_tiles_is_read(corpus: Path, peer: Callable[[str], str], tmp_path: Path) -> None:
    """No decoder of the catalogue reads this chest radiograph; FFmpeg's own one does, and gives the same values."""
    instance = Instance.open(corpus / "pydicom__pylibjpeg-data" / "966.dcm", LIMITS)
    frames = open_frames(instance, LIMITS)
    values = next(iter(frames.stored()))
    assert any("tile-part" in warning for warning in frames.warnings)
    codestream = tmp_path / "frame.j2k"
    codestream.write_bytes(next(iter(frames.encoded())))
    command = [peer("ffmpeg"), "-v", "error", "-i", str(codestream), "-f", "rawvideo", "-pix_fmt", "gray16le", "-"]
    raw = subprocess.run(command, capture_output=True, check=True, timeout=100).stdout
    np.testing.assert_array_equal(np.frombuffer(raw, "<u2").reshape(values.shape) >> 4, values)


@pytest.mark.parametrize("name", ["MR1", "NM1"])
def test_htj2k_is_exact_against_the_uncompressed_original(corpus: Path, name: str) -> None:
    folder = corpus / "chafey__DICOMHTJ2K"
    pair = [Instance.open(folder / f"{name}_{form}", LIMITS) for form in ("JPH", "UNC")]
    compressed, original = (next(iter(open_frames(instance, LIMITS).stored())) for instance in pair)
    np.testing.assert_array_equal(compressed, original)


def pnm(data: bytes) -> np.ndarray:
    """An 8-bit PGM or PPM."""
    fields = data.split(maxsplit=4)
    kind, columns, rows, _ = fields[:4]
    channels = 3 if kind == b"P6" else 1
    count = int(rows) * int(columns) * channels
    return np.frombuffer(data[-count:], np.uint8).reshape(int(rows), int(columns), channels)


# Where DCMTK is known to differ, and why.
DCMTK_DIFFERS = {
    "sm_image_grayscale": "no colour space that it reads",
    "XA1_JPH": "it reads the bare codestream as native pixels",
    "htj2k-XA1_JPH": "it reads the bare codestream as native pixels",
    "CTImage.dcm_JPEGLSLossyTransferSyntax_1.2.840.10008.1.2.4.81.dcm": "it applies no window here",
    "rtdose_expb": "it swaps 32-bit cells by halves",
    "CT0012": "it knows neither functional groups nor supplemental palettes",
}


@pytest.mark.slow
def test_display_values_are_those_of_dcmtk(
    corpus: Path, corpus_catalog: list[dict[str, Any]], peer: Callable[[str], str]
) -> None:
    """Within 1 of 255; YBR within 2, since DCMTK takes 127.5 for the neutral chrominance, the Standard 128."""
    compared, far = 0, {}
    for row, instance in instances(corpus, corpus_catalog):
        name = Path(row["file"]).name
        pixels = instance.pixels
        assert pixels is not None
        if row["file"] in REFUSED or row["file"] in LABELLED_WRONGLY or pixels.bits_allocated == 1:
            continue  # DCMTK shows the 1 of single bits as 128
        if any(name.startswith(known) for known in DCMTK_DIFFERS):
            continue
        frames = open_frames(instance, LIMITS)
        ours = next(iter(frames.display(DisplayOptions(automatic="frame"))))
        rendering = frames.rendering
        if rendering.voi == "automatic" and rendering.modality and "PixelPaddingValue" in instance.header:
            continue  # DCMTK counts padding
        if rendering.window is None or (rendering.voi == "automatic" and pixels.bits_stored <= 8):
            options = ["+Wl", "1"] if rendering.voi == "LUT" else ["-W"]
        elif rendering.voi == "automatic":
            options = ["+Wm"]
        else:
            options = ["+Ww", *(str(number) for number in rendering.window)]
        program = peer("dcml2pnm" if instance.transfer_syntax in JPEG_LS else "dcmj2pnm")
        command = [program, "-q", "-O", "-S", *options, str(corpus / row["file"])]
        result = subprocess.run(command, capture_output=True, check=False, timeout=100)
        if result.returncode or not result.stdout:
            continue
        theirs = pnm(result.stdout)
        difference = int(np.abs(theirs.astype(int) - (ours if ours.ndim == 3 else ours[..., np.newaxis])).max())
        compared += 1
        native_ybr = pixels.photometric.startswith("YBR") and instance.transfer_syntax not in LOSSY
        if difference > (2 if native_ybr else 1):
            far[row["file"]] = difference
    assert far == {}
    assert compared > 140


DECODE = """
import hashlib, sys
from pathlib import Path
from exporter.errors import ExportError, SkipInstance
from exporter.frames import open_frames
from exporter.dicom.instance import Instance
from exporter.settings.settings import LimitSettings
limits, total = LimitSettings(), hashlib.sha256()
for path in sorted(p for p in Path(sys.argv[1]).rglob("*") if p.is_file()):
    try:
        instance = Instance.open(path, limits)
        if instance.pixels is not None and not (frames := open_frames(instance, limits)).is_video_stream:
            for frame in frames.stored():
                total.update(frame.tobytes())
            for frame in frames.display():
                total.update(frame.tobytes())
    except (ExportError, SkipInstance) as error:
        total.update(str(error).encode())
print(total.hexdigest())
"""


@pytest.mark.slow
def test_two_runs_give_the_same_bytes_whatever_memory_held_before(corpus: Path) -> None:
    """`MALLOC_PERTURB_` fills fresh and freed memory with different bytes in each run."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", DECODE, str(corpus)],
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
            env={"MALLOC_PERTURB_": fill, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        ).stdout
        for fill in ("85", "170")
    }
    assert len(digests) == 1
