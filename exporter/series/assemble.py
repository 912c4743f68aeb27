"""Whole series of single-frame CT, MR and PET instances as volumes.

Contract: `assemble_series` is pure: from what headers say to the order of the planes and their grids. `write_series`
does it for the files of one series that is complete (or taken to be), and may be called again whenever more has
arrived: the same instances give the same bytes, whatever their order and names. Files appear under their final names
only when they are verified and durable; the description (`<base>.series.json`) appears last and lists them, with the
instance behind every plane and every warning.

Must never: hold more than one frame, mix series, or move, change or delete an instance.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from exporter.dicom.elements import text_of
from exporter.dicom.geometry import Grid, grids
from exporter.errors import BadGeometry, ExportError, SkipInstance
from exporter.writers.durable_write import writing
from exporter.writers.volumes.planes import SERIES_CLASSES, VolumeFrame, single_frame
from listener.foundation.durable import fsync_folder
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
    """The volume files of a series, under their final names."""

    files: tuple[Path, ...]
    description: Path
    warnings: tuple[str, ...] = field(default=())


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
    paths: Sequence[Path],
    base: Path,
    settings: MediaSettings,
    *,
    of: str = "",
    profile: PrivacyProfile | None = None,
) -> WrittenSeries:
    """Write the volumes of one series as ``<base>.nii.gz`` (or ``<base>.1.nii.gz``, ...) and their description.

    Args:
        paths: Every instance of the series, in any order; others than single-frame CT, MR, PET are left out.
        base: Final names without extension; its folder is made. Files of an earlier call are replaced or removed.
        settings: `volume` and `limits`.
        of: What the description says it describes, for `described_as`.
        profile: De-identifies the instances; None where they stay as they are.

    Raises:
        BadGeometry: The instances form no volume.
        ExportError: An instance's pixels cannot be read, or the volume cannot be written.
        OutOfSpace: The disk is full.
    """
    from exporter.writers.volumes.build import Stored, VolumeTarget, build_grids

    def open_instance(path: Path) -> AbstractContextManager[Instance]:
        return _opened(settings, profile, path)

    members, notes = _members(paths, open_instance)
    series = assemble_series(members)
    series = replace(series, warnings=(*notes, *series.warnings))
    partial = base.parent / f".{hashlib.sha256(base.name.encode()).hexdigest()[:16]}.series.partial"
    with writing("write series"):
        base.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        partial.mkdir(mode=0o700)
    try:
        low, high = min(one.lowest for one in series.members), max(one.highest for one in series.members)
        files = build_grids(
            series.grids,
            [one.frame for one in series.members],
            _arrays(series.members, settings.limits, open_instance),
            VolumeTarget(partial, settings.volume.format),
            Stored(low, high),
        )
        return _publish(_Finished(series, files, settings.volume.format, of), partial, base)
    finally:
        with writing("write series"):
            _remove(partial)


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


def refuse_series(base: Path, error: ExportError, *, of: str = "") -> None:
    """Write a description that says why there is no volume; volumes of an earlier call are removed.

    Raises:
        OutOfSpace: The disk is full.
        EncodeFailed: The file system refuses.
    """
    with writing("write series"):
        base.parent.mkdir(parents=True, exist_ok=True)
    content = {"of": of, "volumes": [], "error": {"reason": error.reason, "message": str(error)}}
    _replace_description(base, content, ())


def described_as(base: Path) -> str | None:
    """Value of `of` in the description of a series; None without a description."""
    import orjson

    try:
        return str(orjson.loads(description_of(base).read_bytes())["of"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class _Finished:
    """Complete volumes that do not have their final names yet."""

    series: VolumeSeries
    files: Sequence[VolumeFile]
    format: str
    of: str


def _publish(finished: _Finished, partial: Path, base: Path) -> WrittenSeries:
    """Give the files their final names, then the description that lists them, then remove what is out of date."""
    series, files = finished.series, finished.files
    numbers = [""] if len(files) == 1 else [f".{number}" for number in range(1, len(files) + 1)]
    names = [f"{base.name}{number}.{finished.format}" for number in numbers]
    warnings = tuple(dict.fromkeys((*series.warnings, *(w for file in files for w in file.warnings))))
    with writing("write series"):
        for file, name in zip(files, names, strict=True):
            (partial / file.file).replace(base.parent / name)
        fsync_folder(base.parent)
    content = {
        "of": finished.of,
        "series_instance_uid": series.series_instance_uid,
        "instances": len(series.members),
        "volumes": [_described(series, file, name) for file, name in zip(files, names, strict=True)],
        "warnings": warnings,
    }
    description = _replace_description(base, content, names)
    return WrittenSeries(tuple(base.parent / name for name in names), description, warnings)


def description_of(base: Path) -> Path:
    """Path of the description of a series."""
    return base.parent / f"{base.name}.series.json"


def _replace_description(base: Path, content: dict[str, Any], names: Sequence[str]) -> Path:
    """Write the description durably, and remove files that only the earlier description lists."""
    import orjson

    description = description_of(base)
    fresh = base.parent / f".{hashlib.sha256(base.name.encode()).hexdigest()[:16]}.series.part"
    with writing("write series"):
        earlier = _listed(description)
        with fresh.open("wb") as out:
            out.write(json_escaped(orjson.dumps(content, option=orjson.OPT_INDENT_2)) + b"\n")
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(description)
        for name in earlier - set(names):
            (base.parent / name).unlink(missing_ok=True)
        fsync_folder(base.parent)
    return description


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


def _listed(description: Path) -> set[str]:
    """Names of the files that an earlier description lists, in the same folder only."""
    import orjson

    try:
        volumes = orjson.loads(description.read_bytes())["volumes"]
        names = {str(volume["path"]) for volume in volumes}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
    stem = description.name.removesuffix(".series.json")
    return {name for name in names if name.startswith(f"{stem}.") and "/" not in name}


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()
