"""Texts of PDF: what its pages show, and every string beside them.

Contract: `texts_of_pdf` returns them decoded, or refuses the file: encrypted ones, pictures (also scanned pages),
attached files, glyphs of which nothing says what they are, and pages of lines alone, whose text may be drawn.

It is presumed that a font's own table to Unicode says what its glyphs look like.

Source: ISO 32000-1 7.9.2 (strings), 8.9 (images), 9.4 (text objects), 14.9.4 (replacement text).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from exporter.errors import PrivacyUnknown
from exporter.privacy.documents.fonts import PdfFont
from exporter.privacy.documents.pdf_objects import (
    PdfName,
    PdfParser,
    PdfStream,
    PdfUnsearchable,
    PdfWord,
    read_pdf,
)
from exporter.privacy.documents.texts import DocumentTexts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.privacy.documents.pdf_objects import PdfFile

_SHOWING: Final = frozenset({b"Tj", b"TJ", b"'", b'"'})
_PRINTABLE: Final = bytes((*range(0x20, 0x7F), 9, 10, 13))
_LEAST_SPELLED: Final = 3
"""Shortest spelling that is searched for where a page shows its text letter by letter."""
_MOST_MEANINGS: Final = 32
_OPAQUE_KINDS: Final = frozenset({"EmbeddedFile", "RichMedia", "3D", "Sound", "Movie", "Screen"})
_OPAQUE_KEYS: Final = ("EF", "EmbeddedFiles", "XFA")


def texts_of_pdf(data: bytes) -> DocumentTexts:
    """Texts of a PDF.

    Raises:
        PrivacyUnknown: It cannot be searched.
    """
    try:
        return _texts(data)
    except PdfUnsearchable as error:
        raise PrivacyUnknown(f"the PDF cannot be searched: {error}") from None
    except (RecursionError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise PrivacyUnknown(f"the PDF cannot be searched ({type(error).__name__})") from None


def _texts(data: bytes) -> DocumentTexts:
    file = read_pdf(data)
    found = DocumentTexts(raw=[data])
    contents: dict[int, PdfStream] = {}
    fonts: dict[str, list[dict[str, Any]]] = {}
    for entries, stream in _dictionaries(file):
        _refuse_opaque(entries)
        if stream is not None:
            found.raw.append(stream.data)
            found.words += [stream.data.decode("utf-8", "replace")] if _is_text(stream.data) else []
        contents |= {id(part): part for part in _contents(file, entries, stream)}
        for name, font in _fonts_named(file, entries):
            fonts.setdefault(name, []).append(font)
    found.words += map(_text_string, _strings(file.objects))
    page = _ShownText(file, fonts)
    for content in contents.values():
        page.read(content.data)
    page.add_to(found)
    return found


def _is_text(data: bytes) -> bool:
    """Whether bytes are text, such as metadata and scripts are."""
    return len(data.translate(None, _PRINTABLE)) * 20 < len(data)


def _dictionaries(file: PdfFile) -> Iterator[tuple[dict[str, Any], PdfStream | None]]:
    """Every dictionary at any depth, with the stream that it describes."""
    waiting = list(file.objects)
    while waiting:
        value = waiting.pop()
        if isinstance(value, PdfStream):
            yield value.entries, value
            waiting += value.entries.values()
        elif isinstance(value, dict):
            yield value, None
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _refuse_opaque(entries: dict[str, Any]) -> None:
    """Refuse what holds more than text and lines."""
    if entries.get("Subtype") == "Image":
        raise PdfUnsearchable("it holds a picture")
    if isinstance(entries.get("Font"), list):
        raise PdfUnsearchable("a graphics state sets a font")
    kinds = {value for value in (entries.get("Type"), entries.get("Subtype")) if isinstance(value, PdfName)}
    if kinds & _OPAQUE_KINDS or any(key in entries for key in _OPAQUE_KEYS):
        raise PdfUnsearchable("it holds another file, sound, a scene or a form of another kind")


def _fonts_named(file: PdfFile, entries: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fonts of a dictionary of resources."""
    resources = file.resolved(entries.get("Font"))
    for name, value in resources.items() if isinstance(resources, dict) else ():
        font = file.resolved(value)
        if isinstance(font, dict):
            yield name, font


def _contents(file: PdfFile, entries: dict[str, Any], stream: PdfStream | None) -> Iterator[PdfStream]:
    """The content streams of a page, a form or a pattern; several of a page make one content (ISO 32000-1 7.8.2)."""
    if stream is not None and (entries.get("Subtype") == "Form" or "PatternType" in entries):
        yield stream
    value = file.resolved(entries.get("Contents"))
    for one in value if isinstance(value, list) else [value]:
        part = file.resolved(one)
        if isinstance(part, PdfStream):
            yield part


def _strings(objects: list[Any]) -> Iterator[bytes]:
    waiting = list(objects)
    while waiting:
        value = waiting.pop()
        if isinstance(value, bytes):
            yield value
        elif isinstance(value, PdfStream):
            waiting += value.entries.values()
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _text_string(string: bytes) -> str:
    """A string beside the pages (ISO 32000-1 7.9.2.2)."""
    if string.startswith((b"\xfe\xff", b"\xff\xfe")):
        return string.decode("utf-16", "replace")
    return string.decode("utf-8-sig" if string.startswith(b"\xef\xbb\xbf") else "latin-1", "replace")


class _ShownText:
    """The texts that content streams show."""

    def __init__(self, file: PdfFile, fonts: dict[str, list[dict[str, Any]]]) -> None:
        self._fonts = {
            name: [PdfFont(entries, file) for entries in {id(one): one for one in several}.values()]
            for name, several in fonts.items()
        }
        self._every = [font for several in self._fonts.values() for font in several]
        self._current: list[PdfFont] = []
        self._saved: list[list[PdfFont]] = []
        self._singles = 0
        self.runs: list[list[str]] = [[]]
        """What one operator shows each, in the order of the streams; as many runs as a name of a font has meanings."""
        self.beside: list[bytes] = []
        """Strings that are no shown text, such as replacement texts."""

    def add_to(self, found: DocumentTexts) -> None:
        """Add what is shown to what is searched.

        Raises:
            PdfUnsearchable: No text is shown.
        """
        if not any("".join(run).strip() for run in self.runs):
            raise PdfUnsearchable("no page shows a text; letters may be drawn as lines")
        found.words += map(_text_string, self.beside)
        for run in self.runs:
            found.words += [*run, "".join(run), " ".join(run)]
            found.letters.append("".join(run))
        if self._singles * 2 > len(self.runs[0]):
            found.least_letters = _LEAST_SPELLED

    def read(self, content: bytes) -> None:
        """Read one content stream; until it names a font, any may be the one.

        Raises:
            PdfUnsearchable: It holds a picture, or shows glyphs of which nothing says what they are.
        """
        parser, operands = PdfParser(content), list[Any]()
        self._current, self._saved = self._every, []
        while not parser.is_at_end():
            value = parser.value()
            if not isinstance(value, PdfWord) or value.text[:1] in b"0123456789+-.":
                operands.append(value)
                continue
            self._operate(value.text, operands)
            operands.clear()

    def _operate(self, operator: bytes, operands: list[Any]) -> None:
        if operator == b"BI":
            raise PdfUnsearchable("it holds a picture")
        if operator == b"Tf":
            name = next((one for one in operands if isinstance(one, PdfName)), "")
            self._current = self._fonts.get(name, [])
        elif operator == b"q":
            self._saved.append(self._current)
        elif operator == b"Q" and self._saved:
            self._current = self._saved.pop()
        elif operator in _SHOWING:
            self._show(_row(operands))
        else:
            self.beside += _strings(operands)

    def _show(self, codes: bytes) -> None:
        """Note what codes show in each font that may be meant.

        Raises:
            PdfUnsearchable: None of them says it, or one of them says nothing at all.
        """
        if not codes:
            return
        if not 0 < len(self._current) <= _MOST_MEANINGS:
            raise PdfUnsearchable("nothing says in which font a text is shown")
        texts, problem = [], None
        for font in self._current:
            try:
                texts.append(font.text_of(codes))
            except PdfUnsearchable as error:
                problem = error
                if not font.is_known:
                    raise
        if problem is not None and not texts:
            raise problem
        self._singles += len(texts[0]) == 1
        while len(self.runs) < len(texts):
            self.runs.append(list(self.runs[0]))
        for number, run in enumerate(self.runs):
            run.append(texts[number % len(texts)])


def _row(operands: list[Any]) -> bytes:
    """The codes of an operator that shows text: of a string, or of an array of strings and distances."""
    values = (value for operand in operands for value in (operand if isinstance(operand, list) else [operand]))
    return b"".join(value for value in values if isinstance(value, bytes))
