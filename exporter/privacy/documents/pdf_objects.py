"""Objects of a PDF file: every one that stands in it, in object streams too, with its stream decoded.

Contract: `read_pdf` finds objects by their heads, not by the cross-reference table, so that superseded and unreferenced
ones are seen as well. Names are `PdfName`, references `PdfReference`, strings bytes. What cannot be parsed or decoded
raises `PdfUnsearchable`, whose message holds no value.

Source: ISO 32000-1 7.2 (lexical conventions), 7.3 (objects), 7.4 (filters), 7.5.7 (object streams).
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

_MOST_BYTES: Final = 256 << 20
"""Most bytes of all decoded streams."""
_SPACE: Final = re.compile(rb"(?:[\0\t\n\f\r ]|%[^\r\n]*)*")
_HEAD: Final = re.compile(
    rb"(?<!\d)(\d{1,10})[\0\t\n\f\r ]+(\d{1,5})[\0\t\n\f\r ]+obj(?![A-Za-z])|(?<![a-z])trailer(?![a-z])"
)
_WORD: Final = re.compile(rb"[^\0\t\n\f\r ()<>\[\]{}/%]+")
_BRACE: Final = re.compile(rb"[{}]")
"""Braces of PostScript functions."""
_REFERENCE: Final = re.compile(rb"(\d{1,10})[\0\t\n\f\r ]+\d{1,5}[\0\t\n\f\r ]+R(?![A-Za-z0-9])")
_STREAM: Final = re.compile(rb"stream(?:\r\n|\n|\r)")
_LITERAL_PART: Final = re.compile(rb"[^()\\]+")
_NAME_ESCAPE: Final = re.compile(r"#([0-9A-Fa-f]{2})")
_ESCAPES: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}
_DEEPEST: Final = 100
_FILTERS: Final = {
    "FlateDecode": "flate",
    "Fl": "flate",
    "ASCIIHexDecode": "hex",
    "AHx": "hex",
    "ASCII85Decode": "85",
    "A85": "85",
}
_PNG_PREDICTOR: Final = 10


class PdfUnsearchable(Exception):
    """A part of a PDF of which the text is not known; the message says which."""


class PdfName(str):
    """A name, without its solidus."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class PdfReference:
    """A reference to an object."""

    number: int


@dataclass(frozen=True, slots=True)
class PdfWord:
    """A number, a keyword or an operator."""

    text: bytes


@dataclass(slots=True)
class PdfStream:
    """A stream: its dictionary and its decoded bytes."""

    entries: dict[str, Any]
    data: bytes


@dataclass(slots=True)
class PdfFile:
    """The objects of a file."""

    objects: list[Any] = field(default_factory=list)
    """Every object, those in object streams and trailers too, in the order of the file."""
    latest: dict[int, Any] = field(default_factory=dict)
    """The last object of each number."""

    def resolved(self, value: Any) -> Any:
        """The object that a reference names; None where there is none."""
        for _ in range(_DEEPEST):
            if not isinstance(value, PdfReference):
                return value
            value = self.latest.get(value.number)
        raise PdfUnsearchable("references go round in circles")


def read_pdf(data: bytes) -> PdfFile:
    """All objects of a PDF.

    Raises:
        PdfUnsearchable: One cannot be parsed or decoded, or the file is encrypted.
    """
    if b"/Encrypt" in data:
        raise PdfUnsearchable("it is encrypted")
    file, left, at = PdfFile(), _MOST_BYTES, 0
    lengths = {int(number): int(value) for number, value in re.findall(rb"(\d+) \d+ obj\s+(\d+)\s+endobj", data)}
    while (head := _HEAD.search(data, at)) is not None:
        parser = PdfParser(data, head.end())
        value = parser.value()
        at = parser.at
        if isinstance(value, dict) and (opening := _STREAM.match(data, _SPACE.match(data, at).end())):  # type: ignore[union-attr]
            decoded, at = _decoded(data, opening.end(), value, left, lengths)
            left -= len(decoded)
            value = PdfStream(value, decoded)
        _note(file, int(head[1]) if head[1] else None, value)
        if isinstance(value, PdfStream) and value.entries.get("Type") == "ObjStm":
            _read_object_stream(file, value)
    return file


def _note(file: PdfFile, number: int | None, value: Any) -> None:
    file.objects.append(value)
    if number is not None:
        file.latest[number] = value


def _read_object_stream(file: PdfFile, stream: PdfStream) -> None:
    count, first = (stream.entries.get(key) for key in ("N", "First"))
    if not isinstance(count, PdfWord) or not isinstance(first, PdfWord):
        raise PdfUnsearchable("an object stream has no index")
    index = stream.data[: int(first.text)].split()
    for number, offset in zip(index[::2], index[1::2], strict=False):
        _note(file, int(number), PdfParser(stream.data, int(first.text) + int(offset)).value())


class PdfParser:
    """Values one after the other, from a place in bytes on."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self.at = at
        """Where the next value begins."""

    def is_at_end(self) -> bool:
        """Whether no value is left."""
        self._skip()
        return self.at >= len(self._data)

    def _skip(self) -> None:
        found = _SPACE.match(self._data, self.at)
        self.at = found.end() if found else self.at

    def value(self, depth: int = 0) -> Any:
        """The next value: dict, list, bytes, `PdfName`, `PdfReference` or `PdfWord`.

        Raises:
            PdfUnsearchable: There is none.
        """
        if depth > _DEEPEST:
            raise PdfUnsearchable("objects are nested too deep")
        self._skip()
        data, at = self._data, self.at
        first = data[at : at + 1]
        if first == b"(":
            return self._literal()
        if first == b"<":
            return self._dictionary(depth) if data[at : at + 2] == b"<<" else self._hexadecimal()
        if first == b"[":
            return self._array(depth)
        return self._name() if first == b"/" else self._word()

    def _name(self) -> PdfName:
        start = self.at + 1
        word = _WORD.match(self._data, start)
        self.at = word.end() if word else start
        text = self._data[start : self.at].decode("latin-1")
        return PdfName(_NAME_ESCAPE.sub(lambda code: chr(int(code[1], 16)), text))

    def _word(self) -> PdfReference | PdfWord:
        if reference := _REFERENCE.match(self._data, self.at):
            self.at = reference.end()
            return PdfReference(int(reference[1]))
        found = _WORD.match(self._data, self.at) or _BRACE.match(self._data, self.at)
        if found is None:
            raise PdfUnsearchable("an object cannot be parsed")
        self.at = found.end()
        return PdfWord(found[0])

    def _array(self, depth: int) -> list[Any]:
        self.at += 1
        values: list[Any] = []
        while True:
            self._skip()
            if self._data[self.at : self.at + 1] == b"]":
                self.at += 1
                return values
            values.append(self.value(depth + 1))

    def _dictionary(self, depth: int) -> dict[str, Any]:
        self.at += 2
        entries: dict[str, Any] = {}
        while True:
            self._skip()
            if self._data[self.at : self.at + 2] == b">>":
                self.at += 2
                return entries
            key = self.value(depth + 1)
            if not isinstance(key, PdfName):
                raise PdfUnsearchable("a dictionary cannot be parsed")
            if key in entries:
                raise PdfUnsearchable("a dictionary has one key twice")
            entries[key] = self.value(depth + 1)

    def _hexadecimal(self) -> bytes:
        end = self._data.find(b">", self.at)
        digits = b"".join(self._data[self.at + 1 : end].split())
        if end < 0:
            raise PdfUnsearchable("a string has no end")
        self.at = end + 1
        try:
            return binascii.unhexlify(digits + b"0" * (len(digits) % 2))
        except binascii.Error:
            raise PdfUnsearchable("a string cannot be parsed") from None

    def _literal(self) -> bytes:
        """A string in parentheses, which may be nested (ISO 32000-1 7.3.4.2)."""
        data, at, depth, parts = self._data, self.at + 1, 1, []
        while at < len(data):
            if run := _LITERAL_PART.match(data, at):
                parts.append(run[0])
                at = run.end()
                continue
            sign = data[at : at + 1]
            at += 1
            if sign == b"\\":
                octal = re.compile(rb"[0-7]{1,3}").match(data, at)
                if octal:
                    parts.append(bytes([int(octal[0], 8) & 0xFF]))
                    at = octal.end()
                elif data[at : at + 2] == b"\r\n":
                    at += 2
                else:
                    parts.append(b"" if data[at : at + 1] in (b"\n", b"\r") else _escaped(data[at : at + 1]))
                    at += 1
                continue
            depth += 1 if sign == b"(" else -1
            if not depth:
                self.at = at
                return b"".join(parts)
            parts.append(sign)
        raise PdfUnsearchable("a string has no end")


def _escaped(sign: bytes) -> bytes:
    return _ESCAPES.get(sign, sign)


def _decoded(data: bytes, start: int, entries: dict[str, Any], most: int, lengths: dict[int, int]) -> tuple[bytes, int]:
    """The decoded bytes of a stream, and where it ends.

    Raises:
        PdfUnsearchable: A filter is not known, or the bytes are not what it says.
    """
    filters = _listed(entries.get("Filter", entries.get("F")))
    names = [_FILTERS.get(name) if isinstance(name, PdfName) else None for name in filters]
    if None in names:
        raise PdfUnsearchable("it holds a picture, or a stream of a coding that cannot be searched")
    length = entries.get("Length")
    size = lengths.get(length.number) if isinstance(length, PdfReference) else None
    if isinstance(length, PdfWord) and length.text.isdigit():
        size = int(length.text)
    end = -1 if size is None else start + size
    if end < 0 or not re.compile(rb"\s*endstream").match(data, end):
        end = data.find(b"endstream", start)
    if end < 0:
        raise PdfUnsearchable("a stream has no end")
    content = data[start:end]
    for number, name in enumerate(names):
        parameters = _listed(entries.get("DecodeParms", entries.get("DP")))
        content = _unfiltered(content, str(name), parameters[number] if number < len(parameters) else None, most)
    if len(content) > most:
        raise PdfUnsearchable("its streams are too long")
    return content, end


def _listed(value: Any) -> list[Any]:
    if value is None or (isinstance(value, PdfWord) and value.text == b"null"):
        return []
    return value if isinstance(value, list) else [value]


def _unfiltered(content: bytes, name: str, parameters: Any, most: int) -> bytes:
    try:
        if name == "hex":
            digits = b"".join(content.partition(b">")[0].split())
            return binascii.unhexlify(digits + b"0" * (len(digits) % 2))
        if name == "85":
            return base64.a85decode(b"".join(content.split()).partition(b"~>")[0])
        decoder = zlib.decompressobj()
        found = decoder.decompress(content, most + 1)
    except (zlib.error, ValueError):
        raise PdfUnsearchable("a stream cannot be decoded") from None
    if not decoder.eof:
        raise PdfUnsearchable("a stream is too long, or is cut")
    return _unpredicted(found, parameters) if isinstance(parameters, dict) else found


def _unpredicted(content: bytes, parameters: dict[str, Any]) -> bytes:
    """The bytes without PNG prediction (ISO 32000-1 7.4.4.4).

    Raises:
        PdfUnsearchable: They are predicted otherwise.
    """
    predictor = _number(parameters, "Predictor", 1)
    if predictor == 1:
        return content
    if predictor < _PNG_PREDICTOR:
        raise PdfUnsearchable("a stream is predicted in a way that cannot be searched")
    unit = max(1, _number(parameters, "Colors", 1) * _number(parameters, "BitsPerComponent", 8) // 8)
    width = _number(parameters, "Columns", 1) * unit
    above, lines = bytes(width), []
    for at in range(0, len(content), width + 1):
        kind, line = content[at], bytearray(content[at + 1 : at + 1 + width])
        for place, value in enumerate(line):
            left = line[place - unit] if place >= unit else 0
            corner = above[place - unit] if place >= unit else 0
            line[place] = (value + _predicted(kind, left, above[place], corner)) & 0xFF
        above = bytes(line).ljust(width, b"\0")
        lines.append(bytes(line))
    return b"".join(lines)


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 4:  # Paeth (PNG 9.4)
        guess = left + above - corner
        return min((left, above, corner), key=lambda value: abs(guess - value))
    return (0, left, above, (left + above) // 2)[kind] if kind < 4 else 0


def _number(entries: dict[str, Any], key: str, default: int) -> int:
    value = entries.get(key)
    if value is None:
        return default
    if not isinstance(value, PdfWord) or not value.text.isdigit():
        raise PdfUnsearchable("a stream has parameters that cannot be read")
    return int(value.text)
