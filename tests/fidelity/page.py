"""The findings as the page docs/fidelity.md: a table by transfer syntax, photometric interpretation and bits."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fidelity import decoders

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "fidelity.md"

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.fidelity.cines import Timed
    from tests.fidelity.damaged import Verdict
    from tests.fidelity.survey import Finding

_LABEL = "the label says RGB, the JPEG's chroma is subsampled; DCMTK believes the label"
_NO_MARKERS = "Pillow and FFmpeg take a JPEG without markers for YCbCr; the label says RGB, and DCMTK shows it so"
_SHORT_MARKER = (
    "its Adobe marker is two bytes short, which Pillow and FFmpeg pass over; "
    "equal to what DCMTK made of it, SC_rgb_jpeg_dcmd.dcm"
)
KNOWN: tuple[tuple[str, str, str], ...] = (
    # (judge, part of the file's name or transfer syntax, why it differs)
    ("dcmtk", "XA1_JPH", "DCMTK reads the bare codestream as native cells"),
    ("dcmtk", "JPEGLSLossy", "DCMTK applies no window to this file, and does to its lossless sibling"),
    ("dcmtk", "CT0012", "DCMTK knows no supplemental palette: it shows gray"),
    ("dcmtk", "Supplemental", "DCMTK knows no supplemental palette: it shows gray"),
    ("dcmtk", "CT1_UNC", "DCMTK's range of values counts the padding"),
    (
        "dcmtk",
        "JPEGProcess2_4",
        _LABEL,
    ),
    (
        "dcmtk",
        "layer1",
        _LABEL,
    ),
    ("dcmtk", "SC_rgb_jpeg_lossy_gdcm", _LABEL),
    ("dcmtk", "ybr", "DCMTK takes 127.5 for neutral chrominance, the Standard 128"),
    ("dcmtk", "rtdose_expb", "DCMTK swaps big-endian 32-bit cells by halves"),
    ("dcmtk", "seg_image", "DCMTK shows the 1 of single bits as 128"),
    ("dcmtk", "liver", "DCMTK shows the 1 of single bits as 128"),
    (
        "second",
        "SC_jpeg_no_color_transform",
        _NO_MARKERS,
    ),
    (
        "means",
        "SC_jpeg_no_color_transform",
        _NO_MARKERS,
    ),
    ("second", "SC_rgb_jpeg.dcm", _SHORT_MARKER),
    ("means", "SC_rgb_jpeg.dcm", _SHORT_MARKER),
    ("video_means", "sm_image_dots", "10 x 10 saturated dots of one pixel: what 4:2:0 leaves of them"),
)
TOLERANCE = {"raw": 0.0, "formula": 1.0, "dcmtk": 1.0, "second": 3.0, "means": 2.0, "video_means": 2.0, "times": 1.0}
TITLES = {
    "raw": "raw16 against an independent decoder",
    "formula": "float64 reference",
    "dcmtk": "DCMTK",
    "second": "second decoder",
    "means": "colour means, still",
    "video_means": "colour means, video",
    "times": "times",
}


def tolerance(finding: Finding, judge: str) -> float:
    """What the judge permits; stored values of lossy codecs may differ by as much as their decoders round."""
    if judge == "raw" and finding.syntax in decoders.LOSSY:
        return 3.0
    return TOLERANCE[judge]


def excuse(finding: Finding, judge: str) -> str:
    """The reason of a known difference; empty where there is none."""
    return next((why for name, part, why in KNOWN if name == judge and part in finding.file), "")


def beyond(findings: Iterable[Finding]) -> Iterator[tuple[Finding, str, float, str]]:
    """(finding, judge, difference, why) wherever a judge differs by more than it permits."""
    for finding in findings:
        for judge in TOLERANCE:
            found = getattr(finding, judge)
            if found is not None and found > tolerance(finding, judge):
                yield finding, judge, found, excuse(finding, judge)


def _number(value: float) -> str:
    if math.isinf(value):
        return "other shape"
    return "0" if value == 0 else f"{value:.2f}".rstrip("0").rstrip(".") if value >= 0.01 else "< 0.01"


def _cell(findings: Sequence[Finding], judge: str) -> str:
    """``worst (files compared)``, without the files whose judge is known to be wrong, which are counted after a +."""
    values = [(getattr(f, judge), f) for f in findings if getattr(f, judge) is not None]
    kept = [v for v, f in values if v <= tolerance(f, judge) or not excuse(f, judge)]
    excused = len(values) - len(kept)
    text = f"{_number(max(kept))} ({len(kept)})" if kept else ""
    return text + (f" +{excused}" if excused else "")


def table(findings: list[Finding]) -> Iterator[str]:
    """One row per transfer syntax, photometric interpretation and bits."""
    groups: dict[tuple[str, str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.syntax, finding.name, finding.photometric, finding.bits].append(finding)
    yield (
        "| transfer syntax | photometric | bits | files | exported | refused | raw16 | judge | float64 | DCMTK | "
        "second decoder | means | video means | times, ms |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for (syntax, name, photometric, bits), group in sorted(groups.items()):
        refused = Counter(f.refused.split(":")[0] for f in group if f.refused)
        judges = ", ".join(sorted({f.raw_judge for f in group if f.raw is not None}))
        cells = [
            f"{name} `{syntax.removeprefix('1.2.840.10008.1.2')}`",
            photometric,
            bits,
            str(len(group)),
            str(sum(not f.refused for f in group)),
            ", ".join(f"{reason} {count}" for reason, count in sorted(refused.items())),
            _cell(group, "raw"),
            judges,
            *(_cell(group, judge) for judge in ("formula", "dcmtk", "second", "means", "video_means", "times")),
        ]
        yield f"| {' | '.join(cells)} |"


def refusals(findings: list[Finding]) -> Iterator[str]:
    """Every refused file, and what other decoders make of it."""
    yield "| file | refused | others |"
    yield "|---|---|---|"
    for finding in findings:
        if finding.refused:
            yield f"| `{finding.file}` | {finding.refused} | {finding.confirmed} |"


def differences(findings: list[Finding]) -> Iterator[str]:
    """Every difference beyond its tolerance, with its reason."""
    yield "| file | judge | difference | why |"
    yield "|---|---|---|---|"
    for finding, judge, found, why in beyond(findings):
        yield f"| `{finding.file}` | {TITLES[judge]} | {_number(found)} | {why or '**not explained**'} |"


def timed(rows: Iterable[Timed]) -> Iterator[str]:
    """Cines and streams."""
    yield "| cine or stream | element | packets | worst, ms | packets identical | plays |"
    yield "|---|---|---|---|---|---|"
    words = {True: "yes", False: "**no**", None: ""}
    for row in rows:
        cells = (row.name, row.source, row.frames, _number(row.worst_ms), words[row.same], words[row.plays])
        yield f"| {' | '.join(str(c) for c in cells)} |"


def verdicts(rows: Iterable[Verdict]) -> Iterator[str]:
    """Bad input."""
    yield "| bad input | what is told | same on two runs |"
    yield "|---|---|---|"
    for row in rows:
        yield f"| {row.name} | {row.told or '**nothing**'} | {'yes' if row.same else '**no**'} |"


def files(findings: list[Finding]) -> Iterator[str]:
    """Compact: one line per file."""
    yield "| file | frames | raw16 | float64 | DCMTK | second | means |"
    yield "|---|---|---|---|---|---|---|"
    for finding in findings:
        values = [getattr(finding, judge) for judge in ("raw", "formula", "dcmtk", "second", "means")]
        cells = ["" if v is None else _number(v) for v in values]
        yield f"| `{finding.file}` | {'refused' if finding.refused else finding.frames} | {' | '.join(cells)} |"


INTRODUCTION = """\
# Fidelity

Every pixel and every time of real files, as the exported media files have them, against independent decoders. Made by
`make fidelity` (`python -m tests.fidelity`); every number below was measured by that run.

How: the whole corpus is exported twice by `exporter.backfill`: with every default, and with `image.outputs: [view8,
raw16]`, `frames.enabled: true`, `volume.enabled: false`, so that each pixel of each frame is in a lossless file.
Media files are read by Pillow, NumPy, ffprobe and FFmpeg; nothing of the product decodes them.

- **raw16**: greatest difference of the exported stored values from an independent decoder's: pydicom (native, RLE),
  DCMTK `dcmdjpeg +cn` and `dcmdjpls`, FFmpeg's own `jpeg2000`, OpenJPH (HTJ2K), FFmpeg with libjxl (JPEG XL; the same
  library as ours), zlib. Lossless: 0. Lossy codecs round differently: at most 3. Colour and palettes have no raw16.
- **float64**: greatest difference, of 255, of exported display values from the formulas of PS3.3 in float64,
  unrounded, over the independent decoder's stored values (gray of lossy codecs: over ours). At most 1, and 0.5 is
  rounding. `tests/fidelity/reference.py` is written apart from the product.
- **DCMTK**: the same against `dcmj2pnm` (`dcml2pnm` for JPEG-LS), first, middle and last frame. Options: `+Wi 1` (the
  instance's first window), `+Wl 1` (its first table), `+Ww` (a functional group's window, or the range of all
  frames), `+Wm` (the range of a single frame), `-W` (up to 8 bits). At most 1.
- **second decoder**: lossy colours of JPEG 2000 against FFmpeg's own decoder, of JPEG against Pillow (libjpeg-turbo, as
  ours; independent there is the DCMTK column, with its own libjpeg), at most 3; **means**: per channel against FFmpeg,
  which decodes both by itself, at most 2.
- **video means**: the default MP4, decoded by FFmpeg by its colour tags, against the display values, at most 2.
- **times**: presentation times of the default MP4 (`ffprobe -show_entries packet=pts_time`) against the elements, at
  most 1 ms.

A cell is `worst difference (files compared)`; `+n` counts files whose judge is known to be wrong, all listed below.
An empty cell: that judge cannot read the file, or has nothing to say on it.
"""
