"""Encapsulated documents (PDF, CDA, STL, OBJ, MTL) as the files they are.

Contract: the file holds exactly the bytes of (0042,0011) Encapsulated Document, without the byte that padded it to even
length; its extension is what its bytes are, from the first one on (a mark found somewhere within says nothing), never
what (0042,0012) MIME Type claims (a contradiction is a warning). Bytes of no known kind are refused as
`unsupported_syntax`: a media folder is no place for programs that call themselves a report. The original stays where it
was (quarantine, or the input folder).

Must never: repair or render a document, or read anything that it refers to.

Source: PS3.3 C.24 (encapsulated document module), ISO 32000-1 7.5 (PDF), HL7 CDA R2 (root element ClinicalDocument),
STL, OBJ and MTL as PS3.3 A.85 and A.104 name them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.parsers import expat

from exporter.dicom.elements import integer_of, is_present, name_of, text_of, value_of
from exporter.errors import BadGeometry, ExportError, Unreadable, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.durable_write import media_file, seal, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import WriterTask

SCORE: Final = 50
_PIECE: Final = 1 << 20
_WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """One kind of document that may be encapsulated."""

    suffix: str
    mime_types: frozenset[str]
    """Permitted values of (0042,0012) MIME Type of Encapsulated Document (PS3.3 A.45, A.85, A.104)."""


PDF: Final = DocumentKind(".pdf", frozenset({"application/pdf"}))
CDA: Final = DocumentKind(".cda.xml", frozenset({"text/xml", "application/xml"}))
STL: Final = DocumentKind(".stl", frozenset({"model/stl", "model/x.stl-binary", "application/sla"}))
OBJ: Final = DocumentKind(".obj", frozenset({"model/obj"}))
MTL: Final = DocumentKind(".mtl", frozenset({"model/mtl"}))

_PDF_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\f\r ]{0,1024}%PDF-[0-9]\.[0-9]")
"""The first line of a PDF (ISO 32000-1 7.5.2); space before it harms nothing and is common."""
_STL_START: Final = re.compile(
    rb"[ \t\r\n]{0,64}solid(?:[ \t][^\r\n]*)?[\r\n]\s*(?:facet\s+normal\s|endsolid\b)", re.IGNORECASE
)
_NO_TEXT: Final = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_OBJ_WORDS: Final = (
    b"v vt vn vp f fo l p g o s mg usemtl mtllib maplib usemap cstype deg bmat step curv curv2 surf parm trim hole "
    b"scrv sp end con bevel c_interp d_interp lod ctech stech shadow_obj trace_obj"
).split()
"""Statements of OBJ but for ``call`` and ``csh``, which run other files and commands."""
_NO_OBJ_LINE: Final = re.compile(rb"^(?![ \t]*(?:#.*|(?:" + b"|".join(_OBJ_WORDS) + rb")(?:[ \t].*)?)?$)", re.MULTILINE)
_OBJ_VERTEX: Final = re.compile(rb"^[ \t]*v(?:[ \t]+[-+]?[0-9.][-+0-9.eE]*){3}", re.MULTILINE)
_MTL_START: Final = re.compile(rb"(?:[ \t]*(?:#.*)?\n)*+[ \t]*newmtl[ \t]+\S")
_NO_MTL_LINE: Final = re.compile(rb"^(?![ \t]*(?:#.*|[A-Za-z_]\w*(?:[ \t].*)?)?$)", re.MULTILINE)
_CDA_ROOTS: Final = frozenset({"urn:hl7-org:v3 ClinicalDocument", "ClinicalDocument"})
"""Namespace and local name of the root element of HL7 CDA R2; some writers leave the namespace out."""


def kind_of(document: bytes) -> DocumentKind | None:
    """The kind of a document by its bytes, from the first one on; None for an unknown kind."""
    if _PDF_START.match(document):
        return PDF
    if _binary_stl_length(document) is not None:
        return STL
    if _xml_root(document) in _CDA_ROOTS:
        return CDA
    text = document.rstrip(b"\0")
    return None if _NO_TEXT.search(text) else _kind_of_text(text)


def _kind_of_text(text: bytes) -> DocumentKind | None:
    """The kind of a text document with one statement per line."""
    if text.startswith(b"#!"):  # a script, though OBJ and MTL take its first line as a comment
        return None
    if _STL_START.match(text):
        return STL
    lines = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\\\n", b" ")
    if _MTL_START.match(lines) and not _NO_MTL_LINE.search(lines):
        return MTL
    return OBJ if _OBJ_VERTEX.search(lines) and not _NO_OBJ_LINE.search(lines) else None


class _RootFoundError(Exception):
    """The first start tag was parsed; the argument is its name."""


def _xml_root(document: bytes) -> str | None:
    """Namespace and local name of the root element, with a space between; None where a parser finds none."""

    def found(name: str, _: object) -> None:
        raise _RootFoundError(name)

    try:
        _parse_xml(document, found)
    except _RootFoundError as root:
        return str(root)
    except _XML_ERRORS:
        return None
    return None


def _is_whole_xml(document: bytes) -> bool:
    try:
        _parse_xml(document)
    except _XML_ERRORS:
        return False
    return True


class _HasEntitiesError(ValueError):
    """A document type declares entities: those are not expanded here."""


_XML_ERRORS: Final = (expat.ExpatError, ValueError, LookupError, AssertionError)
"""Errors that expat and its table of encodings raise."""


def _parse_xml(document: bytes, at_element: Callable[[str, object], None] | None = None) -> None:
    """Parse a document; nothing outside of it is read."""

    def refuse(*_: object) -> None:
        raise _HasEntitiesError

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = at_element
    parser.EntityDeclHandler = refuse
    parser.Parse(document, True)


def _binary_stl_length(document: bytes) -> int | None:
    """Length of a binary STL: 80 bytes, a count, 50 bytes per triangle; None for anything else."""
    if len(document) < 84:
        return None
    length = 84 + 50 * int.from_bytes(document[80:84], "little")
    return length if length > 84 and len(document) - length in {0, 1} else None


class DocumentWriter:
    """The encapsulated file."""

    kind = MediaType.DOCUMENT
    part = InstancePart.DOCUMENT

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for an instance with an encapsulated document, else None."""
        del settings
        try:
            header = instance.header
            return SCORE if is_present(header, "EncapsulatedDocument") and not is_empty_document(header) else None
        except ExportError:
            return None

    def write(self, task: WriterTask) -> Written:
        """The document as one file.

        Raises:
            Unreadable: The element is empty or shorter than (0042,0015) Encapsulated Document Length.
            UnsupportedSyntax: The bytes are not PDF, CDA, STL, OBJ or MTL.
            VerifyFailed: The file, read back, holds other bytes.
            OutOfSpace: The disk is full.
        """
        document, warnings = _document(task.instance)
        found = kind_of(document)
        if found is None:
            raise UnsupportedSyntax(
                f"write document: {name_of('EncapsulatedDocument')} holds no PDF, CDA, STL, OBJ or MTL by its bytes"
            )
        claimed = text_of(task.instance.header, "MIMETypeOfEncapsulatedDocument").lower()
        if claimed and claimed not in found.mime_types:
            warnings.append(
                f"document: {name_of('MIMETypeOfEncapsulatedDocument')} claims something else; "
                f"the bytes are written as {found.suffix}"
            )
        warnings += _oddities(found, document)
        path = task.folder / "0.part"
        digest = hashlib.sha256()
        for piece in _pieces(document):
            digest.update(piece)
        write_new(path, _pieces(document))
        sealed = seal(path)
        if sealed.bytes != len(document) or sealed.sha256 != digest.hexdigest():
            raise VerifyFailed("read document back: other bytes than were written")
        codec = found.suffix.removeprefix(".").partition(".")[0]
        medium = media_file(path, self.kind, found.suffix, codec, sealed, transcoded=False)
        return Written((medium,), warnings=tuple(warnings))


def is_empty_document(header: Dataset) -> bool:
    """Whether (0042,0011) Encapsulated Document is there without a byte, and nothing says that it had any.

    It is of type 2 (PS3.3 C.24.2): an instance may have been made without its document.
    """
    if "EncapsulatedDocument" not in header:
        return False
    try:
        document = value_of(header, "EncapsulatedDocument")
        is_empty = document is None or (isinstance(document, bytes) and document in {b"\0", b"\0\0"})
        return is_empty and integer_of(header, "EncapsulatedDocumentLength", 0) == 0
    except (ValueError, BadGeometry):
        return False


def _oddities(kind: DocumentKind, document: bytes) -> Iterator[str]:
    """Warnings about a document whose kind is certain."""
    if kind is PDF and not document.startswith(b"%PDF-"):
        yield "document: there is white space before the first line of the PDF"
    if kind is PDF and b"%%EOF" not in document[-2048:]:
        yield "document: the PDF has no end mark; it may be cut"
    if kind is CDA and not _is_whole_xml(document):
        yield "document: the XML is not well-formed or declares entities; it may be cut"


def _pieces(document: bytes) -> Iterator[bytes]:
    view = memoryview(document)
    for start in range(0, len(document), _PIECE):
        yield bytes(view[start : start + _PIECE])


def _document(instance: Instance) -> tuple[bytes, list[str]]:
    """The document without its padding byte, and what was odd."""
    try:
        document = value_of(instance.header, "EncapsulatedDocument")
    except ValueError as error:
        raise Unreadable(f"write document: {error}") from None
    if not isinstance(document, bytes) or not document.strip(b"\0"):
        raise Unreadable(f"write document: {name_of('EncapsulatedDocument')} is empty")
    try:
        length = integer_of(instance.header, "EncapsulatedDocumentLength", len(document))
    except BadGeometry as error:
        return document[: _unpadded_length(document)], [f"document: {error}"]
    if length > len(document):
        raise Unreadable(
            f"write document: {name_of('EncapsulatedDocument')} has {len(document)} of the {length} bytes that "
            f"{name_of('EncapsulatedDocumentLength')} says"
        )
    if "EncapsulatedDocumentLength" not in instance.header:
        return document[: _unpadded_length(document)], []
    if len(document) - length > 1:
        note = f"document: {name_of('EncapsulatedDocumentLength')} is shorter than the document by more than padding"
        return document[: _unpadded_length(document)], [note]
    return document[:length], []


def _unpadded_length(document: bytes) -> int:
    """Length without the null byte that PS3.5 8.2 adds; a binary STL tells its own length."""
    stl = _binary_stl_length(document)
    if stl is not None:
        return stl
    if document.startswith(_WIDE_MARKS):
        return len(document)  # two bytes per character: the null belongs to the last one
    return len(document) - 1 if len(document) % 2 == 0 and document.endswith(b"\0") else len(document)
