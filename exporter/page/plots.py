"""Drawings of numbers as SVG, for the pages: bars and strips.

Contract: every drawing has a text that says what it shows, and its numbers stand in a table beside it; colours come
from the style sheet. Nothing in a drawing was chosen by a sender: numbers and our own words only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from listener.foundation.text import xml_text

if TYPE_CHECKING:
    from collections.abc import Sequence


def strip(numbers: Sequence[int], label: str) -> str:
    """A row of bars, one for each number, all as wide as the space permits."""
    most = max(numbers, default=0)
    bars = [
        f'<rect x="{at}" y="{20 - height:g}" width="0.8" height="{height:g}"/>'
        for at, number in enumerate(numbers)
        if (height := _height(number, most, 20))
    ]
    return (
        f'<svg class="strip" role="img" aria-label="{xml_text(label)}" viewBox="0 0 {len(numbers)} 20" '
        f'preserveAspectRatio="none"><line x1="0" y1="19.8" x2="{len(numbers)}" y2="19.8"/>{"".join(bars)}</svg>'
    )


def stacked_bars(slots: Sequence[tuple[int, int, int]], label: str) -> str:
    """Bars of three numbers each: exported, skipped and failed, from the bottom."""
    most = max((sum(slot) for slot in slots), default=0)
    bars = []
    for at, slot in enumerate(slots):
        bottom = 100.0
        for kind, number in zip(("exported", "skipped", "failed"), slot, strict=True):
            height = _height(number, most, 100) if number else 0
            bottom -= height
            if height:
                bars.append(f'<rect class="{kind}" x="{at}" y="{bottom:g}" width="0.85" height="{height:g}"/>')
    return (
        f'<svg class="bars" role="img" aria-label="{xml_text(label)}" viewBox="0 -2 {len(slots)} 102" '
        f'preserveAspectRatio="none"><line x1="0" y1="100" x2="{len(slots)}" y2="100"/>{"".join(bars)}</svg>'
    )


def _height(number: int, most: int, full: float) -> float:
    """Height of a bar; one that is not nothing is seen."""
    return max(full / 20, round(full * number / most, 2)) if number and most else 0.0


def share(number: float, most: float) -> str:
    """One bar, as long as its part of the most; its number stands beside it, so that nothing is said twice."""
    width = _height(round(number), round(most), 100)
    return (
        '<svg class="share" aria-hidden="true" viewBox="0 0 100 10" preserveAspectRatio="none">'
        f'<rect x="0" y="0" width="{width:g}" height="10"/></svg>'
    )
