"""The de-identified instance as a DICOM file: valid, with the pixels that may be seen, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.rle import _rle_decode_frame as rle_decode_frame
from pydicom.uid import RLELossless

from exporter.frames.bare_codestream import bare_codestream
from exporter.frames.codestream import sniff
from exporter.outcome import Exported, MediaType
from exporter.writers.dicom_file import rle_frame
from tests.exporter.frames.conftest import build
from tests.exporter.privacy.kinds import planted_file
from tests.exporter.privacy.pixels.test_masked import CODINGS, area, picture
from tests.exporter.work.test_deidentification import found, key_file, run, ultrasound

if TYPE_CHECKING:
    from pathlib import Path

    from tests.exporter.frames.conftest import Build
    from tests.exporter.privacy.pixels.test_masked import Coding

__all__ = ["build", "key_file"]

EVERY_FILE = os.environ.get("EXPORTER_TEST_VALIDITY") == "full"
"""Whether all instances of the corpus are judged, not a sample of the small ones."""
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DECODERS: dict[str, Any] = {
    "JPEG gray": imagecodecs.jpeg8_decode,
    "JPEG 4:2:0, progressive": imagecodecs.jpeg8_decode,
    "JPEG lossless": imagecodecs.jpeg8_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "JPEG 2000 RGB": imagecodecs.jpeg2k_decode,
    "HTJ2K": imagecodecs.jpeg2k_decode,
}
_UNREAD = re.compile("not valid DICOM|read failed")
"""What dciodvfy says of a source that it does not read to its end: it has not seen all errors of it."""
BY_THE_STANDARD = re.compile(
    r"PresentationCreation(Date|Time)|ICCProfile|PointCoordinatesData|FloatingPointValues"
    r"|ReasonForRequestedProcedureCodeSequence"
)
"""What the Basic Profile removes though an IOD needs it, and bytes of which nothing says what they hold."""


def dicom_file(path: Path, folder: Path, key: Path, **privacy: Any) -> Path | None:
    """The DICOM file of one instance; None where there is none."""
    outcome = run(path, folder, key, write_dicom=True, **privacy)
    media = outcome.media if isinstance(outcome, Exported) else ()
    return next((folder / one.file for one in media if one.kind is MediaType.DICOM), None)


@pytest.mark.parametrize("name", ["native gray", "RLE RGB", "JPEG 2000", "JPEG 4:2:0"])
def test_its_pixels_are_those_of_the_source_where_kept_and_black_elsewhere(
    name: str, tmp_path: Path, key_file: Path, build: Build
) -> None:
    coding = CODINGS[name]
    path = ultrasound(build, coding, picture(7, 1, samples=coding.samples), PatientName="DOE^JANE")
    written = dicom_file(path, tmp_path / "partial", key_file)
    assert written is not None
    source, made = pydicom.dcmread(path), pydicom.dcmread(written)
    kept = area().beyond_reach(coding.reach).mask()
    values = made.pixel_array
    if coding.lossless:
        assert np.array_equal(values[kept], source.pixel_array[kept])
    assert not values[~kept].any()
    assert made.BurnedInAnnotation == "NO"
    assert made.SOPInstanceUID != source.SOPInstanceUID
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    assert b"DOE" not in written.read_bytes()


def test_two_instances_that_differ_in_what_is_hidden_or_removed_give_one_file(
    tmp_path: Path, key_file: Path, build: Build
) -> None:
    files = []
    for seed, patient in ((1, "DOE^JANE"), (2, "ROE")):
        values = picture(7, seed, samples=3)
        path = ultrasound(build, CODINGS["JPEG 4:2:0"], values, PatientName=patient, AccessionNumber=None)
        written = dicom_file(path, tmp_path / str(seed), key_file)
        assert written is not None
        files.append(written.read_bytes())
    assert files[0] == files[1]


def commented(data: bytes, text: bytes) -> bytes:
    """A codestream with a comment, for JPEG with a thumbnail's segment too, and bytes behind its end."""
    mark, at = (b"\xff\x64", 2 + 2 + int.from_bytes(data[4:6], "big")) if data[1] == 0x4F else (b"\xff\xfe", 2)
    further = b"\xff\xe2" + (len(text) + 2).to_bytes(2, "big") + text if data[1] == 0xD8 else b""
    comment = mark + (len(text) + 4).to_bytes(2, "big") + b"\0\1" + text
    return data[:at] + further + comment + data[at:] + text


def coded(coding: Coding, data: bytes) -> Coding:
    """A coding that gives one codestream, whatever the picture."""
    return replace(coding, encode=lambda _: data)


COPIED = ["JPEG gray", "JPEG 4:2:0, progressive", "JPEG lossless", "JPEG-LS", "JPEG 2000 RGB", "HTJ2K"]


@pytest.mark.parametrize("name", COPIED)
def test_codestreams_of_which_nothing_is_hidden_are_copied_without_what_stands_in_them(
    name: str, tmp_path: Path, key_file: Path, build: Build
) -> None:
    coding, files = CODINGS[name], []
    values = picture(7, 1, samples=coding.samples)
    for number, text in enumerate((b"DOE^JANE", b"RICHARD ROE")):
        made = coded(coding, commented(coding.encode(values), text)).instance(build, values, SOPClassUID=CAPTURE)
        made.close()
        written = dicom_file(made.path, tmp_path / str(number), key_file, pixels="allow")
        assert written is not None
        files.append(written.read_bytes())
    assert written is not None
    source, result = pydicom.dcmread(made.path), pydicom.dcmread(written)
    assert result.file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID
    assert result.PhotometricInterpretation == source.PhotometricInterpretation
    (before,), (after,) = (list(generate_frames(one.PixelData, number_of_frames=1)) for one in (source, result))
    assert np.array_equal(DECODERS[name](after), DECODERS[name](before))
    assert len(after) <= len(coding.encode(values)) + 1
    assert files[0] == files[1]


def test_a_codestream_of_more_bits_than_are_stored_is_coded_anew(tmp_path: Path, key_file: Path, build: Build) -> None:
    values = picture(7, 1) & 0x7F
    overlay = values | 0x80
    files = []
    for number, one in enumerate((values, overlay)):
        coding = coded(CODINGS["JPEG-LS"], CODINGS["JPEG-LS"].encode(one))
        made = coding.instance(build, values, SOPClassUID=CAPTURE, BitsStored=7, HighBit=6)
        made.close()
        written = dicom_file(made.path, tmp_path / str(number), key_file, pixels="allow")
        assert written is not None
        files.append(written.read_bytes())
    assert written is not None
    result = pydicom.dcmread(written)
    assert result.file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(result.pixel_array, values)
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["JPEG-LS", "JPEG 2000 RGB", "RLE RGB"])
def test_masked_frames_of_encapsulated_sources_are_coded_without_loss(
    name: str, tmp_path: Path, key_file: Path, build: Build
) -> None:
    coding = CODINGS[name]
    written = dicom_file(
        ultrasound(build, coding, picture(7, 1, samples=coding.samples)), tmp_path / "partial", key_file
    )
    assert written is not None
    result = pydicom.dcmread(written)
    assert result.file_meta.TransferSyntaxUID == RLELossless
    kept = area().mask()
    assert np.array_equal(result.pixel_array[kept], picture(7, 1, samples=coding.samples)[kept])


@pytest.mark.parametrize("dtype", ["u1", "<i2", "<u4"])
@pytest.mark.parametrize("samples", [1, 3])
def test_pydicom_decodes_what_is_coded_by_rle(dtype: str, samples: int) -> None:
    bounds = np.iinfo(dtype)
    shape = (5, 300, samples)[: 2 + (samples > 1)]
    values = np.random.default_rng(1).integers(bounds.min, bounds.max, shape, dtype)
    values[1:4, 20:280] = 7
    pixels = rle_decode_frame(rle_frame(values), 5, 300, samples, 8 * values.dtype.itemsize)
    found = np.frombuffer(pixels, dtype).reshape(samples, 5, 300)
    assert np.array_equal(found, values.reshape(5, 300, samples).transpose(2, 0, 1))


@pytest.mark.parametrize("name", COPIED)
def test_a_codestream_that_is_cut_is_not_copied_or_holds_no_more(name: str) -> None:
    coding = CODINGS[name]
    whole = coding.encode(picture(7, 1, samples=coding.samples))
    header = sniff(whole)
    assert header is not None
    for end in range(30, len(whole) - 2, max(1, len(whole) // 50)):
        found = bare_codestream(whole[:end], header)
        assert found is None or len(found) <= end + 2


@pytest.mark.parametrize("kind", ["enhanced", "structures"])
def test_no_planted_token_is_in_it_and_kinds_without_media_have_one(kind: str, tmp_path: Path, key_file: Path) -> None:
    tokens = planted_file(tmp_path / "a.dcm", kind, 2, SOPInstanceUID="1.2.826.0.1.3680043.8.498.9")
    folder = tmp_path / "partial"
    outcome = run(tmp_path / "a.dcm", folder, key_file, write_dicom=True, pixels="allow")
    assert isinstance(outcome, Exported)
    assert outcome.media[-1].kind is MediaType.DICOM
    assert found(tokens, outcome, folder) == set()


def test_bits_of_a_segmentation_stay_bits(tmp_path: Path, key_file: Path, build: Build) -> None:
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 7), np.uint8)
    raw = np.packbits(bits.ravel(), bitorder="little").tobytes()
    elements = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4", "SegmentationType": "BINARY"}
    made = build(
        raw, vr="OB", Rows=5, Columns=7, NumberOfFrames=3, BitsAllocated=1, BitsStored=1, HighBit=0, **elements
    )
    made.close()
    written = dicom_file(made.path, tmp_path / "partial", key_file, pixels="allow")
    assert written is not None
    assert np.array_equal(pydicom.dcmread(written).pixel_array, bits)


def test_it_is_not_written_unless_asked_for(tmp_path: Path, key_file: Path, build: Build) -> None:
    path = ultrasound(build, CODINGS["native gray"], picture(7, 1))
    outcome = run(path, tmp_path / "partial", key_file)
    assert isinstance(outcome, Exported)
    assert [one.kind for one in outcome.media] == [MediaType.IMAGE]


# -- judges ----------------------------------------------------------------------------------------------------------


def errors_of(path: Path) -> set[str]:
    """Errors that dciodvfy finds, without UIDs; one entry that says so where it cannot read the file."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, check=False)
    lines = done.stderr.decode("latin-1").splitlines()
    return {re.sub(r"<[0-9.]*>", "<>", line.strip()) for line in lines if line.startswith("Error")}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs Debian's dicom3tools")
def test_dciodvfy_finds_no_error_that_the_source_does_not_have(
    tmp_path: Path, key_file: Path, corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    wrong: dict[str, list[str]] = {}
    checked = 0
    rows = corpus_catalog if EVERY_FILE else [row for row in corpus_catalog if int(row["bytes"]) < 400_000][::6]
    for number, row in enumerate(rows):
        path, folder = corpus / row["file"], tmp_path / str(number)
        written = dicom_file(path, folder, key_file, pixels="allow")
        source = errors_of(path)
        if written is not None and not any(_UNREAD.search(error) for error in source):
            assert subprocess.run(["dcmdump", "-q", str(written)], capture_output=True, check=False).returncode == 0
            checked += 1
            new = {error for error in errors_of(written) - source if not BY_THE_STANDARD.search(error)}
            if new:
                wrong[row["file"]] = sorted(new)
        shutil.rmtree(folder)
    assert checked > 25
    assert wrong == {}
