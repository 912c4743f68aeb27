"""Masked frames: hidden pixels are black, kept ones are exact, and neither knows of the other, for every codec.

Two pictures that differ in what is hidden only are encoded in the same way; what comes out of both must be equal, byte
for byte. What is kept is compared with an independent decoder: the samples that were encoded, or FFmpeg's.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import av
import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from exporter.errors import PrivacyUnknown
from exporter.frames import DisplayOptions, open_frames
from exporter.frames.reader import open_reader
from exporter.privacy.pixels import LadderStep, MaskedReader, PixelDecision, PixelPolicy, decide, masked_picture
from exporter.privacy.pixels.area import OWN_PIXEL, KeptArea, Reach, Rectangle
from exporter.settings.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.dicom.instance import Instance
    from exporter.frames.reader import FrameReader
    from tests.exporter.frames.conftest import Build

SYNTAX = "1.2.840.10008.1.2."
LIMITS = LimitSettings()
ROWS, COLUMNS = 160, 192
KEPT = Rectangle(21, 13, 167, 145)
"""No edge of it lies on the grid of any codec."""
Array = np.ndarray


def area(*kept: Rectangle, hidden: tuple[Rectangle, ...] = ()) -> KeptArea:
    return KeptArea(ROWS, COLUMNS, kept or (KEPT,), hidden)


def decision(kept: KeptArea | None, policy: PixelPolicy = PixelPolicy.DENY) -> PixelDecision:
    return PixelDecision(LadderStep.ULTRASOUND_REGIONS, "the ultrasound regions are kept", policy, kept)


def masked(instance: Instance, kept: KeptArea, policy: PixelPolicy = PixelPolicy.DENY) -> MaskedReader:
    pixels = instance.pixels
    assert pixels is not None
    return MaskedReader(open_reader(instance, pixels, LIMITS, []), instance, pixels, decision(kept, policy))


def picture(seed: int, hidden_seed: int, *, samples: int = 1, kept: KeptArea | None = None) -> Array:
    """Noise over waves; only what is hidden depends on `hidden_seed`, and there it is as unlike as can be."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    shape = (ROWS, COLUMNS, samples)
    waves = (100 + 60 * np.sin(x / 7) + 40 * np.cos(y / 5))[..., np.newaxis]
    shown = np.clip(waves + np.random.default_rng(seed).normal(0, 20, shape), 0, 255).astype(np.uint8)
    other = np.random.default_rng(hidden_seed).choice(np.array([0, 255], np.uint8), shape)
    mask = (kept or area()).mask()[..., np.newaxis]
    made: Array = np.where(mask, shown, other)
    return made if samples == 3 else made[..., 0]


def jpeg(values: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=60, **options)
    return file.getvalue()


def rle(values: Array) -> bytes:
    """RLE of planes, as literal runs (PS3.5 annex G)."""
    planes = [values] if values.ndim == 2 else [values[..., sample] for sample in range(3)]
    segments = []
    for plane in planes:
        raw = plane.tobytes()
        runs = [raw[at : at + 128] for at in range(0, len(raw), 128)]
        coded = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(coded + b"\0" * (len(coded) % 2))
    offsets = [64 + sum(map(len, segments[:number])) for number in range(len(segments))]
    head = np.array([len(segments), *offsets] + [0] * (15 - len(segments)), "<u4").tobytes()
    return head + b"".join(segments)


def deflated(values: Array) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(values.tobytes()) + stream.flush()


def in_422(values: Array) -> bytes:
    """Native YBR_FULL_422: chrominance is the mean of two pixels, hidden or not."""
    chroma = values.reshape(ROWS, COLUMNS // 2, 2, 3).astype(np.uint16)[..., 1:].mean(axis=2).astype(np.uint8)
    return np.dstack([values[:, 0::2, 0], values[:, 1::2, 0], chroma[..., 0], chroma[..., 1]]).tobytes()


@dataclass(frozen=True)
class Coding:
    """One way of storing a picture, and what it may cost at the border."""

    tail: str
    encode: Callable[[Array], bytes]
    samples: int = 1
    photometric: str = "MONOCHROME2"
    native: bool = False
    lossless: bool = True
    reach: Reach = OWN_PIXEL
    planar: int | None = None

    def instance(self, build: Build, values: Array, behind: bytes = b"", **elements: Any) -> Instance:
        data = self.encode(values)
        colour = {"PlanarConfiguration": self.planar or 0} if self.samples == 3 else {}
        pixels = data + behind + b"\0" * ((len(data) + len(behind)) % 2) if self.native else [data]
        return build(
            pixels,
            SYNTAX + self.tail,
            vr="OB",
            Rows=ROWS,
            Columns=COLUMNS,
            BitsAllocated=8,
            SamplesPerPixel=self.samples,
            PhotometricInterpretation=self.photometric,
            **colour,
            **elements,
        )


CODINGS = {
    "native gray": Coding("1", Array.tobytes, native=True),
    "native RGB": Coding("1", Array.tobytes, 3, "RGB", native=True),
    "native RGB by plane": Coding("1", lambda v: v.transpose(2, 0, 1).tobytes(), 3, "RGB", native=True, planar=1),
    "native YBR": Coding("1", Array.tobytes, 3, "YBR_FULL", native=True),
    "native YBR 4:2:2": Coding("1", in_422, 3, "YBR_FULL_422", native=True, lossless=False, reach=Reach(2, 1)),
    "RLE gray": Coding("5", rle),
    "RLE RGB": Coding("5", rle, 3, "RGB"),
    "deflated frames": Coding("8.1", deflated),
    "JPEG gray": Coding("4.50", jpeg, lossless=False, reach=Reach(8, 8)),
    "JPEG gray, progressive": Coding(
        "4.50", lambda v: jpeg(v, progressive=True), lossless=False, reach=Reach(8, 8, 16, 16)
    ),
    "JPEG 4:4:4": Coding("4.50", lambda v: jpeg(v, subsampling=0), 3, "YBR_FULL", lossless=False, reach=Reach(8, 8)),
    "JPEG 4:2:2": Coding(
        "4.50", lambda v: jpeg(v, subsampling=1), 3, "YBR_FULL_422", lossless=False, reach=Reach(16, 8, 2, 1)
    ),
    "JPEG 4:2:0": Coding(
        "4.50", lambda v: jpeg(v, subsampling=2), 3, "YBR_FULL_422", lossless=False, reach=Reach(16, 16, 2, 2)
    ),
    "JPEG 4:2:0, progressive": Coding(
        "4.50",
        lambda v: jpeg(v, subsampling=2, progressive=True),
        3,
        "YBR_FULL_422",
        lossless=False,
        reach=Reach(16, 16, 34, 34),
    ),
    "JPEG lossless": Coding("4.70", lambda v: imagecodecs.jpeg8_encode(v, lossless=True)),
    "JPEG-LS": Coding("4.80", lambda v: imagecodecs.jpegls_encode(v, out=1 << 20)),
    "JPEG 2000": Coding("4.90", lambda v: imagecodecs.jpeg2k_encode(v, codecformat="j2k", reversible=True)),
    "JPEG 2000 RGB": Coding(
        "4.90", lambda v: imagecodecs.jpeg2k_encode(v, codecformat="j2k", reversible=True), 3, "YBR_RCT"
    ),
    "HTJ2K": Coding("4.201", lambda v: imagecodecs.htj2k_encode(v, reversible=True)),
    "JPEG XL": Coding("4.110", lambda v: imagecodecs.jpegxl_encode(v, lossless=True)),
}

EVERYWHERE = {
    "JPEG 2000 with loss": Coding(
        "4.91", lambda v: imagecodecs.jpeg2k_encode(v, level=30, codecformat="j2k", reversible=False)
    ),
    "JPEG 2000 with loss that says lossless": Coding(
        "4.90", lambda v: imagecodecs.jpeg2k_encode(v, level=30, codecformat="j2k", reversible=False)
    ),
    "JPEG 2000 whose syntax permits loss": Coding(
        "4.91", lambda v: imagecodecs.jpeg2k_encode(v, codecformat="j2k", reversible=True)
    ),
    "JPEG-LS with loss": Coding("4.81", lambda v: imagecodecs.jpegls_encode(v, level=3, out=1 << 20)),
    "JPEG XL with loss that says lossless": Coding("4.110", lambda v: imagecodecs.jpegxl_encode(v, distance=2.0)),
    "JPEG XL with loss": Coding("4.112", lambda v: imagecodecs.jpegxl_encode(v, distance=2.0)),
}


@pytest.mark.parametrize("to_rgb", [False, True])
@pytest.mark.parametrize("name", CODINGS)
def test_what_is_kept_does_not_depend_on_what_is_hidden(name: str, to_rgb: bool, build: Build) -> None:
    coding = CODINGS[name]
    found = []
    for hidden_seed in (1, 2):
        values = picture(7, hidden_seed, samples=coding.samples)
        reader = masked(coding.instance(build, values), area())
        found.append(reader.samples(0, to_rgb=to_rgb))
        assert reader.area(0) == area().beyond_reach(coding.reach)
    assert found[0].values.tobytes() == found[1].values.tobytes()
    assert (found[0].colour, found[0].bits) == (found[1].colour, found[1].bits)


@pytest.mark.parametrize("name", [name for name, coding in CODINGS.items() if not coding.lossless])
def test_without_its_reach_a_codec_lets_hidden_pixels_change_kept_ones(name: str, build: Build) -> None:
    """Each reach is needed: the stated area itself differs."""
    coding = CODINGS[name]
    found = []
    for hidden_seed in (1, 2):
        instance = coding.instance(build, picture(7, hidden_seed, samples=coding.samples))
        assert instance.pixels is not None
        values = open_reader(instance, instance.pixels, LIMITS, []).samples(0, to_rgb=False).values
        found.append(values[area().mask()])
    assert found[0].tobytes() != found[1].tobytes()


@pytest.mark.parametrize("name", [name for name, coding in CODINGS.items() if coding.lossless])
def test_lossless_kept_pixels_are_those_that_were_encoded(name: str, build: Build) -> None:
    coding = CODINGS[name]
    values = picture(7, 1, samples=coding.samples)
    shown = masked(coding.instance(build, values), area()).samples(0, to_rgb=False)
    mask = area().mask()
    assert np.array_equal(shown.values[mask], values[mask])
    black = [0, 128, 128] if shown.colour == "YBR_FULL" else 0
    assert (shown.values[~mask] == black).all()


@pytest.mark.parametrize("name", [name for name, coding in CODINGS.items() if coding.tail == "4.50"])
def test_ffmpeg_too_finds_no_trace_of_hidden_pixels_in_the_kept_luminance(name: str, build: Build) -> None:
    """An independent decoder with its own cosine transform; it gives luminance as it is coded."""
    coding = CODINGS[name]
    planes, shown = [], []
    for hidden_seed in (1, 2):
        values = picture(7, hidden_seed, samples=coding.samples)
        context = av.CodecContext.create("mjpeg", "r")
        (frame,) = context.decode(av.Packet(coding.encode(values))) + context.decode(None)
        planes.append(frame.reformat(format="gray").to_ndarray() if "gray" in frame.format.name else luma(frame))
        reader = masked(coding.instance(build, values), area())
        shown.append(reader.samples(0, to_rgb=False).values)
        mask = reader.area(0).mask()
    assert mask.any()
    assert np.array_equal(planes[0][mask], planes[1][mask])
    ours = shown[0] if coding.samples == 1 else shown[0][..., 0]
    assert np.abs(ours[mask].astype(int) - planes[0][mask]).max() <= 1


def luma(frame: av.VideoFrame) -> Array:
    plane = frame.planes[0]
    return np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)[:ROWS, :COLUMNS]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_codecs_that_mix_the_whole_picture_are_left_to_the_policy(name: str, build: Build) -> None:
    instance = EVERYWHERE[name].instance(build, picture(7, 1))
    with pytest.raises(PrivacyUnknown, match="a mask would not be exact"):
        masked(instance, area()).samples(0, to_rgb=False)
    assert not masked(instance, area(), PixelPolicy.BLANK).samples(0, to_rgb=False).values.any()
    allowed = masked(instance, area(), PixelPolicy.ALLOW).samples(0, to_rgb=False).values
    assert not allowed[~area().mask()].any()
    assert allowed[area().mask()].any()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_they_pass_where_nothing_is_hidden(name: str, build: Build) -> None:
    values = EVERYWHERE[name].instance(build, picture(7, 1))
    reader = masked(values, KeptArea.whole(ROWS, COLUMNS))
    assert values.pixels is not None
    plain = open_reader(values, values.pixels, LIMITS, []).samples(0, to_rgb=False).values
    assert np.array_equal(reader.samples(0, to_rgb=False).values, plain)


def test_a_lossless_syntax_is_not_believed_where_the_values_are_said_to_be_approximate(build: Build) -> None:
    instance = CODINGS["JPEG 2000"].instance(build, picture(7, 1), LossyImageCompression="01")
    with pytest.raises(PrivacyUnknown):
        masked(instance, area()).samples(0, to_rgb=False)


def test_a_wavelet_that_a_tile_part_changes_is_found(build: Build) -> None:
    """A COD segment in the header of the first tile-part, with the 9/7 wavelet."""
    data = CODINGS["JPEG 2000"].encode(picture(7, 1))
    at = data.index(b"\xff\x52")
    cod = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    other = cod[:13] + b"\0" + cod[14:]
    sot, sod = data.index(b"\xff\x90"), data.index(b"\xff\x93")
    length = int.from_bytes(data[sot + 6 : sot + 10], "big")
    longer = (length + len(other)).to_bytes(4, "big") if length else data[sot + 6 : sot + 10]
    changed = data[: sot + 6] + longer + data[sot + 10 : sod] + other + data[sod:]
    coding = Coding("4.90", lambda _: changed)
    with pytest.raises(PrivacyUnknown):
        masked(coding.instance(build, picture(7, 1)), area()).samples(0, to_rgb=False)


@pytest.mark.parametrize("name", CODINGS)
def test_nothing_encoded_is_given(name: str, build: Build) -> None:
    reader: FrameReader = masked(CODINGS[name].instance(build, picture(7, 1, samples=CODINGS[name].samples)), area())
    assert reader.codec is None
    assert reader.fits(0)
    with pytest.raises(PrivacyUnknown, match="its encoded form is not given"):
        reader.encoded(0)


def test_a_refused_instance_has_no_reader(build: Build) -> None:
    instance = CODINGS["native gray"].instance(build, picture(7, 1))
    assert instance.pixels is not None
    reader = open_reader(instance, instance.pixels, LIMITS, [])
    refused = decision(None)
    with pytest.raises(PrivacyUnknown):
        MaskedReader(reader, instance, instance.pixels, refused)
    with pytest.raises(PrivacyUnknown):
        masked_picture(np.zeros((ROWS, COLUMNS), np.uint8), refused)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_region_of_a_subsampled_jpeg_is_free_of_what_surrounds_it(build: Build, data: st.DataObject) -> None:
    left, right = sorted(data.draw(st.lists(st.integers(0, COLUMNS), min_size=2, max_size=2, unique=True)))
    top, bottom = sorted(data.draw(st.lists(st.integers(0, ROWS), min_size=2, max_size=2, unique=True)))
    hole = data.draw(st.builds(lambda x, y: Rectangle(x, y, x + 9, y + 5), st.integers(0, 180), st.integers(0, 150)))
    kept = area(Rectangle(left, top, right, bottom), hidden=(hole,))
    name = data.draw(st.sampled_from(["JPEG gray", "JPEG 4:2:0", "JPEG 4:2:2", "native YBR 4:2:2", "RLE RGB"]))
    coding = CODINGS[name]
    found = {
        masked(coding.instance(build, picture(3, seed, samples=coding.samples, kept=kept)), kept)
        .samples(0, to_rgb=True)
        .values.tobytes()
        for seed in (1, 2)
    }
    assert len(found) == 1


@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_progressive_jpeg_of_which_scans_are_missing_is_free_of_what_surrounds_it(
    subsampling: int, build: Build
) -> None:
    """libjpeg guesses the coefficients that no scan gives from the blocks around."""
    plain, found = [], []
    for seed in (1, 2):
        data = jpeg(picture(7, seed, samples=3), subsampling=subsampling, progressive=True)
        second = data.index(b"\xff\xc4", data.index(b"\xff\xda"))
        coding = Coding("4.55", lambda _, short=data[:second] + b"\xff\xd9": short, 3, "YBR_FULL")
        instance = coding.instance(build, picture(7, seed, samples=3))
        assert instance.pixels is not None
        plain.append(open_reader(instance, instance.pixels, LIMITS, []).samples(0, to_rgb=True).values)
        reader = masked(instance, area())
        found.append(reader.samples(0, to_rgb=True).values)
    assert reader.area(0).mask().any()
    assert np.array_equal(found[0], found[1])
    blocks = area().beyond_reach(Reach(16, 16, 2, 2)).mask()
    assert not np.array_equal(plain[0][blocks], plain[1][blocks])


def test_frames_after_the_first_and_bytes_behind_the_last_are_masked_or_not_read(build: Build) -> None:
    found = []
    for seed in (1, 2):
        both = np.concatenate([picture(7, 0), picture(8, seed)])
        instance = CODINGS["native gray"].instance(build, both, behind=bytes([seed]) * 10, NumberOfFrames=2)
        reader = masked(instance, area())
        found.append([reader.samples(index, to_rgb=False).values.tobytes() for index in (0, 1)])
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_a_comment_in_a_jpeg_changes_nothing(build: Build) -> None:
    found = set()
    for comment in (b"DOE JANE", b"somebody else entirely"):
        coding = Coding("4.50", lambda v, comment=comment: jpeg(v, comment=comment))
        found.add(masked(coding.instance(build, picture(7, 1)), area()).samples(0, to_rgb=False).values.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("coded", [False, True])
def test_bits_above_bits_stored_are_cleared(coded: bool, signed: int, hides: bool, build: Build) -> None:
    """Overlays of old instances stand in them (PS3.5 8.1.2)."""
    stored = np.random.default_rng(1).integers(0, 1 << 12, (ROWS, COLUMNS)).astype("<u2")
    found = []
    for seed in (1, 2):
        spare = np.random.default_rng(seed).integers(0, 16, (ROWS, COLUMNS)).astype("<u2") << 12
        values = (stored | spare).astype("<u2")
        pixels: Any = [imagecodecs.jpegls_encode(values, out=1 << 20)] if coded else values.tobytes()
        elements = {"BitsStored": 12, "PixelRepresentation": signed, "Rows": ROWS, "Columns": COLUMNS}
        instance = build(pixels, SYNTAX + ("4.80" if coded else "1"), **elements)
        kept = area() if hides else KeptArea.whole(ROWS, COLUMNS)
        samples = masked(instance, kept).samples(0, to_rgb=False)
        assert samples.bits == 12
        found.append(samples.values)
    expected = np.where(stored > 2047, stored.astype(int) - 4096, stored) if signed else stored
    mask = kept.mask()
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0][mask], expected[mask])


@dataclass(frozen=True)
class Gray:
    """A kind of gray, and the stored value that is black in it."""

    black: int
    elements: dict[str, Any]


GRAYS = {
    "MONOCHROME2": Gray(0, {}),
    "MONOCHROME1": Gray(4095, {"PhotometricInterpretation": "MONOCHROME1"}),
    "MONOCHROME2, signed": Gray(-2048, {"PixelRepresentation": 1}),
    "MONOCHROME1, signed": Gray(2047, {"PixelRepresentation": 1, "PhotometricInterpretation": "MONOCHROME1"}),
    "inverse presentation": Gray(4095, {"PresentationLUTShape": "INVERSE"}),
    "falling slope": Gray(4095, {"RescaleSlope": "-1", "RescaleIntercept": "0"}),
    "dark padding": Gray(-2000, {"PixelRepresentation": 1, "PixelPaddingValue": -2000}),
    "light padding": Gray(0, {"PixelPaddingValue": 4095}),
    "padding out of range": Gray(-2048, {"PixelRepresentation": 1, "PixelPaddingValue": -4096}),
}


@pytest.mark.parametrize("name", GRAYS)
def test_hidden_gray_is_the_darkest_stored_value_and_shown_black(name: str, build: Build) -> None:
    gray = GRAYS[name]
    stored = np.random.default_rng(1).integers(0, 4096, (ROWS, COLUMNS)).astype("<u2")
    signed = bool(gray.elements.get("PixelRepresentation"))
    window = {"WindowCenter": "0" if signed else "-2048" if "RescaleSlope" in gray.elements else "2048"}
    instance = build(
        stored.tobytes(), BitsStored=12, Rows=ROWS, Columns=COLUMNS, WindowWidth="2000", **window, **gray.elements
    )
    values = masked(instance, area()).samples(0, to_rgb=False).values
    assert set(values[~area().mask()].tolist()) == {gray.black}
    shown = displayed(instance)
    assert (shown[~area().mask()] == 0).all()
    assert (shown[area().mask()] > 0).any()


def displayed(instance: Instance) -> Array:
    """The first frame as it would be shown with the mask where frames are read."""
    frames = open_frames(instance, LIMITS)
    frames._reader = masked(instance, area())
    return next(frames.display(DisplayOptions()))


@pytest.mark.parametrize("name", CODINGS)
def test_what_is_shown_and_what_is_said_of_it_does_not_depend_on_what_is_hidden(name: str, build: Build) -> None:
    """Also without a window, where the range of the values makes one."""
    coding = CODINGS[name]
    found = []
    for hidden_seed in (1, 2):
        instance = coding.instance(build, picture(7, hidden_seed, samples=coding.samples))
        frames = open_frames(instance, LIMITS)
        frames._reader = masked(instance, area())
        options = DisplayOptions(automatic="always", automatic_percentiles=(1.0, 99.0))
        found.append((next(frames.display(options)).tobytes(), frames.rendering, frames.warnings))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", [name for name, coding in CODINGS.items() if coding.samples == 3])
def test_hidden_colours_are_shown_black(name: str, build: Build) -> None:
    coding = CODINGS[name]
    shown = displayed(coding.instance(build, picture(7, 1, samples=3)))
    kept = area().beyond_reach(coding.reach).mask()
    assert not shown[~kept].any()
    assert shown[kept].any()


def palette(colours: Array, first: int = 0) -> dict[str, Any]:
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for number, colour in enumerate(("Red", "Green", "Blue")):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [len(colours), first, 16]
        table = colours[:, number].astype("<u2") * 257
        elements[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    return elements


def test_hidden_indices_are_those_of_the_darkest_colour(build: Build) -> None:
    colours = np.full((200, 3), 200)
    colours[17], colours[18] = (0, 0, 90), (30, 0, 0)
    colours[150] = (1, 2, 3)
    instance = build(
        picture(7, 1).tobytes(), vr="OB", BitsAllocated=8, Rows=ROWS, Columns=COLUMNS, **palette(colours, 20)
    )
    assert set(masked(instance, area()).samples(0, to_rgb=False).values[~area().mask()].tolist()) == {170}
    assert (displayed(instance)[~area().mask()] == [1, 2, 3]).all()


def test_hidden_floats_become_the_darkest_kept_value(build: Build) -> None:
    values = np.random.default_rng(1).normal(0, 1, (ROWS, COLUMNS)).astype("<f4")
    values[0, 0], values[40, 40] = -1e30, np.nan
    elements = {"BitsAllocated": 32, "BitsStored": None, "HighBit": None, "PixelRepresentation": None}
    instance = build(values.tobytes(), vr="OF", Rows=ROWS, Columns=COLUMNS, **elements)
    mask = area().mask()
    found = masked(instance, area()).samples(0, to_rgb=False).values
    assert set(found[~mask].tolist()) == {np.nanmin(values[mask])}


def test_a_picture_of_a_stream_is_masked_and_its_surplus_macroblocks_too() -> None:
    shown = np.full((ROWS + 8, COLUMNS + 8, 3), 200, np.uint8)
    found = masked_picture(shown, decision(area(), PixelPolicy.ALLOW))
    assert found.shape == shown.shape
    assert (found[:ROWS, :COLUMNS][area().mask()] == 200).all()
    assert not found[:ROWS, :COLUMNS][~area().mask()].any()
    assert not found[ROWS:].any()
    assert not found[:, COLUMNS:].any()
    with pytest.raises(PrivacyUnknown):
        masked_picture(shown[:50], decision(area(), PixelPolicy.ALLOW))


def test_an_ultrasound_picture_goes_through_ladder_and_mask(build: Build) -> None:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = KEPT.left, KEPT.top
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = KEPT.right - 1, KEPT.bottom - 1
    values = picture(7, 1, samples=3)
    instance = CODINGS["RLE RGB"].instance(
        build, values, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1", SequenceOfUltrasoundRegions=Sequence([region])
    )
    assert instance.pixels is not None
    found = decide(instance.header, instance.pixels, instance.transfer_syntax)
    reader = MaskedReader(open_reader(instance, instance.pixels, LIMITS, []), instance, instance.pixels, found)
    mask = area().mask()[..., np.newaxis]
    assert np.array_equal(reader.samples(0, to_rgb=True).values, np.where(mask, values, 0))
