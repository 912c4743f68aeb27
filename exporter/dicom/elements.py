"""Elements of a header through pydicom, with its many exceptions and its talkative warnings kept in one place.

Contract: whatever bytes an element has, reading it gives a value or one named error; no message holds a value.

Must never: print, warn, or leave pydicom's global configuration changed.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydicom.errors import BytesLengthException

from exporter.dicom.structure import PIXEL_TAGS
from exporter.errors import BadGeometry, TooLarge, Unreadable

if TYPE_CHECKING:
    from types import TracebackType

    from pydicom.dataset import Dataset

READING_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,  # includes UnicodeError
    struct.error,
    BytesLengthException,  # no ValueError, unlike everything else that pydicom says about values
)
"""Errors that pydicom raises on damaged elements; they have no common base class."""


def read_elements(raw: bytes, *, implicit: bool, big_endian: bool) -> tuple[Dataset, int]:
    """Read `raw` with pydicom up to pixel data; also tells how many bytes it read.

    Raises:
        Unreadable: pydicom cannot read it.
        TooLarge: Memory runs out.
    """
    from pydicom.filereader import read_dataset

    def at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
        return tag in PIXEL_TAGS

    file = io.BytesIO(raw)
    try:
        with quiet_reading():
            dataset = read_dataset(file, implicit, not big_endian, stop_when=at_pixels)
    except MemoryError:
        raise TooLarge("there is not enough memory for the header") from None
    except READING_ERRORS as error:
        raise Unreadable(f"pydicom cannot read the data set ({type(error).__name__})") from None
    return dataset, file.tell()


def put_elements(header: Dataset, found: Dataset, tags: list[int]) -> None:
    """Put elements of one data set into another.

    Raises:
        Unreadable: pydicom cannot read one of them.
    """
    try:
        with quiet_reading():
            for tag in tags:
                header[tag] = found.get_item(tag)
    except READING_ERRORS as error:
        raise Unreadable(f"pydicom cannot read the data set ({type(error).__name__})") from None


_TEXT_VRS: Final = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "SH", "TM", "UI"})
_NUMBER_VRS: Final = frozenset({"DS", "IS", "SS", "US"})
_PLAIN_TEXT: Final = re.compile(rb"[ -\[\]-~]*\0*")
"""One value of printable ASCII characters, and padding."""
_PLAIN_IS: Final = re.compile(rb"[+-]?[0-9]{1,12} *")
_PLAIN_DS: Final = re.compile(
    rb"[+-]?[0-9]{1,12}(?:\.[0-9]{0,12})? ?(?:\\ ?[+-]?[0-9]{1,12}(?:\.[0-9]{0,12})? ?){0,15}"
)

_ONE_READER: Final = threading.RLock()
"""Warning filters and pydicom's configuration belong to the process: threads change them one after the other."""


class quiet_reading:  # noqa: N801 - used like a function, as contextlib's own
    """While reading elements: no warnings or log lines that quote values, no validation that raises."""

    def __enter__(self) -> None:
        import warnings

        from pydicom import config

        _ONE_READER.acquire()
        self._disabled, config.logger.disabled = config.logger.disabled, True
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")
        self._mode = config.settings.reading_validation_mode
        config.settings.reading_validation_mode = config.IGNORE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from pydicom import config

        config.settings.reading_validation_mode = self._mode
        self._warnings.__exit__(kind, error, trace)
        config.logger.disabled = self._disabled
        _ONE_READER.release()


def unread_value(header: Dataset, tag: int) -> Any:
    """The value of an element as pydicom holds it, mostly bytes that are not read yet.

    pydicom reads an empty one at once; None where it does not know its VR.
    """
    try:
        return header.get_item(tag).value
    except READING_ERRORS:
        return None


def is_present(header: Dataset, keyword: str) -> bool:
    """Whether a data set has an element, be it empty.

    As pydicom's `in`, which looks the keyword up each time.
    """
    return base_tag_of(keyword) in header.keys()  # noqa: SIM118 - it iterates over elements


def value_of(header: Dataset, keyword: str) -> Any:
    """The value of an element, or None where it is absent or empty.

    Raises:
        ValueError: The element cannot be read; the message names it, never its value.
    """
    tag = base_tag_of(keyword)
    element = None if tag is None else header.get_item(tag, keep_deferred=True)
    if element is None:
        return None
    try:
        if getattr(element, "is_raw", True):
            with quiet_reading():
                element = header[tag]
        value = element.value
    except READING_ERRORS as error:
        raise ValueError(f"{name_of(keyword)} cannot be read ({type(error).__name__})") from None
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return None
    return value


@lru_cache(maxsize=4096)
def base_tag_of(keyword: str) -> Any:
    """The tag of a keyword as pydicom's own kind of integer; None where the dictionary does not have it."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import BaseTag

    tag = tag_for_keyword(keyword)
    return None if tag is None else BaseTag(tag)


def _plain_bytes(header: Dataset, keyword: str, vrs: frozenset[str]) -> tuple[str, bytes] | None:
    """VR and bytes of a little endian element of one of `vrs` that is not read yet; None for any other.

    What these bytes say is known without pydicom, which takes far longer and would keep the element in another form.
    """
    element = header.get_item(base_tag_of(keyword), keep_deferred=True)
    if element is None or element.VR not in vrs or not getattr(element, "is_raw", False):
        return None
    return (element.VR, element.value) if element.is_little_endian and type(element.value) is bytes else None


def _plain_numbers(header: Dataset, keyword: str) -> list[int | float] | None:
    """The numbers of an element in a form that leaves no question; None for any other: pydicom decides."""
    found = _plain_bytes(header, keyword, _NUMBER_VRS)
    if found is None:
        return None
    vr, raw = found
    if vr in {"US", "SS"}:
        return [int.from_bytes(raw, "little", signed=vr == "SS")] if len(raw) == 2 else None
    if vr == "IS":
        return [int(raw)] if _PLAIN_IS.fullmatch(raw) else None
    return [float(part) for part in raw.split(b"\\")] if _PLAIN_DS.fullmatch(raw) else None


def readable_value_of(header: Dataset, keyword: str) -> Any:
    """The value of an element, or None where it is absent, empty or cannot be read."""
    try:
        return value_of(header, keyword)
    except ValueError:
        return None


def finite(value: object) -> float | None:
    """A value as one finite number; None where it is anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever pydicom made of the element
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def is_unreadable_sequence(dataset: Dataset, keyword: str) -> bool:
    """Whether an element that must be a sequence is present with a value that cannot be read as one."""
    try:
        value = value_of(dataset, keyword)
        if value is None:
            return False
        if isinstance(value, bytes | str):
            return True
        list(value)
    except READING_ERRORS:
        return True
    return False


def text_of(header: Dataset, keyword: str) -> str:
    """The (first) value of an element as text, without padding; empty where it is absent, empty or unreadable."""
    found = _plain_bytes(header, keyword, _TEXT_VRS)
    if found is not None and _PLAIN_TEXT.fullmatch(found[1]):
        return found[1].decode("ascii").strip(" \0")
    value = readable_value_of(header, keyword)
    if value is None:
        return ""
    if not isinstance(value, str):
        with contextlib.suppress(TypeError, LookupError):
            value = value[0] if len(value) else ""
    return str(value).strip(" \0")


def numbers_of(dataset: Dataset, keyword: str) -> list[float]:
    """The values of an element as floats; NaN for what is no number."""
    numbers = _plain_numbers(dataset, keyword)
    if numbers is not None:
        return [float(number) for number in numbers]
    try:
        value: Any = value_of(dataset, keyword)
    except ValueError:
        return [math.nan]
    if value is None:
        return []
    values = [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else list(value)
    return [_float(v) for v in values]


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # whatever pydicom made of the element
    except (TypeError, ValueError, OverflowError):
        return math.nan


def name_of(keyword: str) -> str:
    """``(gggg,eeee) Name`` of a keyword."""
    from pydicom.datadict import dictionary_description, tag_for_keyword

    tag = tag_for_keyword(keyword)
    if tag is None:
        return keyword
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def integer_of(header: Dataset, keyword: str, default: int | None = None) -> int:
    """The value of an element as one integer.

    Raises:
        BadGeometry: It is absent without a default, several, or no integer.
    """
    numbers = _plain_numbers(header, keyword)
    if numbers is not None and len(numbers) == 1 and isinstance(numbers[0], int):
        return numbers[0]
    try:
        value = value_of(header, keyword)
    except ValueError as error:
        raise BadGeometry(str(error)) from None
    if value is None:
        if default is None:
            raise BadGeometry(f"{name_of(keyword)} is missing")
        return default
    try:
        number = float(value) if isinstance(value, str) else value
        integer = int(number)
    except (TypeError, ValueError, OverflowError):
        raise BadGeometry(f"{name_of(keyword)} is not one integer") from None
    if integer != number:
        raise BadGeometry(f"{name_of(keyword)} is not one integer")
    return integer
