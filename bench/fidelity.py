"""How true the frames are: every file of a corpus against independent decoders, as the table in docs/fidelity.md.

    python -m bench.fidelity CORPUS > docs/fidelity.md

Judges: the corpus's catalogue (SHA-256 of what pydicom with pylibjpeg, GDCM and CharLS decoded), DCMTK's `dcmdjpeg`,
`dcmdjpls` and `dcmdrle` (stored values), DCMTK's `dcm2pnm` family (display values), FFmpeg (JPEG 2000), OpenJPH
(HTJ2K), and the Standard's window formulas in float64. A judge that is not installed, or cannot read a file, has no
say on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.errors import ExportError, SkipInstance
from exporter.frames import DisplayOptions, Frames, open_frames
from exporter.frames.codestream import Codec
from exporter.instance import Instance
from exporter.settings import LimitSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = LimitSettings()
ROOT = "1.2.840.10008.1.2"
LOSSY = {f"{ROOT}.4.{tail}" for tail in ("50", "51", "53", "55", "81", "91", "203", "112")}
STORED_BY = {
    **{f"{ROOT}.4.{tail}": "dcmdjpeg" for tail in ("50", "51", "53", "55", "57", "70")},
    **{f"{ROOT}.4.{tail}": "dcmdjpls" for tail in ("80", "81")},
    f"{ROOT}.5": "dcmdrle",
}
HIGH_THROUGHPUT = {f"{ROOT}.4.{tail}" for tail in ("201", "202", "203")}
JPEG_LS = {f"{ROOT}.4.80", f"{ROOT}.4.81"}


@dataclass
class Tally:
    """What was found for one transfer syntax."""

    name: str = ""
    files: int = 0
    decoded: int = 0
    video: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    catalogue: list[float] = field(default_factory=list)
    """Per compared file 0 where equal, 1 where not."""
    stored: list[float] = field(default_factory=list)
    """Per compared file the greatest difference from an independent decoder's stored values."""
    formula: list[float] = field(default_factory=list)
    display: list[float] = field(default_factory=list)
    """Per compared file the greatest difference from DCMTK's display values, of 255."""


def digest(array: np.ndarray) -> str:
    """As the catalogue has it."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:24]


def whole(frames: Iterator[np.ndarray]) -> np.ndarray:
    """All frames as one array, as pydicom gives it."""
    found = list(frames)
    return np.stack(found) if len(found) > 1 else found[0]


def against_catalogue(row: dict[str, Any], frames: Frames, stored: np.ndarray) -> int | None:
    """0 where the catalogue's decoder found the same bytes."""
    if not row.get("pixel_sha"):
        return None
    if str(row["dtype"]).startswith(">"):
        stored = stored.astype(row["dtype"])
    if digest(stored) == row["pixel_sha"]:
        return 0
    return int(not (frames.is_colour and digest(whole(frames.display())) == row["pixel_sha"]))


def against_dcmtk_stored(path: Path, syntax: str, stored: np.ndarray) -> int | None:
    """Greatest difference from what DCMTK decompresses, colours unconverted."""
    program = STORED_BY.get(syntax)
    if program is None or shutil.which(program) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "native.dcm"
        plain = ["+cn"] if program == "dcmdjpeg" else []
        if subprocess.run([program, "-q", *plain, path, target], capture_output=True, check=False).returncode:
            return None
        try:
            with Instance.open(target, LIMITS) as native:
                theirs = whole(open_frames(native, LIMITS).stored())
        except (ExportError, SkipInstance):
            return None
    if theirs.shape != stored.shape:
        return None
    return int(np.abs(theirs.astype(np.int64) - stored).max())


def against_another_jpeg_2000(instance: Instance, frames: Frames, stored: np.ndarray) -> int | None:
    """Greatest difference of gray JPEG 2000 from FFmpeg's own decoder, of HTJ2K from OpenJPH."""
    if frames.codec is not Codec.JPEG_2000 or stored.ndim != 2 or instance.pixels is None:
        return None
    encoded = next(iter(frames.encoded()))
    if instance.transfer_syntax in HIGH_THROUGHPUT:
        import imagecodecs

        return int(np.abs(imagecodecs.htj2k_decode(encoded).astype(int) - stored).max())
    if stored.dtype.kind != "u" or not shutil.which("ffmpeg"):
        return None
    with tempfile.NamedTemporaryFile(suffix=".j2k") as file:
        file.write(encoded)
        file.flush()
        depth = "gray" if stored.dtype == np.uint8 else "gray16le"
        command = ["ffmpeg", "-v", "error", "-i", file.name, "-f", "rawvideo", "-pix_fmt", depth, "-"]
        result = subprocess.run(command, capture_output=True, check=False)
    theirs = np.frombuffer(result.stdout, stored.dtype.newbyteorder("<"))
    if theirs.size != stored.size:
        return None
    width = 8 * stored.dtype.itemsize
    # FFmpeg puts the value into the highest bits.
    shifts = {instance.pixels.bits_stored, width, int(stored.max()).bit_length()}
    return min(int(np.abs((theirs.reshape(stored.shape) >> (width - b)).astype(int) - stored).max()) for b in shifts)


def against_formula(instance: Instance, frames: Frames, stored: np.ndarray) -> float | None:
    """Greatest difference of the first frame from PS3.3 C.11.2.1.2 in float64; plain windows at the top level."""
    header, rendering = instance.header, frames.rendering
    if frames.is_colour or rendering.voi != "LINEAR" or rendering.window is None or "ModalityLUTSequence" in header:
        return None
    if "SharedFunctionalGroupsSequence" in header:
        return None
    first = stored[0] if frames.count > 1 else stored
    x = first.astype(np.float64) * float(header.get("RescaleSlope") or 1) + float(header.get("RescaleIntercept") or 0)
    centre, width = rendering.window
    if width <= 1:
        return None
    y = np.clip(((x - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255)
    ours = next(iter(frames.display()))
    return float(np.abs(ours - (255 - y if rendering.inverted else y)).max())


def against_dcmtk_display(path: Path, instance: Instance, frames: Frames) -> int | None:
    """Greatest difference of the first frame from DCMTK's picture, of 255."""
    program = "dcml2pnm" if instance.transfer_syntax in JPEG_LS else "dcmj2pnm"
    if shutil.which(program) is None or instance.pixels is None or instance.pixels.bits_allocated == 1:
        return None
    ours = next(iter(frames.display(DisplayOptions(automatic="frame"))))
    rendering = frames.rendering
    if rendering.window is None or (rendering.voi == "automatic" and instance.pixels.bits_stored <= 8):
        options = ["+Wl", "1"] if rendering.voi == "LUT" else ["-W"]
    else:
        options = ["+Wm"] if rendering.voi == "automatic" else ["+Ww", *map(str, rendering.window)]
    result = subprocess.run([program, "-q", "-O", "-S", *options, path], capture_output=True, check=False)
    if result.returncode or not result.stdout:
        return None
    kind, columns, rows = result.stdout.split(maxsplit=3)[:3]
    channels = 3 if kind == b"P6" else 1
    shape = (int(rows), int(columns), channels)
    theirs = np.frombuffer(result.stdout[-int(np.prod(shape)) :], np.uint8).reshape(shape)
    return int(np.abs(theirs.astype(int) - (ours if ours.ndim == 3 else ours[..., np.newaxis])).max())


def judge(corpus: Path, row: dict[str, Any], tally: Tally, remarks: list[str]) -> None:
    """Let every judge see one file."""
    path = corpus / row["file"]
    with Instance.open(path, LIMITS) as instance:
        if instance.pixels is None:
            return
        frames = open_frames(instance, LIMITS)
        if frames.is_video_stream:
            tally.files, tally.video = tally.files + 1, tally.video + 1
            return
        stored = whole(frames.stored())
        for _ in frames.display():
            pass
        tally.files, tally.decoded = tally.files + 1, tally.decoded + 1
        findings: tuple[tuple[list[float], float | None, int], ...] = (
            (tally.catalogue, against_catalogue(row, frames, stored), 0),
            (tally.stored, against_dcmtk_stored(path, instance.transfer_syntax, stored), 0),
            (tally.stored, against_another_jpeg_2000(instance, frames, stored), 0),
            (tally.formula, against_formula(instance, frames, stored), 1),
            (tally.display, against_dcmtk_display(path, instance, frames), 1),
        )
        names = ("catalogue", "DCMTK's stored values", "FFmpeg or OpenJPH", "the formulas", "DCMTK's picture")
        for name, (where, found, tolerance) in zip(names, findings, strict=True):
            if found is None:
                continue
            where.append(found)
            if found > tolerance:
                far = "differs" if name == "catalogue" else f"differs by {found:g}"
                remarks.append(f"| `{row['file']}` | {name}: {far}{why(name, row['file'], instance)} |")
        remarks.extend(f"| `{row['file']}` | {warning} |" for warning in frames.warnings)


def survey(corpus: Path) -> tuple[dict[str, Tally], list[str]]:
    """The tallies by transfer syntax, and one line per file that has something to tell."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    remarks: list[str] = []
    for line in (corpus / "catalog.jsonl").read_text().splitlines():
        row = json.loads(line)
        syntax = row.get("ts_uid") or "not stated"
        tally = tallies[syntax]
        tally.name = row.get("ts_name") or tally.name
        try:
            judge(corpus, row, tally, remarks)
        except SkipInstance:
            continue
        except ExportError as error:
            if row.get("has_pixeldata"):
                tally.files += 1
                tally.refused[error.reason.value] += 1
                remarks.append(f"| `{row['file']}` | refused, {error.reason.value}: {error} |")
    return tallies, remarks


BECAUSE = {
    "XA1_JPH": "it reads the bare codestream as native cells",
    "CTImage.dcm_JPEGLSLossy": "it applies no window to this file, and does to another with the same values",
    "CT0012": "it knows neither functional groups nor supplemental palettes",
    "CT1_UNC": "its automatic window counts padding",
    "JPEGProcess2_4": "it believes the label; the JPEG has a JFIF marker and subsampled components",
    "layer1": "it believes the label; the JPEG has a JFIF marker and subsampled components",
    "SC_rgb_jpeg_lossy_gdcm": "it believes the label; the JPEG's components are subsampled",
    "ybr": "it takes 127.5 for the neutral chrominance, the Standard 128",
    "rtdose_expb": "it swaps 32-bit cells by halves",
}


def why(judge_name: str, file: str, instance: Instance) -> str:
    """The reason of a known difference."""
    if judge_name == "catalogue" and instance.transfer_syntax in LOSSY:
        return ": another inverse DCT or upsampling, another rounding (see DCMTK's stored values)"
    if judge_name == "FFmpeg or OpenJPH" and instance.transfer_syntax in LOSSY:
        return ": another rounding of the irreversible transform"
    found = [reason for part, reason in BECAUSE.items() if part in file]
    return f": {found[0]}" if found and judge_name == "DCMTK's picture" else ""


def within(found: list[Any], tolerance: float) -> str:
    """``how many within the tolerance/how many compared``."""
    return f"{sum(f <= tolerance for f in found)}/{len(found)}" if found else ""


def main() -> None:
    """Print the page."""
    tallies, remarks = survey(Path(sys.argv[1]))
    print("# Fidelity: frames against independent decoders\n")
    print("Made by `python -m bench.fidelity CORPUS`. Cells of a judge: files that agree / files it could read.")
    print("`catalogue`: stored values (or colours) equal to those of pydicom with pylibjpeg, GDCM and CharLS.")
    print("`DCMTK, FFmpeg, OpenJPH`: stored values equal (lossy syntaxes: within 3) to another decoder's.")
    print("`formulas`: display values within 1 of 255 of PS3.3 C.11.2.1.2 in float64. `picture`: of DCMTK's, too.\n")
    print("| transfer syntax | files | decoded | refused | catalogue | DCMTK, FFmpeg, OpenJPH | formulas | picture |")
    print("|---|---|---|---|---|---|---|---|")
    for uid, tally in sorted(tallies.items()):
        if not tally.files and not tally.refused:
            continue
        decoded = f"{tally.decoded}" + (f", {tally.video} as video" if tally.video else "")
        refused = ", ".join(f"{count} {reason}" for reason, count in tally.refused.items())
        label = uid.replace("1.2.840.10008.", "") + f" {tally.name}"
        stored = within(tally.stored, 3 if uid in LOSSY else 0)
        cells = (label, tally.files, decoded, refused, within(tally.catalogue, 0), stored)
        print("|", " | ".join(map(str, cells)), f"| {within(tally.formula, 1)} | {within(tally.display, 1)} |")
    print("\n## What is to be told of single files\n\n| file | finding |\n|---|---|")
    print("\n".join(dict.fromkeys(remarks)))


if __name__ == "__main__":
    main()
