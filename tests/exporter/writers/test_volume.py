"""Enhanced instances, segmentations, doses, maps and whole series as NIfTI and NRRD volumes."""

from __future__ import annotations

import gzip
import random
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from exporter.dicom.geometry import Plane, grids
from exporter.dicom.instance import Instance
from exporter.errors import BadGeometry, CorruptPixels, EncodeFailed, OutOfSpace, UnsupportedSyntax, VerifyFailed
from exporter.series.assemble import write_series
from exporter.settings.settings import MediaSettings, VolumeSettings
from exporter.writers.contract import WriterTask, Written
from exporter.writers.volume import VolumeWriter
from exporter.writers.volumes import voxels
from exporter.writers.volumes.formats import Scaling
from tests.exporter.writers.volumetric import (
    CT,
    DOSE,
    ENHANCED_MR,
    MR,
    PET,
    SEGMENTATION,
    Stack,
    enhanced,
    noise,
    oblique,
    save_series,
    single,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = MediaSettings()


@dataclass(frozen=True)
class SeriesFiles:
    """The files of a series under the names that a publisher gives them."""

    files: list[Path]
    description: Path
    warnings: tuple[str, ...]


def series_at(paths: list[Path], base: Path, settings: MediaSettings) -> SeriesFiles:
    partial = base.parent / f"{base.name}.partial"
    partial.mkdir(parents=True)
    try:
        series = write_series(paths, partial, base.name, settings)
        files = [
            (partial / medium.file).replace(base.parent / f"{base.name}{medium.suffix}") for medium in series.media
        ]
    finally:
        left = list(partial.iterdir())
        partial.rmdir()
    assert not left
    return SeriesFiles(files[:-1], files[-1], series.warnings)


def with_format(form: str) -> MediaSettings:
    return MediaSettings(volume=VolumeSettings(format=form))  # type: ignore[arg-type]  # one of the literals


def saved(instance: Dataset | Path, folder: Path) -> Path:
    if not isinstance(instance, Dataset):
        return instance
    path = folder / "input.dcm"
    instance.save_as(path, enforce_file_format=True)
    return path


def written(instance: Dataset | Path, folder: Path, settings: MediaSettings = SETTINGS) -> Written:
    path = saved(instance, folder)
    out = folder / "out"
    out.mkdir(exist_ok=True)
    with Instance.open(path, settings.limits) as opened:
        result = VolumeWriter().write(WriterTask(opened, out, settings))
    assert sorted(entry.name for entry in out.iterdir()) == sorted(medium.file for medium in result.media)
    return result


def score(instance: Dataset | Path, folder: Path, settings: MediaSettings = SETTINGS) -> int | None:
    with Instance.open(saved(instance, folder), settings.limits) as opened:
        return VolumeWriter().score(opened, settings)


def read(path: Path) -> Any:  # nibabel has no types
    content = path.read_bytes()
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)


def shown(image: Any) -> np.ndarray:
    """Real values as ``(times, slices, rows, columns)``, first row on top."""
    values: np.ndarray = image.get_fdata()
    return values.reshape(*values.shape[:3], -1)[:, ::-1].transpose(3, 2, 1, 0)


def check_places(image: Any, stack: Stack, count: int) -> None:
    """Every corner lies where the equation of the standard says, within 1e-4 mm."""
    rows, columns = stack.size
    for row, column, k in ((0, 0, 0), (rows - 1, 0, 0), (0, columns - 1, 0), (rows - 1, columns - 1, count - 1)):
        found = (image.affine @ [column, rows - 1 - row, k, 1])[:3]
        assert np.abs(found - stack.place(row, column, k)).max() < 1e-4


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4"])
def test_an_enhanced_instance_keeps_every_voxel_at_its_place(tmp_path: Path, dtype: str) -> None:
    stack, pixels = oblique(), noise((5, 6, 5), dtype)
    result = written(enhanced(stack, [3, 0, 4, 1, 2], pixels), tmp_path)
    (medium,) = result.media
    image = read(tmp_path / "out" / medium.file)
    assert (medium.suffix, medium.width, medium.height, medium.frames) == (".nii.gz", 5, 6, 5)
    assert image.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(shown(image)[0], pixels[[1, 3, 4, 0, 2]])
    check_places(image, stack, 5)
    assert np.abs(image.get_qform() - image.get_sform()).max() < 1e-4
    assert image.header.get_xyzt_units()[0] == "mm"


def test_repetitions_become_the_fourth_axis_in_the_order_of_their_dimension_index(tmp_path: Path) -> None:
    pixels = noise((6, 6, 5))
    instance = enhanced(Stack(), [0, 0, 0, 1, 1, 1], pixels, times=[3, 1, 2, 1, 3, 2])
    (medium,) = written(instance, tmp_path).media
    values = shown(read(tmp_path / "out" / medium.file))
    assert values.shape == (3, 2, 6, 5)
    assert np.array_equal(values, pixels[[[1, 3], [2, 5], [0, 4]]])


def test_one_rescale_stays_in_the_header_and_different_ones_become_real_values(tmp_path: Path) -> None:
    pixels = noise((2, 6, 5), "u2")
    for index, rescales in enumerate(([(2.0, -7.0)] * 2, [(2.0, -7.0), (0.5, 3.0)])):
        folder = tmp_path / str(index)
        folder.mkdir()
        result = written(enhanced(Stack(), [0, 1], pixels, rescales=rescales), folder)
        image = read(folder / "out" / result.media[0].file)
        real = np.stack([plane * slope + offset for plane, (slope, offset) in zip(pixels, rescales, strict=True)])
        assert np.allclose(shown(image)[0], real, rtol=1e-6)
        assert image.get_data_dtype() == np.dtype([np.uint16, np.float32][index])
        assert bool(result.warnings) == bool(index)
        assert result.rendering is not None


def test_a_gap_gives_two_volumes_each_at_its_place(tmp_path: Path) -> None:
    stack, pixels = oblique(), noise((6, 6, 5))
    result = written(enhanced(stack, [0, 1, 2, 8, 9, 10], pixels), tmp_path)
    assert [medium.suffix for medium in result.media] == [".1.nii.gz", ".2.nii.gz"]
    first, second = (read(tmp_path / "out" / medium.file) for medium in result.media)
    check_places(first, stack, 3)
    check_places(second, replace(stack, origin=tuple(stack.position(8))), 3)  # type: ignore[arg-type]  # three numbers
    assert np.array_equal(shown(second)[0], pixels[3:])
    assert any("gap" in warning for warning in result.warnings)


def test_a_cine_is_no_volume(tmp_path: Path) -> None:
    cine = enhanced(Stack(), [0, 0, 0], noise((3, 6, 5)), times=[1, 2, 3])
    assert score(cine, tmp_path) is None
    with pytest.raises(BadGeometry, match="cine"):
        written(cine, tmp_path)


def test_duplicates_that_nothing_tells_apart_are_no_volume(tmp_path: Path) -> None:
    instance = enhanced(Stack(), [0, 0, 1, 2], noise((4, 6, 5)))
    assert score(instance, tmp_path) is None
    with pytest.raises(BadGeometry, match="duplicated"):
        written(instance, tmp_path)


def test_what_is_switched_off_colour_or_without_place_is_left_to_other_writers(tmp_path: Path) -> None:
    good = enhanced(Stack(), [0, 1], noise((2, 6, 5)))
    assert score(good, tmp_path) is not None
    assert score(good, tmp_path, MediaSettings(volume=VolumeSettings(enabled=False))) is None
    del good.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence
    assert score(good, tmp_path) is None
    assert score(single(Stack(), 0, noise((6, 5))), tmp_path) is None


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "DimensionIndexValues"])
def test_damaged_functional_groups_are_a_named_reason(tmp_path: Path, keyword: str) -> None:
    instance = enhanced(Stack(), [0, 1], noise((2, 6, 5)))
    if keyword == "ImagePositionPatient":
        instance.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [1, 2]
    else:
        del instance.PerFrameFunctionalGroupsSequence[1]
    assert score(instance, tmp_path) is None
    with pytest.raises(BadGeometry):
        written(instance, tmp_path)


def test_missing_frames_are_never_invented(tmp_path: Path) -> None:
    instance = enhanced(Stack(), [0, 1, 2], noise((2, 6, 5)))
    with pytest.raises((CorruptPixels, BadGeometry)):
        written(instance, tmp_path)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("form", ["nii", "nii.gz", "nrrd"])
def test_the_same_instance_gives_the_same_bytes(tmp_path: Path, form: str) -> None:
    results = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        instance = enhanced(oblique(), [1, 0], noise((2, 6, 5)))
        instance.SOPInstanceUID = "1.2.3"
        results.append(written(instance, tmp_path / name, with_format(form)))
    assert results[0] == results[1]


# --- segmentations, doses, maps


def bits(frames: np.ndarray) -> bytes:
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    return packed + b"\0" * (len(packed) % 2)


def segmentation(places: list[float], segments: list[int], frames: np.ndarray, **elements: Any) -> Dataset:
    if elements.get("SegmentationType", "BINARY") != "BINARY":
        return enhanced(Stack(), places, frames, SOPClassUID=SEGMENTATION, segments=segments, **elements)
    one_bit: dict[str, Any] = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "SegmentationType": "BINARY"}
    instance = enhanced(Stack(), places, frames, SOPClassUID=SEGMENTATION, segments=segments, **one_bit)
    instance.PixelData = bits(frames)
    return instance


def masks(*where: tuple[slice, slice]) -> np.ndarray:
    frames = np.zeros((len(where), 6, 5), np.uint8)
    for frame, (rows, columns) in zip(frames, where, strict=True):
        frame[rows, columns] = 1
    return frames


def test_segments_that_do_not_overlap_become_one_map_of_their_numbers(tmp_path: Path) -> None:
    left, right = (slice(0, 4), slice(0, 2)), (slice(2, 6), slice(3, 5))
    frames = masks(left, right, left)
    result = written(segmentation([0, 0, 3], [1, 7, 7], frames), tmp_path)
    values = shown(read(tmp_path / "out" / result.media[0].file))
    expected = np.zeros((4, 6, 5))
    expected[0] = frames[0] + 7 * frames[1]
    expected[3] = 7 * frames[2]
    assert values.shape == (1, 4, 6, 5)  # no wrong shape by broadcasting below
    assert np.array_equal(values[0], expected)
    assert any("2 of 4 slices have no frame" in warning for warning in result.warnings)


def test_segments_that_overlap_become_the_fourth_axis(tmp_path: Path) -> None:
    frames = masks((slice(0, 4), slice(0, 3)), (slice(2, 6), slice(2, 5)))
    result = written(segmentation([0, 0], [2, 1], frames), tmp_path)
    values = shown(read(tmp_path / "out" / result.media[0].file))
    assert np.array_equal(values[:, 0], frames[::-1])
    assert any("overlap" in warning for warning in result.warnings)


@pytest.mark.parametrize("form", ["nii", "nrrd"])
def test_fractional_segments_are_fractions_of_one(tmp_path: Path, form: str) -> None:
    frames = noise((2, 6, 5), "u1") // 2
    fractional = {"SegmentationType": "FRACTIONAL", "MaximumFractionalValue": 200}
    result = written(segmentation([0, 1], [1, 1], frames, **fractional), tmp_path, with_format(form))
    values = (
        shown(read(tmp_path / "out" / result.media[0].file))[0]
        if form == "nii"
        else read_nrrd(tmp_path / "out" / result.media[0].file)[1].transpose(2, 1, 0)[:, ::-1]
    )
    assert np.allclose(values, frames / 200, rtol=1e-6)


def test_two_frames_of_one_segment_at_one_place_are_refused(tmp_path: Path) -> None:
    frames = masks((slice(0, 1), slice(0, 1)), (slice(2, 3), slice(2, 3)))
    with pytest.raises(BadGeometry, match="one segment"):
        written(segmentation([0, 0], [1, 1], frames), tmp_path)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_dose_lies_at_its_offsets_in_gray(tmp_path: Path, absolute: bool) -> None:
    stack, pixels = Stack(), noise((3, 6, 5), "u4")
    dose = single(stack, 0, pixels[0], SOPClassUID=DOSE, Modality="RTDOSE")
    dose.NumberOfFrames, dose.DoseGridScaling, dose.DoseUnits = 3, "1.5e-9", "GY"
    first = stack.origin[2] if absolute else 0
    dose.GridFrameOffsetVector = [first, first + 2.5, first + 5]
    dose.PixelData = pixels.astype("<u4").tobytes()
    (medium,) = written(dose, tmp_path).media
    image = read(tmp_path / "out" / medium.file)
    check_places(image, stack, 3)
    assert np.allclose(shown(image)[0], pixels * 1.5e-9, rtol=1e-6)


def test_a_dose_with_offsets_from_nowhere_is_refused(tmp_path: Path) -> None:
    dose = single(Stack(), 0, noise((6, 5), "u4"), SOPClassUID=DOSE)
    dose.NumberOfFrames, dose.GridFrameOffsetVector = 2, [99, 102]
    dose.PixelData = noise((2, 6, 5), "u4").tobytes()
    with pytest.raises(BadGeometry, match="Grid Frame Offset Vector"):
        written(dose, tmp_path)


@pytest.mark.parametrize("name", ["parametric_map_float.dcm", "parametric_map_double_float.dcm"])
def test_a_parametric_map_keeps_its_floating_point_values(corpus: Path, tmp_path: Path, name: str) -> None:
    source = corpus / "pydicom__pydicom-data" / name
    (medium,) = written(source, tmp_path).media
    expected = dcmread(source).pixel_array
    values = read(tmp_path / "out" / medium.file)
    assert values.get_data_dtype() == expected.dtype
    assert np.array_equal(shown(values)[0, 0], expected)


# --- the formats


def read_nrrd(path: Path) -> tuple[dict[str, str], np.ndarray]:
    """A small reader of its own for attached NRRD files."""
    header, _, data = path.read_bytes().partition(b"\n\n")
    lines = header.decode("ascii").split("\n")
    assert lines[0] == "NRRD0005"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    types = {"uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "float": "<f4", "double": "<f8"}
    sizes = [int(size) for size in fields["sizes"].split()]
    return fields, np.frombuffer(gzip.decompress(data), types[fields["type"]]).reshape(sizes, order="F")


def test_nrrd_says_in_lps_what_nifti_says_in_ras(tmp_path: Path) -> None:
    stack, pixels = oblique(), noise((3, 6, 5), "u2")
    (medium,) = written(enhanced(stack, [0, 1, 2], pixels), tmp_path, with_format("nrrd")).media
    fields, values = read_nrrd(tmp_path / "out" / medium.file)
    assert (medium.suffix, fields["space"], fields["endian"]) == (".nrrd", "left-posterior-superior", "little")
    assert np.array_equal(values.transpose(2, 1, 0)[:, ::-1], pixels)
    columns = [np.array(eval(vector)) for vector in fields["space directions"].split(" ")]  # noqa: S307 - our own file
    corner = np.array(eval(fields["space origin"])) + columns[1] * 5 + columns[2] * 2  # noqa: S307 - our own file
    assert np.abs(corner * [-1, -1, 1] - stack.place(0, 0, 2)).max() < 1e-4


@pytest.mark.parametrize(("scaling", "kind"), [((1.0, -1024.0), "int32"), ((0.5, 1.0), "float")])
def test_nrrd_holds_real_values(tmp_path: Path, scaling: tuple[float, float], kind: str) -> None:
    pixels = noise((2, 6, 5), "u2")
    result = written(enhanced(Stack(), [0, 1], pixels, rescales=[scaling] * 2), tmp_path, with_format("nrrd"))
    fields, values = read_nrrd(tmp_path / "out" / result.media[0].file)
    assert fields["type"] == kind
    assert np.array_equal(values.transpose(2, 1, 0)[:, ::-1], pixels * scaling[0] + scaling[1])


def collected(folder: Path, planes: np.ndarray) -> voxels.VoxelFile:
    row = Plane((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1), planes.shape[1:])
    (grid,) = grids([replace(row, position=(0, 0, float(k))) for k in range(len(planes))])
    file = voxels.VoxelFile(folder / "scratch", grid, planes.dtype)
    for k, plane in enumerate(planes):
        file.store_plane(plane, slice_=k, time=0)
    return file


@pytest.mark.parametrize("form", ["nii", "nii.gz", "nrrd"])
@pytest.mark.parametrize("damage", ["flip", "cut", "add", "header"])
def test_a_file_that_the_disk_changed_is_not_passed_on(
    tmp_path: Path, form: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "volume"

    def damaged(_: int) -> None:
        content = bytearray(target.read_bytes())
        match damage:
            case "flip":
                content[-20] ^= 1
            case "cut":
                del content[-9:]
            case "add":
                content += b"0"
            case _:
                content[60] ^= 1
        target.write_bytes(content)

    with collected(tmp_path, noise((3, 40, 50))) as file:
        monkeypatch.setattr("exporter.writers.volumes.voxels.os.fsync", damaged)
        with pytest.raises(VerifyFailed):
            voxels.write(file, target, form, Scaling())


def test_a_scratch_file_that_changed_is_noticed(tmp_path: Path) -> None:
    with collected(tmp_path, noise((3, 4, 5))) as file:
        with (tmp_path / "scratch").open("r+b") as scratch:
            scratch.write(b"\xff\x01")
        with pytest.raises(VerifyFailed, match="scratch"):
            voxels.write(file, tmp_path / "volume", "nii", Scaling())


def test_a_slope_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedSyntax, match="slope"):
        written(enhanced(Stack(), [0, 1], noise((2, 6, 5)), rescales=[(1e200, 0.0)] * 2), tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_planes_of_another_size_type_or_place_are_refused(tmp_path: Path) -> None:
    with collected(tmp_path, noise((3, 4, 5), "u2")) as file:
        for plane, slice_ in ((noise((5, 4)), 0), (noise((4, 5), "i2"), 0), (noise((4, 5)), 3)):
            with pytest.raises(EncodeFailed):
                file.store_plane(plane, slice_=slice_, time=0)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_no_verdict_on_the_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exporter.writers.volumes.voxels.os.pwrite", full)
    with pytest.raises(OutOfSpace):
        written(enhanced(Stack(), [0, 1], noise((2, 6, 5))), tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_axes_longer_than_nifti_can_say_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with collected(tmp_path, np.zeros((2, 1, 40_000), np.uint8)) as file:
        with pytest.raises(UnsupportedSyntax, match="to nrrd"):
            voxels.write(file, tmp_path / "volume", "nii", Scaling())
        voxels.write(file, tmp_path / "volume.nrrd", "nrrd", Scaling())


def test_memory_stays_at_a_few_planes(tmp_path: Path) -> None:
    import tracemalloc

    planes = np.zeros((1, 512, 512), np.uint16)
    row = Plane((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1), (512, 512))
    (grid,) = grids([replace(row, position=(0, 0, float(k))) for k in range(120)])
    tracemalloc.start()
    with voxels.VoxelFile(tmp_path / "scratch", grid, np.uint16) as file:
        for k in range(120):
            file.store_plane(planes[0], slice_=k, time=0)
        voxels.write(file, tmp_path / "volume", "nii.gz", Scaling())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20  # the volume has 60 MiB


# --- whole series, judged by dcm2niix


def converted(peer: Callable[[str], str], source: Path, out: Path) -> Any:
    out.mkdir()
    command = [peer("dcm2niix"), "-b", "n", "-z", "n", "-f", "judge", "-o", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (found,) = out.glob("*.nii")
    return nibabel.load(found)


TURNED = {
    "axial": Stack(),
    "head first turned": Stack(step=(0, 0, -2.5)),
    "sagittal": Stack(row=(0, 1, 0), column=(0, 0, -1), step=(-2.5, 0, 0)),
    "coronal": Stack(row=(1, 0, 0), column=(0, 0, -1), step=(0, 2.5, 0)),
    "oblique": oblique(),
}


@pytest.mark.parametrize("sop_class", [CT, MR, PET])
@pytest.mark.parametrize("name", TURNED)
def test_a_series_is_voxel_by_voxel_and_place_by_place_what_dcm2niix_makes_of_it(
    peer: Callable[[str], str], tmp_path: Path, name: str, sop_class: str
) -> None:
    stack = TURNED[name]
    elements: dict[str, Any] = {"SOPClassUID": sop_class, "BitsStored": 12, "HighBit": 11}
    if sop_class == CT:
        elements |= {"RescaleSlope": 1, "RescaleIntercept": -1024}
    modality = {CT: "CT", MR: "MR", PET: "PT"}[sop_class]
    pixels = noise((7, 6, 5)) & np.uint16(0x0FFF)
    paths = save_series(tmp_path / "in", stack, pixels, Modality=modality, **elements)

    series = series_at(paths, tmp_path / "out" / "volume", SETTINGS)

    (path,) = series.files
    ours, judge = read(path), converted(peer, tmp_path / "in", tmp_path / "judge")
    assert ours.shape == judge.shape
    assert np.array_equal(ours.get_fdata(), judge.get_fdata())
    assert np.abs(ours.affine - judge.affine).max() < 1e-4
    assert not series.warnings


def test_real_series_are_what_dcm2niix_makes_of_them(peer: Callable[[str], str], tmp_path: Path) -> None:
    record = get_testdata_file("DICOMDIR")
    assert record is not None
    (tmp_path / "in").mkdir()
    paths = []
    for source in sorted((Path(record).parent / "98892001" / "CT5N").rglob("*")):
        paths.append(tmp_path / "in" / source.name)
        paths[-1].write_bytes(source.read_bytes())
    (path,) = series_at(paths, tmp_path / "volume", SETTINGS).files
    ours, judge = read(path), converted(peer, tmp_path / "in", tmp_path / "judge")
    assert np.array_equal(ours.get_fdata(), judge.get_fdata())
    assert np.abs(ours.affine - judge.affine).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "decoder"), [("not_fragmented_no_bot_rle", "dcmdrle"), ("fragmented_no_bot_jpeg_lossless.70", "dcmdjpeg")]
)
def test_enhanced_instances_are_what_dcmtk_and_dcm2niix_make_of_them(
    peer: Callable[[str], str], corpus: Path, tmp_path: Path, name: str, decoder: str
) -> None:
    source = corpus / "cornerstonejs__dicomParser" / f"CT0012.{name}.dcm"
    (tmp_path / "in").mkdir()
    subprocess.run([peer(decoder), str(source), str(tmp_path / "in" / "one.dcm")], check=True, timeout=100)
    (medium,) = written(source, tmp_path).media
    ours = read(tmp_path / "out" / medium.file)
    judge = converted(peer, tmp_path / "in", tmp_path / "judge")
    turns: Any = nibabel.orientations
    change = turns.ornt_transform(*(turns.io_orientation(image.affine) for image in (judge, ours)))
    turned = judge.as_reoriented(change)
    assert np.array_equal(ours.get_fdata(), turned.get_fdata())
    assert np.abs(ours.affine - turned.affine).max() < 1e-4


def test_a_series_does_not_depend_on_the_order_and_names_of_its_files(tmp_path: Path) -> None:
    paths = save_series(tmp_path / "in", oblique(), noise((7, 6, 5)))
    first = series_at(paths, tmp_path / "volume", SETTINGS)
    before = [path.read_bytes() for path in (*first.files, first.description)]
    moved = []
    for index, path in enumerate(random.Random(4).sample(paths, len(paths))):  # noqa: S311 - an order, no secret
        moved.append(path.rename(path.with_name(f"moved{index}")))
    again = series_at(moved, tmp_path / "volume", SETTINGS)
    assert [path.read_bytes() for path in (*again.files, again.description)] == before


def test_a_late_instance_closes_the_gap_of_a_series(tmp_path: Path) -> None:
    paths = save_series(tmp_path / "in", Stack(), noise((7, 6, 5)))
    by_number = {int(dcmread(path).InstanceNumber): path for path in paths}
    out = tmp_path / "out" / "volume"
    early = series_at([path for number, path in by_number.items() if number != 4], out, SETTINGS)
    assert [path.name for path in early.files] == ["volume.1.nii.gz", "volume.2.nii.gz"]
    assert any("gap of 5 mm" in warning for warning in early.warnings)
    late = series_at(paths, out, SETTINGS)
    assert [path.name for path in late.files] == ["volume.nii.gz"]
    assert not late.warnings


def test_the_description_tells_the_instance_behind_every_plane(tmp_path: Path) -> None:
    import orjson

    paths = save_series(tmp_path / "in", Stack(), noise((4, 6, 5)))
    series = series_at(paths, tmp_path / "volume", SETTINGS)
    told = orjson.loads(series.description.read_bytes())
    headers = sorted((dcmread(path) for path in paths), key=lambda header: header.ImagePositionPatient[2])
    assert told["volumes"][0]["instances"] == [header.SOPInstanceUID for header in headers]
    assert np.array_equal(told["volumes"][0]["affine"], read(series.files[0]).affine.round(6))


def test_copies_count_once_and_strangers_not_at_all(tmp_path: Path) -> None:
    paths = save_series(tmp_path / "in", Stack(), noise((4, 6, 5)))
    alone = series_at(paths, tmp_path / "alone", SETTINGS)
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(paths[0].read_bytes())
    (tmp_path / "text").write_text("no DICOM")
    sagittal = single(TURNED["sagittal"], 0, noise((6, 5)), SeriesInstanceUID=dcmread(paths[0]).SeriesInstanceUID)
    sagittal.save_as(tmp_path / "localizer", enforce_file_format=True)
    more = [*paths, copy, tmp_path / "text", tmp_path / "localizer"]
    series = series_at(more, tmp_path / "volume", SETTINGS)
    assert series.files[0].read_bytes() == alone.files[0].read_bytes()
    assert len(series.warnings) >= 3


def test_what_is_no_series_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    first = save_series(tmp_path / "a", Stack(), noise((3, 6, 5)))
    second = save_series(tmp_path / "b", Stack(), noise((3, 6, 5)))
    out = tmp_path / "out"
    for paths in ([*first, *second], first[:1], []):
        with pytest.raises(BadGeometry):
            series_at(paths, out / "volume", SETTINGS)
    assert not out.exists() or not list(out.iterdir())


def test_a_mosaic_is_not_taken_for_a_plane(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(BadGeometry):
        series_at([corpus / "neurolabusc__dcm_qa_ts" / "1.dcm"], tmp_path / "volume", SETTINGS)


def save_repetitions(folder: Path, stack: Stack, pixels: np.ndarray, each: list[dict[str, Any]]) -> list[Path]:
    """A series of ``(times, slices, rows, columns)``; every time has its own elements."""
    folder.mkdir()
    uids = {word: generate_uid() for word in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    paths = []
    for t, elements in enumerate(each):
        for k, plane in enumerate(pixels[t]):
            number = t * len(pixels[t]) + k + 1
            instance = single(stack, k, plane, SOPClassUID=MR, Modality="MR", InstanceNumber=number, **uids, **elements)
            paths.append(folder / f"{t}_{k}.dcm")
            instance.save_as(paths[-1], enforce_file_format=True)
    return paths


def test_time_points_of_a_series_become_the_fourth_axis_as_in_dcm2niix(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    pixels = noise((3, 4, 6, 5)) & 0x0FFF
    each = [{"AcquisitionNumber": t + 1, "AcquisitionTime": f"12000{2 * t}"} for t in range(3)]
    paths = save_repetitions(tmp_path / "in", oblique(), pixels, each)
    (path,) = series_at(paths[::-1], tmp_path / "volume", SETTINGS).files
    ours, judge = read(path), converted(peer, tmp_path / "in", tmp_path / "judge")
    assert np.array_equal(shown(ours), pixels)
    assert np.array_equal(ours.get_fdata(), judge.get_fdata())
    assert np.abs(ours.affine - judge.affine).max() < 1e-4


def test_directions_of_a_diffusion_series_are_one_volume(tmp_path: Path) -> None:
    pixels = noise((12, 3, 6, 5))
    each = [{"SequenceName": f"*ep_b1000#{t}"} for t in range(12)]
    (path,) = series_at(save_repetitions(tmp_path / "in", Stack(), pixels, each), tmp_path / "v", SETTINGS).files
    assert np.array_equal(shown(read(path)), pixels)


def test_echoes_of_a_series_become_volumes_of_their_own(tmp_path: Path) -> None:
    pixels = noise((2, 4, 6, 5))
    paths = save_repetitions(tmp_path / "in", Stack(), pixels, [{"EchoTime": "5"}, {"EchoTime": "10"}])
    files = series_at(paths, tmp_path / "volume", SETTINGS).files
    assert [np.array_equal(shown(read(path))[0], pixels[echo]) for echo, path in enumerate(files)] == [True, True]


@pytest.mark.parametrize("name", ["gantry tilt", "16 bits unsigned", "16 bits signed"])
def test_odd_series_are_what_dcm2niix_makes_of_them(peer: Callable[[str], str], tmp_path: Path, name: str) -> None:
    pixels = noise((5, 6, 5), "i2" if name == "16 bits signed" else "u2")
    if name == "gantry tilt":
        stack, elements = Stack(step=(0, 1.0, 2.5)), {"GantryDetectorTilt": "-21.8", "Modality": "CT"}
        pixels = pixels & 0x0FFF
    else:
        stack, elements = oblique(), {"SOPClassUID": MR, "Modality": "MR"}
    series = series_at(save_series(tmp_path / "in", stack, pixels, **elements), tmp_path / "volume", SETTINGS)
    judge = converted(peer, tmp_path / "in", tmp_path / "judge")
    assert np.array_equal(read(series.files[0]).get_fdata(), judge.get_fdata())
    assert np.abs(read(series.files[0]).affine - judge.affine).max() < 1e-4
    assert any("tilted by 21.80 degrees" in warning for warning in series.warnings) == (name == "gantry tilt")


def test_a_pet_series_with_a_slope_per_slice_holds_real_values_as_dcm2niix_does(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    pixels = noise((5, 6, 5)) & 0x7FFF
    paths = save_series(tmp_path / "in", oblique(), pixels, SOPClassUID=PET, Modality="PT", RescaleIntercept="0")
    for path in paths:
        instance = dcmread(path)
        instance.RescaleSlope = str(1.5 + 0.25 * instance.InstanceNumber)
        instance.save_as(path)
    (path,) = series_at(paths, tmp_path / "volume", SETTINGS).files
    slopes = (1.5 + 0.25 * np.arange(1, 6))[:, None, None]
    assert np.allclose(shown(read(path))[0], pixels * slopes, rtol=1e-6)
    assert np.array_equal(read(path).get_fdata(), converted(peer, tmp_path / "in", tmp_path / "judge").get_fdata())


def test_every_volume_of_the_corpus_is_written_or_left_to_others(
    corpus: Path, corpus_catalog: list[dict[str, Any]], tmp_path: Path
) -> None:
    classes = {ENHANCED_MR, SEGMENTATION, DOSE, "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.30"}
    volumes = 0
    for number, row in enumerate(row for row in corpus_catalog if row.get("sop_class") in classes):
        folder = tmp_path / str(number)
        folder.mkdir()
        if score(corpus / row["file"], folder) is None:
            continue
        result = written(corpus / row["file"], folder)
        volumes += 1
        values = shown(read(folder / "out" / result.media[0].file))
        if row.get("pixel_decode_ok") and row["sop_class"] not in {SEGMENTATION, DOSE} and not row.get("lossy"):
            assert values.size == np.prod(row["shape"])
    assert volumes >= 25
