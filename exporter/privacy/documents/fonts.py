"""What the codes of a PDF's fonts mean: by their tables to Unicode, else by an encoding of the Standard.

Contract: `PdfFont.text_of` returns the text that a string of codes shows, or raises where one of them shows a glyph of
which nothing says what it is.

Source: ISO 32000-1 9.6.6 (character encoding), 9.10 (extraction of text); Adobe Technical Note 5411 (ToUnicode).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from exporter.privacy.documents.pdf_objects import PdfName, PdfParser, PdfStream, PdfUnsearchable, PdfWord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.privacy.documents.pdf_objects import PdfFile

_ENCODINGS: Final = {"WinAnsiEncoding": "cp1252", "MacRomanEncoding": "mac_roman", "StandardEncoding": "latin-1"}
_SIMPLE: Final = frozenset({"Type1", "MMType1", "TrueType"})
_FILES: Final = ("FontFile", "FontFile2", "FontFile3")
_MOST_CODES: Final = 70_000
_UNICODE_NAME: Final = re.compile(r"uni([0-9A-F]{4})|u([0-9A-F]{4,6})")
_NUMBERS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_ACCENTS: Final = {
    "acute": "ACUTE",
    "grave": "GRAVE",
    "circumflex": "CIRCUMFLEX",
    "dieresis": "DIAERESIS",
    "tilde": "TILDE",
    "ring": "RING ABOVE",
    "caron": "CARON",
    "cedilla": "CEDILLA",
    "ogonek": "OGONEK",
    "macron": "MACRON",
    "breve": "BREVE",
    "dotaccent": "DOT ABOVE",
}
_SIGNS: Final = {
    **{name: str(number) for number, name in enumerate(_NUMBERS)},
    **dict.fromkeys(("hyphen", "minus", "endash", "emdash"), "-"),
    **{name: name for name in ("ff", "fi", "fl", "ffi", "ffl")},
    **dict(zip(("period", "slash", "comma", "underscore", "asciicircum", "colon"), "./,_^:", strict=True)),
    **dict(
        zip(("germandbls", "Oslash", "oslash", "AE", "ae", "OE", "oe"), "\xdf\xd8\xf8\xc6\xe6\u0152\u0153", strict=True)
    ),
    **dict(
        zip(
            ("Lslash", "lslash", "dotlessi", "Eth", "eth", "Thorn", "thorn"),
            "\u0141\u0142\u0131\xd0\xf0\xde\xfe",
            strict=True,
        )
    ),
}
_BLANK: Final = frozenset(
    [
        "space",
        "nbspace",
        "exclam",
        "quotedbl",
        "numbersign",
        "dollar",
        "percent",
        "ampersand",
        "quotesingle",
        "parenleft",
        "parenright",
        "asterisk",
        "plus",
        "semicolon",
        "less",
        "equal",
        "greater",
        "question",
        "at",
        "bracketleft",
        "backslash",
        "bracketright",
        "grave",
        "braceleft",
        "bar",
        "braceright",
        "asciitilde",
        "bullet",
        "quoteleft",
        "quoteright",
        "quotedblleft",
        "quotedblright",
        "ellipsis",
        "degree",
        "mu",
        "plusminus",
        "multiply",
        "section",
        "copyright",
        "registered",
        "trademark",
        "dagger",
        "daggerdbl",
        "guillemotleft",
        "guillemotright",
        "sterling",
        "Euro",
        ".notdef",
    ]
)
"""Glyphs that are no part of a word."""


class PdfFont:
    """One font of a file."""

    def __init__(self, entries: dict[str, Any], file: PdfFile) -> None:
        self._codes: dict[bytes, str] = {}
        self._lengths: tuple[int, ...] = (1,)
        self._encoding: str | None = None
        is_simple = entries.get("Subtype") in _SIMPLE
        table = file.resolved(entries.get("ToUnicode"))
        if isinstance(table, PdfStream):
            self._read_table(PdfParser(table.data))
        if not is_simple:
            return
        self._lengths = (1,)
        encoding = file.resolved(entries.get("Encoding"))
        base = file.resolved(encoding.get("BaseEncoding")) if isinstance(encoding, dict) else encoding
        descriptor = file.resolved(entries.get("FontDescriptor"))
        is_embedded = isinstance(descriptor, dict) and any(key in descriptor for key in _FILES)
        if base in _ENCODINGS or not is_embedded:
            self._encoding = _ENCODINGS.get(str(base), "cp1252")
        if isinstance(encoding, dict):
            self._read_differences(file.resolved(encoding.get("Differences")) or [])

    @property
    def is_known(self) -> bool:
        """Whether anything says what its codes show."""
        return bool(self._codes) or self._encoding is not None

    def text_of(self, codes: bytes) -> str:
        """The text that a string shows.

        Raises:
            PdfUnsearchable: Nothing says what one of its codes shows.
        """
        return "".join(self._texts(codes))

    def _texts(self, codes: bytes) -> Iterator[str]:
        at = 0
        while at < len(codes):
            for length in self._lengths:
                code = codes[at : at + length]
                if code in self._codes:
                    yield self._codes[code]
                    at += length
                    break
            else:
                if self._encoding is None:
                    raise PdfUnsearchable("a font does not say what its glyphs are")
                yield codes[at : at + 1].decode(self._encoding, "replace")
                at += 1

    def _read_differences(self, values: list[Any]) -> None:
        """Names of glyphs, each for the code after the one before it (ISO 32000-1 9.6.6.1)."""
        code = 0
        for value in values:
            if isinstance(value, PdfWord) and value.text.isdigit():
                code = int(value.text)
            elif isinstance(value, PdfName) and code < 256:
                text = _text_of_glyph(value)
                if text is not None:
                    self._codes.setdefault(bytes([code]), text)
                elif bytes([code]) not in self._codes:
                    raise PdfUnsearchable("a font has glyphs of names that say nothing")
                code += 1

    def _read_table(self, parser: PdfParser) -> None:
        """A ToUnicode table: ranges of codes, single codes, and codes in a row."""
        before: list[Any] = []
        lengths: set[int] = set()
        while not parser.is_at_end():
            value = parser.value()
            word = value.text if isinstance(value, PdfWord) else b""
            if word.startswith(b"begin"):
                before.clear()
            elif word == b"endcodespacerange":
                lengths |= {len(code) for code in before if isinstance(code, bytes)}
            elif word == b"endbfchar":
                for code, text in zip(before[::2], before[1::2], strict=False):
                    self._map(code, text, 0)
            elif word == b"endbfrange":
                self._read_ranges(before)
            else:
                before.append(value)
        self._lengths = tuple(sorted(lengths - {0})) or (1, 2)

    def _read_ranges(self, values: list[Any]) -> None:
        for first, last, texts in zip(values[::3], values[1::3], values[2::3], strict=False):
            if not isinstance(first, bytes) or not isinstance(last, bytes):
                raise PdfUnsearchable("a table of a font cannot be parsed")
            start, end = int.from_bytes(first, "big"), int.from_bytes(last, "big")
            if end - start > _MOST_CODES:
                raise PdfUnsearchable("a table of a font is too long")
            for number in range(end - start + 1):
                code = (start + number).to_bytes(len(first), "big")
                if isinstance(texts, list):
                    self._map(code, texts[number] if number < len(texts) else b"", 0)
                else:
                    self._map(code, texts, number)

    def _map(self, code: Any, text: Any, number: int) -> None:
        if not isinstance(code, bytes) or not isinstance(text, bytes) or len(self._codes) > _MOST_CODES:
            raise PdfUnsearchable("a table of a font cannot be parsed")
        shown = text.decode("utf-16-be", "replace")
        if number and shown:
            shown = shown[:-1] + chr(min(ord(shown[-1]) + number, 0x10FFFF))
        self._codes[code] = shown


def _text_of_glyph(name: str) -> str | None:
    """The text of a glyph by its name (Adobe Glyph List); None where the name does not say it."""
    name = name.partition(".")[0] if name != ".notdef" else name
    if len(name) == 1 or name in _BLANK or name in _SIGNS:
        return " " if name in _BLANK else _SIGNS.get(name, name)
    if coded := _UNICODE_NAME.fullmatch(name):
        number = int(coded[1] or coded[2], 16)
        return chr(number) if number <= 0x10FFFF else None
    accent = _ACCENTS.get(name[1:])
    if accent is None:
        return None
    case = "CAPITAL" if name[0].isupper() else "SMALL"
    try:
        return unicodedata.lookup(f"LATIN {case} LETTER {name[0].upper()} WITH {accent}")
    except KeyError:
        return None
