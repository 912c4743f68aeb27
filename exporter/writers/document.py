"""Encapsulated documents (PDF, CDA, STL, OBJ, MTL) as the files they are.

Contract: the file holds exactly the bytes of (0042,0011) Encapsulated Document, without the byte that padded it to even
length; its extension is what its first bytes say, never what (0042,0012) MIME Type claims (a contradiction is a
warning). Bytes that are none of the known kinds are refused as `unsupported_syntax`: a media folder is no place for
programs that call themselves a report. The original stays where it was (quarantine, or the input folder).

Must never: parse, repair or render a document.

Source: PS3.3 C.24 (encapsulated document module), ISO 32000-1 7.5 (PDF), HL7 CDA R2 (root element ClinicalDocument).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.elements import integer_of, name_of, text_of, value_of
from exporter.errors import ExportError, Unreadable, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType, Medium
from exporter.writers.contract import InstancePart, Written
from exporter.writers.sealing import seal, write_new

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.instance import Instance
    from exporter.settings import MediaSettings
    from exporter.writers.contract import Task

SCORE: Final = 50
_PIECE: Final = 1 << 20
_WIDE_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_LOOKED_AT: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """One kind of document that may be encapsulated."""

    suffix: str
    mime_types: frozenset[str]
    """What (0042,0012) MIME Type of Encapsulated Document may say of it (PS3.3 A.45, A.85, A.104)."""


PDF: Final = DocumentKind(".pdf", frozenset({"application/pdf"}))
CDA: Final = DocumentKind(".cda.xml", frozenset({"text/xml", "application/xml"}))
STL: Final = DocumentKind(".stl", frozenset({"model/stl", "model/x.stl-binary", "application/sla"}))
OBJ: Final = DocumentKind(".obj", frozenset({"model/obj"}))
MTL: Final = DocumentKind(".mtl", frozenset({"model/mtl"}))

_STATEMENT = re.compile(rb"^[ \t]*([A-Za-z_]+)[ \t]+\S", re.MULTILINE)
_OBJ_WORDS: Final = frozenset(b"v vt vn vp f l p g o s usemtl mtllib".split())
_MTL_WORDS: Final = frozenset(b"Ka Kd Ks Ke Ns Ni d Tr Tf illum map_Ka map_Kd map_Ks map_d bump disp".split())
_CDA_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?ClinicalDocument[\s>]")
_XML_START = re.compile(rb"\s*<(?:\?xml|!--|[A-Za-z_])")


def kind_of(document: bytes) -> DocumentKind | None:
    """What the bytes are; None where they are nothing known."""
    head = document[:_LOOKED_AT]
    if b"%PDF-" in head[:1024]:  # ISO 32000-1 implementation note 13: readers accept it within the first 1024 bytes
        return PDF
    if _binary_stl_length(document) is not None or (head[:64].lstrip().startswith(b"solid") and b"facet" in head):
        return STL
    if _XML_START.match(_plain(head)):
        return CDA if _CDA_ROOT.search(_plain(head)) else None
    words = set(_STATEMENT.findall(head))
    if b"newmtl" in words and words & _MTL_WORDS:
        return MTL
    return OBJ if b"v" in words and words <= _OBJ_WORDS else None


def _plain(head: bytes) -> bytes:
    """XML as bytes of ASCII, whatever its width and byte order mark."""
    return (
        head.removeprefix(_WIDE_MARKS[0]).removeprefix(_WIDE_MARKS[1]).removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"")
    )


def _binary_stl_length(document: bytes) -> int | None:
    """Length of a binary STL: 80 bytes, a count, 50 bytes per triangle; None where the bytes are none."""
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
            return SCORE if "EncapsulatedDocument" in instance.header else None
        except ExportError:
            return None

    def write(self, task: Task) -> Written:
        """The document as one file.

        Raises:
            Unreadable: The element is empty or shorter than (0042,0015) Encapsulated Document Length.
            UnsupportedSyntax: The bytes are none of PDF, CDA, STL, OBJ, MTL.
            VerifyFailed: The file, read back, holds other bytes.
            OutOfSpace: The disk is full.
        """
        document, warnings = _document(task.instance)
        found = kind_of(document)
        if found is None:
            raise UnsupportedSyntax(
                f"write document: {name_of('EncapsulatedDocument')} is none of PDF, CDA, STL, OBJ, MTL by its bytes"
            )
        claimed = text_of(task.instance.header, "MIMETypeOfEncapsulatedDocument").lower()
        if claimed and claimed not in found.mime_types:
            warnings.append(
                f"document: {name_of('MIMETypeOfEncapsulatedDocument')} claims something else; "
                f"the bytes are written as {found.suffix}"
            )
        if found is PDF and b"%%EOF" not in document[-2048:]:
            warnings.append("document: the PDF has no end mark; it may be cut")
        path = task.folder / "0.part"
        digest = hashlib.sha256()
        for piece in _pieces(document):
            digest.update(piece)
        write_new(path, _pieces(document))
        sealed = seal(path)
        if sealed.bytes != len(document) or sealed.sha256 != digest.hexdigest():
            raise VerifyFailed("read document back: other bytes than were written")
        medium = Medium(
            file=path.name,
            suffix=found.suffix,
            kind=MediaType.DOCUMENT,
            bytes=sealed.bytes,
            sha256=sealed.sha256,
            codec=found.suffix.removeprefix(".").partition(".")[0],
            transcoded=False,
        )
        return Written((medium,), warnings=tuple(warnings))


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
    length = integer_of(instance.header, "EncapsulatedDocumentLength", len(document))
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
