"""Where devices burn text into their pictures: hints that hide or forbid, never proof that the rest is clean.

Contract: `DeviceMasks.matching` finds every mask whose signature an instance has; `hidden_by` joins their rectangles,
or says why they cannot be believed. A mask that is vouched for (of the operator's own file, looked at by people) is
evidence for the rest of the picture; those that come with the product are not.

Source: `device_masks.json` names its sources; `bench/vendor_device_masks.py` makes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.privacy.pixels.area import Rectangle, covers
from exporter.privacy.pixels.flags import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydicom.dataset import Dataset

_FILE: Final = Path(__file__).with_name("device_masks.json")
_TESTS: Final[dict[str, Callable[[str, str], bool]]] = {
    "equals": lambda value, wanted: value == wanted,
    "equalsIgnoreCase": lambda value, wanted: value.casefold() == wanted.casefold(),
    "contains": lambda value, wanted: wanted in value,
    "containsIgnoreCase": lambda value, wanted: wanted.casefold() in value.casefold(),
    "startsWith": lambda value, wanted: value.startswith(wanted),
    "startsWithIgnoreCase": lambda value, wanted: value.casefold().startswith(wanted.casefold()),
}


@dataclass(frozen=True, slots=True)
class ElementTest:
    """One test of one element, by keyword."""

    keyword: str
    test: str
    value: str

    def holds(self, value: str) -> bool:
        """Whether the element's value passes; an absent or empty one never does."""
        return bool(value) and _TESTS[self.test](value, self.value.strip())


@dataclass(frozen=True, slots=True)
class DeviceMask:
    """Rectangles to hide in the pictures of one device."""

    name: str
    """Its sources and its number, for the record."""
    signature: frozenset[frozenset[ElementTest]]
    """One test at least of each group must hold."""
    rectangles: tuple[Rectangle, ...]
    vouched: bool = False
    """Whether people looked at such pictures and found the rest clean."""

    def matches(self, value_of: Callable[[str], str]) -> bool:
        """Whether an instance has the signature; `value_of` gives an element's value by keyword."""
        return all(any(test.holds(value_of(test.keyword)) for test in group) for group in self.signature)


@dataclass(frozen=True, slots=True)
class HiddenByDevice:
    """What the device masks of one instance say together."""

    rectangles: tuple[Rectangle, ...] = ()
    names: tuple[str, ...] = ()
    vouched: bool = False
    refusal: str | None = None
    """Why they cannot be believed."""


class DeviceMasks:
    """A list of device masks."""

    def __init__(self, masks: Sequence[DeviceMask]) -> None:
        self._masks = masks
        tests = (test for mask in masks for group in mask.signature for test in group)
        self._keywords = tuple(sorted({test.keyword for test in tests}))
        self._matching = lru_cache(maxsize=256)(self._find_matching)

    def __len__(self) -> int:
        return len(self._masks)

    def with_rows(self, rows: Iterable[dict[str, Any]]) -> DeviceMasks:
        """These masks and those of further rows: `when`, `hide`, and `from` or, in an operator's own, `vouched`.

        Raises:
            ValueError: A row is not of that form.
        """
        named = ((f"{'+'.join(row.get('from', ('own',)))} {number}", row) for number, row in enumerate(rows, 1))
        return DeviceMasks((*self._masks, *(_mask(row, name) for name, row in named)))

    def matching(self, header: Dataset) -> tuple[DeviceMask, ...]:
        """The masks whose signature an instance has."""
        return self._matching(tuple("\\".join(values_of(header, keyword)) for keyword in self._keywords))

    def _find_matching(self, values: tuple[str, ...]) -> tuple[DeviceMask, ...]:
        """The masks that match values of the keywords; the instances of one series have the same."""
        by_keyword = dict(zip(self._keywords, values, strict=True))
        return tuple(mask for mask in self._masks if mask.matches(by_keyword.__getitem__))

    def hidden_by(self, header: Dataset, rows: int, columns: int) -> HiddenByDevice:
        """The union of the rectangles of all matching masks, in a picture of (rows, columns).

        Refused are rectangles outside the picture (of a mask that is vouched for, also those that reach outside), and
        two masks of one signature of which neither hides all that the other hides.
        """
        found = self.matching(header)
        names = tuple(mask.name for mask in found)
        picture = Rectangle(0, 0, columns, rows)
        for mask in found:
            for rectangle in mask.rectangles:
                inside = rectangle.within(picture)
                if inside.is_empty or (mask.vouched and inside != rectangle):
                    return HiddenByDevice(names=names, refusal=f"device mask {mask.name} lies outside the picture")
        for number, first in enumerate(found):
            for second in found[:number]:
                if _contradict(first, second):
                    reason = f"device masks {second.name} and {first.name} are of one device and contradict each other"
                    return HiddenByDevice(names=names, refusal=reason)
        rectangles = tuple(rectangle.within(picture) for mask in found for rectangle in mask.rectangles)
        return HiddenByDevice(rectangles, names, any(mask.vouched for mask in found))


def _contradict(first: DeviceMask, second: DeviceMask) -> bool:
    return first.signature == second.signature and not (
        covers(first.rectangles, second.rectangles) or covers(second.rectangles, first.rectangles)
    )


@cache
def vendored_masks() -> DeviceMasks:
    """The masks that come with the product."""
    return DeviceMasks(()).with_rows(json.loads(_FILE.read_text(encoding="utf-8"))["masks"])


def _mask(row: dict[str, Any], name: str) -> DeviceMask:
    try:
        groups = [[ElementTest(*map(str, test)) for test in group] for group in row["when"]]
        boxes = [tuple(map(int, box)) for box in row["hide"]]
        rectangles = tuple(Rectangle(x, y, x + width, y + height) for x, y, width, height in boxes)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"device mask {name}: a row has `when` (groups of tests) and `hide` (rectangles)") from None
    unknown = {test.test for group in groups for test in group} - _TESTS.keys()
    if unknown:
        raise ValueError(f"device mask {name}: permitted tests are {', '.join(_TESTS)}")
    if not groups or not all(groups):
        raise ValueError(f"device mask {name}: a mask without a test would hide parts of every picture")
    if any(rectangle.is_empty for rectangle in rectangles):
        raise ValueError(f"device mask {name}: a rectangle is left, top, width, height, the latter two above 0")
    signature = frozenset(frozenset(_normal(test) for test in group) for group in groups)
    return DeviceMask(name, signature, rectangles, vouched=bool(row.get("vouched", False)))


def _normal(test: ElementTest) -> ElementTest:
    """The test in the spelling by which two signatures are compared."""
    value = test.value.casefold() if test.test.endswith("IgnoreCase") else test.value
    return ElementTest(test.keyword, test.test, value)
