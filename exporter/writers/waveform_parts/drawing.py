"""Curves on millimetre paper: laid out once in millimetres, drawn as SVG or PNG.

Contract: 25 mm per second; ECG voltages at 10 mm per millivolt, everything else at a round scale that is printed beside
it. One band per channel, one grid line per millimetre and a stronger one every 5. The same group gives the same bytes.
No text but channel labels and scales.

Source: the recording speed and gain of ECG paper, IEC 60601-2-25; DICOM PS3.3 C.10.9 (channels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from exporter.dicom.elements import name_of
from exporter.errors import BadGeometry, VerifyFailed
from exporter.writers.durable_write import write_new, writing
from listener.foundation.text import text_line, xml_text

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from exporter.writers.waveform_parts.waveform_groups import WaveformGroup

MM_PER_SECOND: Final = 25.0
MM_PER_MILLIVOLT: Final = 10.0
PIXELS_PER_MM: Final = 8
_MARGIN_MM: Final = 5.0
_BAND_MM: Final = 20.0
_TALLEST_MM: Final = 100.0
_STEPS_PER_MM: Final = 10
_MILLIVOLTS: Final = {"nV": 1e-6, "uV": 1e-3, "mV": 1.0, "V": 1e3, "kV": 1e6}
_MOST_PIXELS: Final = 1 << 26
_WIDEST_MM: Final = 1e7
"""10 km of paper: a sheet beyond it comes of a damaged rate or skew."""
_LARGEST: Final = 1e100
"""Larger values are nobody's, and differences of them would overflow."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One channel, laid out."""

    label: str
    label_mm: tuple[float, float]
    lines: tuple[NDArray[np.float64], ...]
    """Points ``(n, 2)`` in millimetres from the paper's upper left; a new line behind every gap."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """One sheet, in millimetres."""

    width_mm: float
    height_mm: float
    curves: tuple[Curve, ...]
    caption: str


def lay_out(group: WaveformGroup, *, longest_s: float, ecg: bool) -> tuple[Drawing, tuple[str, ...]]:
    """Place every channel of a group on one sheet; also what the sheet leaves out.

    Args:
        group: The channels.
        longest_s: Seconds from the start that are drawn.
        ecg: Whether voltages are drawn at 10 mm/mV; otherwise every channel gets a scale that suits it.

    Raises:
        BadGeometry: Rate or skews are such that no paper is long enough.
    """
    notes: tuple[str, ...] = ()
    count = len(group.raw)
    if group.duration_s > longest_s:
        count = max(2, math.ceil(longest_s * group.rate_hz))
        notes = (f"waveform: the drawing shows the first {longest_s:g} s (waveform.drawing_s); the table holds all",)
    top = _MARGIN_MM
    curves = []
    skews = [channel.skew_s for channel in group.channels]
    width = 2 * _MARGIN_MM + (count / group.rate_hz + max(skews) - min(skews)) * MM_PER_SECOND
    if not width <= _WIDEST_MM:
        raise BadGeometry(
            f"draw waveform: {name_of('SamplingFrequency')} or {name_of('ChannelTimeSkew')} would make the drawing "
            "kilometres long; set waveform.drawing to none for the table alone"
        )
    for index, channel in enumerate(group.channels):
        values = group.physical(index, 0, count)
        beyond = np.abs(values) > _LARGEST
        if beyond.any():
            values[beyond] = np.nan
            notes = (*notes, f"waveform: channel {index + 1} has values beyond {_LARGEST:g}, which are not drawn")
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        scale, text = _scale(channel.unit, low, high, ecg=ecg)
        band = max(_BAND_MM, math.ceil((high - low) * scale) + 4.0)
        middle = top + band / 2 + (high + low) / 2 * scale
        x = _MARGIN_MM + (np.arange(len(values)) / group.rate_hz + channel.skew_s - min(skews)) * MM_PER_SECOND
        points = np.column_stack([x, middle - values * scale])
        curves.append(Curve(f"{channel.label}  {text}", (_MARGIN_MM + 1, top + 3.5), _lines(points)))
        top += band
    caption = f"{MM_PER_SECOND:g} mm/s"
    return Drawing(math.ceil(width), math.ceil(top + 2 * _MARGIN_MM), tuple(curves), caption), notes


def _scale(unit: str, low: float, high: float, *, ecg: bool) -> tuple[float, str]:
    """Millimetres per unit, and the words that say so."""
    millivolts = _MILLIVOLTS.get(unit)
    if ecg and millivolts is not None and (high - low) * millivolts * MM_PER_MILLIVOLT <= _TALLEST_MM:
        return millivolts * MM_PER_MILLIVOLT, f"{MM_PER_MILLIVOLT:g} mm/mV"
    extent = high - low
    if extent <= 1 / _LARGEST:
        return 0.0, f"constant {low:g} {unit}"
    per_10_mm = extent / (_BAND_MM - 4) * 10
    round_to = 10.0 ** math.floor(math.log10(per_10_mm))
    step = next(factor * round_to for factor in (1, 2, 5, 10) if factor * round_to >= per_10_mm * (1 - 1e-9))
    return 10 / step, f"10 mm = {step:g} {unit}"


def _lines(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The points, cut at gaps, and thinned to lowest and highest where samples lie denser than a pen draws."""
    known = np.isfinite(points[:, 1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    return tuple(_thin(points[start:stop]) for start, stop in zip(edges[::2], edges[1::2], strict=True))


def _thin(points: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = np.floor(points[:, 0] * _STEPS_PER_MM).astype(np.int64)
    if len(points) <= 4 * (int(columns[-1] - columns[0]) + 1):
        return points
    starts = np.flatnonzero(np.diff(columns, prepend=columns[0] - 1))
    stops = np.append(starts[1:], len(points))
    kept = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        part = points[start:stop, 1]
        kept += sorted({start, start + int(part.argmin()), start + int(part.argmax()), stop - 1})
    return points[kept]


def draw(path: Path, drawing: Drawing, form: str) -> None:
    """Write the sheet as ``svg`` or ``png`` and read it back.

    Raises:
        VerifyFailed: The file, read back, is another drawing.
        EncodeFailed, OutOfSpace: The file system refuses.
    """
    if form == "png":
        _draw_png(path, drawing)
        return
    write_new(path, [svg(drawing)])
    _verify_svg(path, drawing)


def svg(drawing: Drawing) -> bytes:
    """The sheet as an SVG document, in millimetres."""
    width, height = drawing.width_mm, drawing.height_mm
    opening = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}mm" height="{height:g}mm" '
        f'viewBox="0 0 {width:g} {height:g}">\n'
        "<defs>"
        '<pattern id="fine" width="1" height="1" patternUnits="userSpaceOnUse">'
        '<path d="M1 0H0V1" fill="none" stroke="#f5b8b8" stroke-width="0.1"/></pattern>'
        '<pattern id="grid" width="5" height="5" patternUnits="userSpaceOnUse">'
        '<rect width="5" height="5" fill="url(#fine)"/>'
        '<path d="M5 0H0V5" fill="none" stroke="#e88" stroke-width="0.25"/></pattern>'
        "</defs>\n"
        '<rect width="100%" height="100%" fill="#fff"/><rect width="100%" height="100%" fill="url(#grid)"/>\n'
        '<g fill="none" stroke="#000" stroke-width="0.25" stroke-linejoin="round" stroke-linecap="round">\n'
    )
    parts = [opening]
    for curve in drawing.curves:
        for line in curve.lines:
            points = " ".join(f"{x:.3f},{y:.3f}" for x, y in line.tolist())
            parts.append(f'<polyline points="{points}"/>\n')
    parts.append('</g>\n<g font-family="sans-serif" font-size="3.5" fill="#000">\n')
    for curve in drawing.curves:
        x, y = curve.label_mm
        parts.append(f'<text x="{x:g}" y="{y:g}">{xml_text(curve.label)}</text>\n')
    parts.append(f'<text x="{_MARGIN_MM + 1:g}" y="{height - 3:g}">{xml_text(drawing.caption)}</text>\n</g>\n</svg>\n')
    return "".join(parts).encode()


def _verify_svg(path: Path, drawing: Drawing) -> None:
    from xml.etree import ElementTree as ET

    lines = [line for curve in drawing.curves for line in curve.lines]
    try:
        with writing("reading a drawing back"):
            root = ET.parse(path).getroot()  # noqa: S314 - our own file, written a moment ago
    except ET.ParseError:
        raise VerifyFailed("read drawing back: it is no XML document") from None
    found = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    if len(found) != len(lines):
        raise VerifyFailed("read drawing back: another number of curves")
    for element, line in zip(found, lines, strict=True):
        points = np.array([pair.split(",") for pair in element.get("points", "").split()], dtype=np.float64)
        if points.shape != line.shape or float(np.abs(points - line).max(initial=0)) > 1e-3:
            raise VerifyFailed("read drawing back: another curve")


def _draw_png(path: Path, drawing: Drawing) -> None:
    from PIL import Image, ImageDraw

    from exporter.errors import TooLarge

    scale = PIXELS_PER_MM
    size = (round(drawing.width_mm * scale), round(drawing.height_mm * scale))
    if size[0] * size[1] > _MOST_PIXELS:
        raise TooLarge("draw waveform: the PNG would be too large; shorten waveform.drawing_s or draw SVG")
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for strong, step, colour in ((False, 1, (250, 214, 214)), (True, 5, (238, 136, 136))):
        for mm in range(0, math.ceil(max(drawing.width_mm, drawing.height_mm)), step):
            for line in (((mm * scale, 0), (mm * scale, size[1])), ((0, mm * scale), (size[0], mm * scale))):
                pen.line(line, fill=colour, width=2 if strong else 1)
    for curve in drawing.curves:
        for points in curve.lines:
            corners = [(x * scale, y * scale) for x, y in points.tolist()]
            pen.line(corners if len(corners) > 1 else corners * 2, fill="black", width=2)
        x, y = curve.label_mm
        label = text_line(curve.label).encode("ascii", "replace").decode()
        pen.text((x * scale, (y - 3) * scale), label, fill="black")
    pen.text(((_MARGIN_MM + 1) * scale, (drawing.height_mm - 5) * scale), drawing.caption, fill="black")
    with writing("writing a drawing"), path.open("xb") as file:
        image.save(file, format="PNG", compress_level=6, dpi=(scale * 25.4, scale * 25.4))
    with writing("reading a drawing back"), Image.open(path) as back:
        if back.size != size or back.tobytes() != image.tobytes():
            raise VerifyFailed("read drawing back: other pixels than were written")
