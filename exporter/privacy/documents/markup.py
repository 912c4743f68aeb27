"""Texts of CDA, an XML document: what its elements hold, values of attributes, comments and instructions.

Contract: `texts_of_markup` returns each of these, decoded as the document says. Refused is what is not well-formed or
declares entities, and embedded content in base 64, which may be anything.

Source: HL7 CDA R2 4.3 (NarrativeBlock), 4.2.3 (nonXMLBody), HL7 V3 data types (ED.representation).
"""

from __future__ import annotations

from typing import Final
from xml.parsers import expat

from exporter.errors import PrivacyUnknown
from exporter.privacy.documents.texts import DocumentTexts

_XML_ERRORS: Final = (expat.ExpatError, ValueError, LookupError, AssertionError)


class _NotSearchableError(ValueError):
    """The document has a part of which the text is not known."""


def texts_of_markup(data: bytes) -> DocumentTexts:
    """Texts of an XML document.

    Raises:
        PrivacyUnknown: It cannot be read, or has a part that cannot be searched.
    """
    found = _Texts()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = found.start
    parser.EndElementHandler = found.end
    parser.CharacterDataHandler = found.parts.append
    parser.CommentHandler = found.whole
    parser.ProcessingInstructionHandler = lambda target, text: found.whole(f"{target} {text}")
    parser.EntityDeclHandler = _refuse
    parser.StartDoctypeDeclHandler = lambda *names: found.whole(" ".join(str(name) for name in names if name))
    try:
        parser.Parse(data, True)
    except _XML_ERRORS as error:
        raise PrivacyUnknown(f"the XML document cannot be searched ({type(error).__name__})") from None
    return DocumentTexts([*found.texts, " ".join(found.shown)], ["".join(found.shown)], [data])


def _refuse(*_: object) -> None:
    raise _NotSearchableError


class _Texts:
    """Texts as a parser finds them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.shown: list[str] = []
        self.parts: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._flush()
        self.texts.append(name)
        for key, value in attributes.items():
            if key.rpartition(":")[2] == "representation" and value.upper() == "B64":
                raise _NotSearchableError
            self.texts += [key, value]

    def end(self, _: str) -> None:
        self._flush()

    def whole(self, text: str) -> None:
        """Note a text that stands beside the text of elements."""
        self.texts.append(text)

    def _flush(self) -> None:
        text = "".join(self.parts).strip()
        self.parts.clear()
        if text:
            self.texts.append(text)
            self.shown.append(text)
