"""Whole series of single-frame CT, MR and PET instances as volumes.

Contract: `assemble_series` is pure: from what headers say to the order of the planes and their grids. `write_series`
does it for the files of one series that is complete (or taken to be), and may be called again whenever more has
arrived: the same instances give the same bytes, whatever their order and names. It leaves partial files, verified and
durable, for the publisher; the last is the description (`<name>.series.json`): the volumes, the instance behind every
plane, and every warning.

Must never: hold more than one frame, mix series, or move, change or delete an instance.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import text_of
from exporter.dicom.geometry import Grid, grids
from exporter.errors import BadGeometry, ExportError, SkipInstance
from exporter.outcome import MediaFile, MediaType
from exporter.series.folder import DESCRIPTION
from exporter.writers.durable_write import media_file, write_new
from exporter.writers.volumes.planes import SERIES_CLASSES, VolumeFrame, single_frame
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.privacy.profile import PrivacyProfile
    from exporter.settings.settings import LimitSettings, MediaSettings
    from exporter.writers.volumes.build import VolumeFile

    OpenInstance = Callable[[Path], AbstractContextManager[Instance]]

FEWEST_SLICES: Final = 2


@dataclass(frozen=True, slots=True)
class VolumeMember:
    """One instance of a series, as far as a volume needs it."""

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    frame: VolumeFrame
    lowest: float
    """Smallest possible stored value."""
    highest: float


@dataclass(frozen=True, slots=True)
class VolumeSeries:
    """The planes of a series in their order, and the grids they form."""

    series_instance_uid: str
    members: tuple[VolumeMember, ...]
    grids: tuple[Grid, ...]
    """`Placed.plane` counts `members`."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenSeries:
    """The partial files of a series: its volumes, then their description."""

    media: tuple[MediaFile, ...]
    warnings: tuple[str, ...]


def member_of(instance: Instance) -> VolumeMember | None:
    """What a volume needs of an instance; None where it is no single-frame CT, MR or PET.

    Raises:
        BadGeometry: It is one, and has no place in the patient.
        ExportError: The header cannot be read.
    """
    pixels = instance.pixels
    if instance.sop_class_uid not in SERIES_CLASSES or pixels is None or pixels.frames != 1 or pixels.samples != 1:
        return None
    header = instance.header
    top = 1 << (pixels.bits_stored - 1 if pixels.signed else pixels.bits_stored)
    return VolumeMember(
        path=instance.path,
        sop_instance_uid=text_of(header, "SOPInstanceUID"),
        series_instance_uid=text_of(header, "SeriesInstanceUID"),
        frame=single_frame(header, pixels.rows, pixels.columns),
        lowest=-top if pixels.signed else 0,
        highest=top - 1,
    )


def assemble_series(members: Iterable[VolumeMember]) -> VolumeSeries:
    """The grids of one series; the result does not depend on the order of `members`.

    An instance that is there twice counts once. Grids of one slice are left out where there are others (localizers).

    Raises:
        BadGeometry: Several series, no volume of at least `FEWEST_SLICES` slices, or planes that `grids` refuses.
    """
    by_uid: dict[str, VolumeMember] = {}
    copies = 0
    for member in sorted(members, key=lambda one: (one.frame.plane.order, one.sop_instance_uid, one.path)):
        copies += member.sop_instance_uid in by_uid
        by_uid.setdefault(member.sop_instance_uid, member)
    chosen = tuple(by_uid.values())
    if len({member.series_instance_uid for member in chosen}) != 1:
        raise BadGeometry("assemble series: the instances are of no or of several series")
    found = grids([member.frame.plane for member in chosen])
    stacked = tuple(grid for grid in found if grid.shape[2] >= FEWEST_SLICES)
    if not stacked:
        raise BadGeometry(f"assemble series: no two of {len(chosen)} planes are neighbours in space")
    notes = []
    if copies:
        notes.append(f"series: {copies} instances are there more than once and count once")
    if len(stacked) < len(found):
        notes.append(f"series: {len(found) - len(stacked)} single planes belong to no volume and are left out")
    return VolumeSeries(chosen[0].series_instance_uid, chosen, stacked, tuple(notes))


def write_series(
    paths: Sequence[Path], folder: Path, name: str, settings: MediaSettings, profile: PrivacyProfile | None = None
) -> WrittenSeries:
    """Write the volumes of one series and their description as partial files.

    Args:
        paths: Every instance of the series, in any order; others than single-frame CT, MR, PET are left out.
        folder: Empty folder for the files.
        name: Output name of the series, without folders and suffix; the description lists the volumes under it.
        settings: `volume` and `limits`.
        profile: De-identifies the instances; None where they stay as they are.

    Raises:
        BadGeometry: The instances form no volume.
        ExportError: An instance's pixels cannot be read, or the volume cannot be written.
        OutOfSpace: The disk is full.
    """
    from exporter.writers.volumes.build import Stored, VolumeTarget, build_grids, media_of

    def open_instance(path: Path) -> AbstractContextManager[Instance]:
        return _opened(settings, profile, path)

    members, notes = _members(paths, open_instance)
    series, target = assemble_series(members), VolumeTarget(folder, settings.volume.format)
    files = build_grids(
        series.grids,
        [one.frame for one in series.members],
        _arrays(series.members, settings.limits, open_instance),
        target,
        Stored(min(one.lowest for one in series.members), max(one.highest for one in series.members)),
    )
    warnings = tuple(dict.fromkeys((*notes, *series.warnings, *(w for file in files for w in file.warnings))))
    media = media_of(files, target)
    content = {
        "series_instance_uid": series.series_instance_uid,
        "instances": len(series.members),
        "volumes": [
            _described(series, file, f"{name}{medium.suffix}") for file, medium in zip(files, media, strict=True)
        ],
        "warnings": warnings,
    }
    return WrittenSeries((*media, _description(folder, content)), warnings)


def describe_refusal(folder: Path, error: ExportError) -> WrittenSeries:
    """Write a description that says why a series has no volume.

    Raises:
        OutOfSpace: The disk is full.
        EncodeFailed: The file system refuses.
    """
    content = {"volumes": [], "error": {"reason": error.reason, "message": str(error)}}
    return WrittenSeries((_description(folder, content),), (f"no volume, {error.reason}: {error}",))


@contextmanager
def _opened(settings: MediaSettings, profile: PrivacyProfile | None, path: Path) -> Iterator[Instance]:
    """One instance, de-identified where the settings say so.

    Raises:
        ExportError: It cannot be read, or must not be shown.
    """
    from exporter.dicom.instance import Instance
    from exporter.work.deidentification import deidentified

    with Instance.open(path, settings.limits) as instance:
        deidentified(instance, settings, profile)
        yield instance


def _members(paths: Sequence[Path], open_instance: OpenInstance) -> tuple[list[VolumeMember], tuple[str, ...]]:
    members, odd = [], 0
    for path in paths:
        try:
            with open_instance(path) as instance:
                member = member_of(instance)
        except (ExportError, SkipInstance):
            odd += 1  # its own export reports the reason
            continue
        if member is not None:
            members.append(member)
    return members, ((f"series: {odd} instances have no place in a volume",) if odd else ())


def _arrays(
    members: Sequence[VolumeMember], limits: LimitSettings, open_instance: OpenInstance
) -> Iterator[NDArray[np.generic]]:
    from exporter.frames import open_frames

    for member in members:
        with open_instance(member.path) as instance:
            yield next(iter(open_frames(instance, limits).stored()))


def _description(folder: Path, content: dict[str, Any]) -> MediaFile:
    import orjson

    path = folder / "description.part"
    text = json_escaped(orjson.dumps(content, option=orjson.OPT_INDENT_2)) + b"\n"
    return media_file(path, MediaType.REPORT, DESCRIPTION, "json", write_new(path, (text,)))


def _described(series: VolumeSeries, file: VolumeFile, name: str) -> dict[str, Any]:
    instances = [series.members[placed.plane].sop_instance_uid for placed in file.grid.placed]
    return {
        "path": name,
        "sha256": file.sha256,
        "shape": file.grid.shape,
        "affine": [list(row) for row in file.grid.affine.tolist()],
        "tilt_degrees": file.grid.tilt_degrees,
        "instances": instances,
    }
