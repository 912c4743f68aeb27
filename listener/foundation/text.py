r"""How text that others wrote is written where people and programs read it: the one place that decides.

Contract: whatever comes in, what comes out cannot begin a line of its own, move a cursor, colour a terminal, reverse
the reading direction, end a cell or start a formula. What could is written as an escape (``\x1b``, ``\u202e``), never
dropped, so that nobody's text silently becomes another. Imports nothing heavy, so that light commands stay light.

| where | function |
|---|---|
| a terminal, a log, a message, an error | `printable` |
| one line of a text file, a label in a drawing | `text_line` |
| a text of several lines in a text file | `text_lines` |
| a cell of a CSV file | `csv_text` |
| SVG, XML, HTML | `xml_text` |
| JSON that is already encoded | `json_escaped` |

Source: Unicode Standard 23 (special areas and format characters), UAX 9 (bidirectional text); OWASP, "CSV Injection";
XML 1.0 2.2 (characters).
"""

from __future__ import annotations

import re
from typing import Final

_SPACES: Final = frozenset({"\xa0", "\u1680", *map(chr, range(0x2000, 0x200B)), "\u202f", "\u205f", "\u3000"})
"""Spaces that writing systems need (category Zs)."""
_JOINERS: Final = frozenset("\u200c\u200d")
"""Zero width (non-)joiners: Persian, the scripts of India and emoji need them, and they move nothing."""
_HARMLESS: Final = _SPACES | _JOINERS
_LINE_BREAK: Final = re.compile(r"\r\n|\n|\r")
_TAB: Final = "    "
FORMULA_MARKS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a cell that a spreadsheet takes for a formula begins with, also in full width."""
_OBEYED: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def printable(text: str) -> str:
    """The text with every control, format, separator and surrogate character but the space written as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def text_line(text: str) -> str:
    """The text as one line of a document: as `printable`, but spaces and joiners of any script stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _HARMLESS else _escape(c) for c in text)


def text_lines(text: str) -> list[str]:
    """The lines of a text, each as `text_line`; a tab becomes four spaces.

    Lines end where DICOM ends them (PS3.5 6.1.3: CR, LF), not at the other breaks that Unicode knows.
    """
    lines = _LINE_BREAK.split(text)
    if lines[-1] == "":
        lines.pop()
    return [text_line(line.replace("\t", _TAB)) for line in lines]


def csv_text(text: str) -> str:
    """The text for a cell of a CSV file, before it is quoted: as `text_line`, and never a formula.

    A text that begins, spaces aside, with one of `FORMULA_MARKS` gets an apostrophe before it.
    """
    line = text_line(text)
    return f"'{line}" if line.lstrip().startswith(FORMULA_MARKS) else line


def xml_text(text: str) -> str:
    """The text for the content of an XML, SVG or HTML element or attribute: as `text_line`, with entities."""
    line = text_line(text)
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        line = line.replace(mark, entity)
    return line


def json_escaped(text: bytes) -> bytes:
    """The same JSON with control and direction characters escaped that JSON permits but terminals obey."""
    if text.isascii() and b"\x7f" not in text:
        return text
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode()).encode()


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
