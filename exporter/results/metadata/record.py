"""The elements of one instance as JSON: the seed's keys, typed values, nothing dropped without a note.

Contract: `record_text` gives one JSON object in valid UTF-8 for whatever a header holds. Keys are full element names
("Patient's Name"); `exporter.results.metadata.keys` separates names that collide. Values:

- text, UIDs, dates, times, ages: strings as DICOM writes them, without padding; person names as ``A^B=C=D``;
- IS and binary integers: integers; DS, FL, FD: floats; null for anything but a finite number, with a warning;
- attribute tags: ``(gggg,eeee)``;
- several values: arrays; none: null; sequences: arrays of objects;
- binary values (OB, OD, OF, OL, OV, OW, UN that nobody can read) are left out and listed with their length;
- private elements, where they are not wanted, are left out and counted.

These notes go under the key `export`, from where `exporter.results.line` takes them. Pixel data are not part of
a header; neither, as in the seed, is the file meta information, of which only the transfer syntax is kept.

Elements are decoded from pydicom's raw elements directly where that is plain: building a pydicom element for each
costs several times as much. Everything else goes through pydicom. A test compares both ways.

Must never: hold NaN or Infinity, lone surrogates, values in warnings; recurse or grow without a bound.
"""

from __future__ import annotations

import math
import struct
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from exporter.dicom.elements import READING_ERRORS, quiet_reading
from exporter.results.metadata.dicom_json import as_attributes, tag_key
from exporter.results.metadata.keys import Keys, KeyStyle, shared_keys, standard_vr, tag_and_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance
    from exporter.settings.settings import MetadataSettings, RecordForm

T = TypeVar("T")

MOST_CHARACTERS: Final = 1 << 16
"""Longest text value; a longer one is cut, with a warning."""
MOST_VALUES: Final = 1 << 17
"""Most values of one element; more are cut, with a warning."""
MOST_TEXT: Final = 64 << 20
"""Most characters of all values; elements beyond are left out and listed."""
MOST_DEPTH: Final = 64
"""Deepest nesting that is followed; DCMTK's limit too."""
MOST_NOTES: Final = 200
"""Most warnings, and most binary elements, that are listed one by one."""

_STYLES: Final = {"keywords": KeyStyle.KEYWORD, "tags": KeyStyle.TAG}
_INTEGERS: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q"}
_FLOATS: Final = {"FL": "f", "FD": "d"}
_NUMBERS: Final = _INTEGERS | _FLOATS
_ONE_NUMBER: Final = {
    (vr, little): (one.size, one.unpack)
    for vr, code in _NUMBERS.items()
    for little in (False, True)
    for one in (struct.Struct(f"{'<' if little else '>'}{code}"),)
}
"""Size of one number in bytes, and the function that reads it, by VR and byte order."""
_PLAIN: Final = frozenset(("AE", "AS", "CS", "DA", "DT", "TM", "UI"))
"""Text in the default repertoire; spaces around a value mean nothing."""
_LOCAL: Final = frozenset(("LO", "PN", "SH", "UC"))
"""Text in the instance's character set."""
_LONG: Final = frozenset(("LT", "ST", "UT", "UR"))
"""Text in the instance's character set (UR: default), one value: a backslash is a character."""
_TEXT: Final = _PLAIN | _LOCAL | _LONG
_UNQUESTIONED: Final = _PLAIN | _NUMBERS.keys() | {"DS", "IS"}
"""VRs whose bytes need no character set."""
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW"))
_ESCAPE: Final = b"\x1b"
_MOST_DIGITS: Final = 64
_PADDING: Final = " \0"
_MOST_KNOWN: Final = 4096
_MOST_KNOWN_BYTES: Final = 64
_KNOWN: Final[dict[tuple[str, bytes, bool], tuple[str | int | float | None, int]]] = {}
"""Values of short elements that were read without a warning, and the text they count as, by VR, bytes and byte order:
nothing else decides them. Instances of a series share most."""


@dataclass(slots=True)
class RecordNotes:
    """Notes about the elements besides their values."""

    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Binary elements: `element` (path of keys), `vr`, `bytes`."""
    warnings: dict[str, None] = field(default_factory=dict)
    """Sentences without values, in order, each once."""
    unlisted: int = 0
    """Elements left out that are not listed one by one."""
    private: int = 0
    """Number of private elements left out by the settings; elements nested in them are not counted."""

    def leave_out(self, path: tuple[str, ...], vr: str, size_bytes: int) -> None:
        """Note a binary element."""
        if len(self.left_out) < MOST_NOTES:
            self.left_out.append({"element": " > ".join(path), "vr": str(vr), "bytes": size_bytes})
        else:
            self.unlisted += 1

    def warn(self, tag: int, what: str) -> None:
        """Note a sentence about an element."""
        if len(self.warnings) < MOST_NOTES:
            self.warnings[f"{tag_and_name(tag)}: {what}"] = None


def record_text(instance: Instance, settings: MetadataSettings | None = None) -> str:
    """The record of an instance as `exporter.outcome` carries it: one JSON object.

    Args:
        instance: The instance.
        settings: Whether private elements are part of it, and in what form elements are; default: every default.
    """
    private = settings is None or settings.private
    walk = _Walk(instance.limits.max_elements, private=private, form="names" if settings is None else settings.record)
    with quiet_reading():
        values, notes = walk.data_set(instance.header, ()), walk.notes
    warnings = list(notes.warnings)
    if notes.unlisted:
        warnings.append(f"{notes.unlisted} more elements are left out of the metadata")
    values["export"] = {
        "transfer_syntax_uid": instance.transfer_syntax,
        "left_out": notes.left_out,
        "private_left_out": None if private else notes.private,
        "privacy": instance.deidentification,
        "warnings": warnings,
    }
    return orjson.dumps(values).decode()


def series_record(study_uid: str, series_uid: str, settings: MetadataSettings) -> str:
    """The record of a whole series: its two UIDs, in the form of the settings."""
    from pydicom.dataset import Dataset

    header = Dataset()
    with quiet_reading():
        header.StudyInstanceUID, header.SeriesInstanceUID = study_uid, series_uid
        walk = _Walk(len(header), private=False, form=settings.record)
        return orjson.dumps(walk.data_set(header, ())).decode()


def elements(
    header: Dataset, *, most_elements: int = 400_000, private: bool = True, form: RecordForm = "names"
) -> tuple[dict[str, Any], RecordNotes]:
    """The elements of a data set as values that JSON can hold, and notes about them."""
    walk = _Walk(most_elements, private=private, form=form)
    with quiet_reading():
        return walk.data_set(header, ()), walk.notes


class _Walk:
    """One pass over a data set, with what bounds it."""

    def __init__(self, most_elements: int, *, private: bool, form: RecordForm = "names") -> None:
        self.notes = RecordNotes()
        self._private = private
        self._in_dicom_json = form == "dicom-json"
        self._style = _STYLES.get(form, KeyStyle.NAME)
        self._elements_left = most_elements
        self._text_left = MOST_TEXT

    def data_set(self, header: Dataset, path: tuple[str, ...]) -> dict[str, Any]:
        from pydicom.dataelem import RawDataElement

        values: dict[str, Any] = {}
        keys = Keys(header, self._style)
        shared = None if self._in_dicom_json else shared_keys(header, self._style)
        for number, (base_tag, element) in enumerate(list(header.items())):
            self._elements_left -= 1
            if self._elements_left < 0 or self._text_left < 0:
                self.notes.unlisted += 1
                continue
            tag = int(base_tag)
            if tag & 0x10000 and not self._private:
                self.notes.private += 1
                continue
            if shared is not None:
                key = shared[number]
            else:
                key = tag_key(tag) if self._in_dicom_json else keys.key_for(tag)
                if key in values:
                    key = keys.distinct_key(tag, values)
            vr = element.VR or standard_vr(tag)
            raw = element.value
            if not isinstance(element, RawDataElement) or type(raw) is not bytes:
                self._read(header, tag, key, path, values)
            elif vr in _BINARY:
                self.notes.leave_out((*path, key), vr, len(raw))
            elif vr in _UNQUESTIONED or (vr in _TEXT and raw.isascii() and _ESCAPE not in raw):
                values[key] = self._plain(tag, vr, raw, little=element.is_little_endian)
            else:
                self._read(header, tag, key, path, values)
        return as_attributes(header, values) if self._in_dicom_json else values

    def _plain(self, tag: int, vr: str, raw: bytes, *, little: bool) -> Any:
        """The value of an element whose bytes need no character set; a short one from `_KNOWN`, if it is there."""
        known = _KNOWN.get((vr, raw, little))
        if known is not None:
            self._text_left -= known[1]
            return known[0]
        before, said = self._text_left, len(self.notes.warnings)
        value: Any
        if vr in _TEXT:
            value = self._text(tag, vr, raw.decode("latin-1"))
        elif vr in _NUMBERS:
            value = self._binary(tag, vr, raw, little=little)
        else:
            value = self._strings(tag, raw, _decimal if vr == "DS" else _integer)
        if (
            len(raw) <= _MOST_KNOWN_BYTES
            and said == len(self.notes.warnings) < MOST_NOTES
            and not isinstance(value, list)
        ):
            if len(_KNOWN) >= _MOST_KNOWN:
                _KNOWN.clear()
            _KNOWN[vr, raw, little] = value, before - self._text_left
        return value

    def _read(self, header: Dataset, tag: int, key: str, path: tuple[str, ...], values: dict[str, Any]) -> None:
        """One element through pydicom: nested, in a character set, of an ambiguous VR, or read before."""
        try:
            element = header[tag]
            vr, value = element.VR, element.value
        except READING_ERRORS:
            self.notes.warn(tag, "its value cannot be read")
            values[key] = None
            return
        if vr == "SQ":
            values[key] = self._sequence(tag, value or (), (*path, key))
        elif isinstance(value, bytes):
            self.notes.leave_out((*path, key), vr, len(value))
        elif vr in _BINARY:
            self.notes.leave_out((*path, key), vr, 0)
        elif vr in _TEXT:
            values[key] = self._text_of(tag, vr, value)
        else:
            values[key] = self._number_of(tag, vr, value)

    def _sequence(self, tag: int, items: Iterable[Dataset | None], path: tuple[str, ...]) -> list[dict[str, Any]]:
        if len(path) > MOST_DEPTH:
            self.notes.warn(tag, f"sequences nested deeper than {MOST_DEPTH} are left out")
            return []
        place, key = path[:-1], path[-1]
        return [
            self.data_set(item, (*place, f"{key}[{number}]")) for number, item in enumerate(items) if item is not None
        ]

    def _text(self, tag: int, vr: str, text: str) -> str | list[str] | None:
        """The values of a decoded text element."""
        self._text_left -= len(text)
        if "\\" not in text and len(text) <= MOST_CHARACTERS:  # one value, as most have
            return (text.strip(_PADDING) if vr in _PLAIN else text.rstrip(_PADDING)) or None
        if vr in _LONG:
            return self._cut(tag, text.rstrip(_PADDING)) or None
        values = self._fewer(tag, text.split("\\"))
        if vr in _PLAIN:
            values = [value.strip(_PADDING) for value in values]
        else:
            values = [value.rstrip(_PADDING) for value in values]
        values = [self._cut(tag, value) for value in values]
        return values if len(values) > 1 else values[0] or None

    def _text_of(self, tag: int, vr: str, value: Any) -> str | list[str] | None:
        """Text of a value as pydicom gives it."""
        if value is None:
            return None
        texts = [str(one) for one in value] if isinstance(value, MutableSequence) else [str(value)]
        text = "\\".join(texts).encode("utf-8", "replace").decode("utf-8")
        if "\N{REPLACEMENT CHARACTER}" in text:
            self.notes.warn(tag, "text is not in the character set that the data set says")
        return self._text(tag, vr, text)

    def _strings(self, tag: int, raw: bytes, parse: Callable[[str], int | float | None]) -> Any:
        """The numbers of a DS or IS element."""
        self._text_left -= len(raw)
        if b"\\" not in raw:
            text = raw.decode("latin-1").strip(_PADDING)
            number = parse(text) if text else None
            if number is not None or not text:
                self._text_left -= 8
                return number
        texts = [text.strip(_PADDING) for text in raw.decode("latin-1").split("\\")]
        return self._one_or_several(tag, [None if not text else parse(text) for text in texts], texts)

    def _binary(self, tag: int, vr: str, raw: bytes, *, little: bool) -> Any:
        """The numbers of a binary element."""
        code = _NUMBERS[vr]
        size, unpack = _ONE_NUMBER[vr, little]
        if len(raw) == size:
            (value,) = unpack(raw)
            if math.isfinite(value):
                self._text_left -= size + 8
                return value
        number, rest = divmod(len(raw), size)
        if rest:
            self.notes.warn(tag, f"its length is no multiple of {size} bytes")
        values = struct.unpack_from(f"{'<' if little else '>'}{number}{code}", raw)
        self._text_left -= len(raw)
        return self._one_or_several(tag, [_finite(value) for value in values], values)

    def _number_of(self, tag: int, vr: str, value: Any) -> Any:
        """The numbers (or tags) of a value as pydicom gives it."""
        given = list(value) if isinstance(value, MutableSequence) else [value]
        if vr == "AT":
            tags = [f"({int(one) >> 16:04X},{int(one) & 0xFFFF:04X})" for one in given if one is not None]
            return self._one_or_several(tag, tags, tags)
        values = [None if one is None or one == "" else _as_number(vr, one) for one in given]
        return self._one_or_several(tag, values, given)

    def _one_or_several(self, tag: int, values: list[Any], given: Sequence[Any]) -> Any:
        """One value alone, several as an array; warns of those that could not be read."""
        if any(value is None and one not in ("", None) for value, one in zip(values, given, strict=True)):
            self.notes.warn(tag, "a value is no finite number")
        self._text_left -= 8 * len(values)
        values = self._fewer(tag, values)
        return values if len(values) > 1 else values[0] if values else None

    def _fewer(self, tag: int, values: list[T]) -> list[T]:
        if len(values) <= MOST_VALUES:
            return values
        self.notes.warn(tag, f"only the first {MOST_VALUES} of its values are kept")
        return values[:MOST_VALUES]

    def _cut(self, tag: int, text: str) -> str:
        if len(text) <= MOST_CHARACTERS:
            return text
        self.notes.warn(tag, f"only the first {MOST_CHARACTERS} characters are kept")
        return text[:MOST_CHARACTERS]


def _decimal(text: str) -> float | None:
    """A DS value; None for what is no finite number (PS3.5 table 6.2-1; Python also knows ``1_0``, ``nan``, ...)."""
    try:
        return _finite(float(text)) if "_" not in text else None
    except ValueError:
        return None


def _integer(text: str) -> int | float | None:
    """An IS value; a float where a sender wrote a fraction."""
    if "_" in text or len(text) > _MOST_DIGITS:
        return None
    try:
        return _fitting(int(text))
    except ValueError:
        number = _decimal(text)
    if number is None or not number.is_integer():
        return number
    return _fitting(int(number))


def _fitting(value: int) -> int | None:
    """Integers beyond 64 bits are nobody's: JSON readers would make floats of them."""
    return value if -(1 << 63) <= value < (1 << 64) else None


def _finite(value: float) -> int | float | None:
    return value if math.isfinite(value) else None


def _as_number(vr: str, value: Any) -> int | float | None:
    if vr in ("DS", "IS") and isinstance(value, str):
        return _decimal(value) if vr == "DS" else _integer(value)
    try:
        number = float(value) if vr in ("DS", *_FLOATS) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return _finite(number) if isinstance(number, float) else _fitting(number)
