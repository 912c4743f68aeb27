"""Documents, models and sound that are permitted: they leave as they are, unless an identifier may be in them."""

from __future__ import annotations

import itertools
import json
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from exporter.errors import PrivacyUnknown, Reason
from exporter.outcome import Exported, Failed, MediaType
from exporter.privacy.documents import texts_of_document
from exporter.privacy.identifiers import collect_identifiers
from exporter.privacy.verification import refuse_identifiers
from tests.exporter.work.test_deidentification import key_file, run
from tests.exporter.writers.sampled import VOICE, channel, multiplex_group, save_waveform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from exporter.outcome import Outcome

__all__ = ["key_file"]

CLASSES = {"pdf": "104.1", "cda": "104.2", "stl": "104.3", "obj": "104.4", "mtl": "104.5"}
SUFFIXES = {"pdf": ".pdf", "cda": ".cda.xml", "stl": ".stl", "obj": ".obj", "mtl": ".mtl"}
HELVETICA = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
PACKING = b"/Type /ObjStm /N 1 /First 4 "
CLEAN_PAGE = b"BT /F1 12 Tf 72 720 Td (No abnormality was seen.) Tj ET"


def stream(content: bytes, entries: bytes = b"", *, packed: bool = True) -> bytes:
    """A stream object, packed by default."""
    data = zlib.compress(content) if packed else content
    how = b"/Filter /FlateDecode " if packed else b""
    return b"<< %s%s/Length %d >>\nstream\n%s\nendstream" % (how, entries, len(data), data)


def pdf(page: bytes = CLEAN_PAGE, font: bytes = HELVETICA, *further: bytes, head: bytes = b"") -> bytes:
    """A PDF of one page; further objects have the numbers from 6 on."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R %s>>" % head,
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        stream(page),
        font,
        *further,
    ]
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, each) for number, each in enumerate(objects, 1))
    return b"%PDF-1.7\n" + body + b"trailer\n<< /Root 1 0 R >>\nstartxref\n0\n%%EOF\n"


def table(pairs: dict[int, str], digits: int = 4) -> bytes:
    """A ToUnicode table as a stream."""
    rows = b"\n".join(
        b"<%0*X> <%s>" % (digits, code, text.encode("utf-16-be").hex().encode()) for code, text in pairs.items()
    )
    space = b"1 begincodespacerange <%s> <%s> endcodespacerange\n" % (b"0" * digits, b"F" * digits)
    return stream(
        b"/CIDInit /ProcSet findresource begin\n" + space + b"%d beginbfchar\n%s\nendbfchar\n" % (len(pairs), rows)
    )


GLYPHS = dict(enumerate("GROUSZEK ", 1))
COMPOSITE = b"<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /ToUnicode 6 0 R >>"
WIDE = "Grouszek".encode("utf-16-be").hex().encode()
CODED = b"".join(b"%04X" % ("GROUSZEK ".index(letter) + 1) for letter in "GROUSZEK")
EMBEDDED = b"<< /Type /Font /Subtype /TrueType /BaseFont /X /FontDescriptor << /FontFile2 9 0 R >> %s>>"


def spelled(word: str) -> bytes:
    return b" ".join(b"(%s) Tj 9 0 Td" % letter.encode() for letter in word)


SHOWING_THE_NAME: dict[str, bytes] = {
    "on the page": pdf(b"BT /F1 9 Tf (Patient: Grouszek) Tj ET"),
    "with escapes": pdf(b"BT /F1 9 Tf (Grou\\163\\\nzek) Tj ET"),
    "in hexadecimal": pdf(b"BT /F1 9 Tf <" + b"Grouszek".hex().encode() + b"> Tj ET"),
    "with distances between letters": pdf(b"BT /F1 9 Tf [(G) -20 (rou) 35.5 (szek)] TJ ET"),
    "letter by letter": pdf(b"BT /F1 9 Tf " + spelled("Seen:GROUSZEK,A.") + b" ET"),
    "a short name letter by letter": pdf(b"BT /F1 9 Tf " + spelled("Seen:ADAMvon") + b" ET"),
    "in two operators": pdf(b"BT /F1 9 Tf (Patient Grous) Tj (zek was seen) Tj ET"),
    "in glyphs": pdf(b"BT /F1 9 Tf <" + CODED + b"> Tj ET", COMPOSITE, table(GLYPHS)),
    "in named glyphs": pdf(
        b"BT /F1 9 Tf (abcdefgh) Tj ET",
        EMBEDDED % b"/Encoding << /Differences [97 /G /r /o /u /s /z /e /k] >> ",
    ),
    "in a font that comes back": pdf(
        b"BT /F1 9 Tf q /F2 9 Tf (x) Tj Q <" + CODED + b"> Tj ET",
        COMPOSITE,
        table(GLYPHS),
        b"<< /Font << /F2 << /Subtype /Type1 >> >> >>",
    ),
    "in a form": pdf(CLEAN_PAGE, HELVETICA, stream(b"BT /F1 9 Tf (Grouszek) Tj ET", b"/Subtype /Form ")),
    "in an annotation": pdf(CLEAN_PAGE, HELVETICA, b"<< /Subtype /Text /Contents (seen by Grouszek) >>"),
    "in a replacement text": pdf(b"/Span << /ActualText (Grouszek) >> BDC " + CLEAN_PAGE + b" EMC"),
    "in the title in UTF-16": pdf(CLEAN_PAGE, HELVETICA, b"<< /Title <FEFF" + WIDE + b"> >>"),
    "in metadata": pdf(CLEAN_PAGE, HELVETICA, stream(b"<x:xmpmeta><dc:title>A. Grouszek</dc:title></x:xmpmeta>")),
    "in an object stream": pdf(CLEAN_PAGE, HELVETICA, stream(b"9 0 << /Author (Grouszek) >>", PACKING)),
    "in an object that was replaced": pdf(CLEAN_PAGE, HELVETICA, b"(Grouszek)") + pdf()[9:],
    "in a comment": pdf().replace(b"startxref", b"% Grouszek\nstartxref"),
    "by its identifier": pdf(b"BT /F1 9 Tf (ID ZPAT-4711.) Tj ET"),
    "by the date of birth": pdf(b"BT /F1 9 Tf (born 11.09.1947) Tj ET"),
}  # fmt: skip
UNSEARCHABLE: dict[str, bytes] = {
    "is encrypted": pdf(head=b"/Encrypt 9 0 R "),
    "holds a picture": pdf(CLEAN_PAGE, HELVETICA, stream(b"\0", b"/Subtype /Image /Width 1 /Height 1 ")),
    "holds a picture within a page": pdf(CLEAN_PAGE + b" BI /W 1 /H 1 ID \0 EI"),
    "holds a scan": pdf(CLEAN_PAGE, HELVETICA, stream(b"\xff\xd8", b"/Filter /DCTDecode ", packed=False)),
    "has another file in it": pdf(CLEAN_PAGE, HELVETICA, stream(b"x", b"/Type /EmbeddedFile ")),
    "does not say what its glyphs are": pdf(b"BT /F1 9 Tf <0001> Tj ET", COMPOSITE),
    "does not say it of one glyph": pdf(b"BT /F1 9 Tf <00010099> Tj ET", COMPOSITE, table(GLYPHS)),
    "has an embedded font of its own codes": pdf(b"BT /F1 9 Tf (abc) Tj ET", EMBEDDED % b""),
    "has glyphs without names": pdf(b"BT /F1 9 Tf (a) Tj ET", EMBEDDED % b"/Encoding << /Differences [97 /g12] >> "),
    "shows no text": pdf(b"0 0 m 9 9 l S"),
    "has a stream that is cut": pdf().replace(zlib.compress(CLEAN_PAGE), zlib.compress(CLEAN_PAGE)[:-9]),
    "has a stream of no known coding": pdf(CLEAN_PAGE, HELVETICA, stream(b"x", b"/Filter /Crypt ", packed=False)),
    "has nested objects": pdf(CLEAN_PAGE, HELVETICA, b"[" * 500 + b"]" * 500),
    "is no PDF inside": b"%PDF-1.7\n1 0 obj\n(\n%%EOF",
}
CDA = b"""<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><component>%s</component></ClinicalDocument>"""


def patient() -> Dataset:
    made = Dataset()
    made.PatientName, made.PatientID, made.PatientBirthDate = "GROUSZEK^ADAM", "ZPAT-4711", "19470911"
    return made


def refusal(data: bytes, kind: str, tmp_path: Path) -> str | None:
    """Why a document may not leave; None where it may."""
    path = tmp_path / f"document{SUFFIXES[kind]}"
    path.write_bytes(data)
    try:
        refuse_identifiers(collect_identifiers(patient()), {}, {}, [(path, SUFFIXES[kind])])
    except PrivacyUnknown as error:
        return str(error)
    return None


def test_a_clean_pdf_is_not_refused(tmp_path: Path) -> None:
    assert refusal(pdf(), "pdf", tmp_path) is None
    assert refusal(pdf(b"BT /F1 9 Tf <0001000200030009> Tj ET", COMPOSITE, table(GLYPHS)), "pdf", tmp_path) is None
    assert any("No abnormality was seen." in text for text in texts_of_document(pdf(), ".pdf").words)


@pytest.mark.parametrize("place", SHOWING_THE_NAME)
def test_an_identifier_in_a_pdf_is_found(place: str, tmp_path: Path) -> None:
    said = refusal(SHOWING_THE_NAME[place], "pdf", tmp_path)
    assert said is not None
    assert said.startswith("verification: a medium (pdf) holds an identifier")


@pytest.mark.parametrize("what", UNSEARCHABLE)
def test_a_pdf_that_cannot_be_searched_is_refused(what: str, tmp_path: Path) -> None:
    said = refusal(UNSEARCHABLE[what], "pdf", tmp_path)
    assert said is not None
    assert said.startswith("the PDF cannot be searched")


def test_whatever_is_cut_off_a_pdf_it_is_refused_or_searched(tmp_path: Path) -> None:
    whole = SHOWING_THE_NAME["in glyphs"]
    for end in range(20, len(whole), 7):
        said = refusal(whole[:end], "pdf", tmp_path)
        assert said is not None, end


def test_predicted_streams_are_read(tmp_path: Path) -> None:
    text = b"9 0 << /Author (Grouszek) >>".ljust(30)
    rows = [text[at : at + 10] for at in range(0, 30, 10)]
    packed = b"\2" + rows[0]
    for above, row in itertools.pairwise(rows):
        packed += b"\2" + bytes((this - that) & 0xFF for this, that in zip(row, above, strict=True))
    entries = PACKING + b"/DecodeParms << /Predictor 12 /Columns 10 >> "
    assert refusal(pdf(CLEAN_PAGE, HELVETICA, stream(packed, entries)), "pdf", tmp_path) is not None


@pytest.mark.parametrize(
    ("part", "is_clean"),
    [
        (b"<text>No abnormality</text>", True),
        (b"<name>Grouszek</name>", False),
        (b'<id extension="ZPAT-4711"/>', False),
        (b"<!-- Grouszek -->", False),
        (b"<?style Grouszek?>", False),
        (b"<text>Grou&#115;zek</text>", False),
        (b"<text>Grou<b>szek</b></text>", False),
        (b"<text>Grou<!-- -->szek</text>", False),
        (b'<time value="19470911"/>', False),
        (b'<text mediaType="application/pdf" representation="B64">JVBERi0=</text>', False),
        (b"<text>cut", False),
    ],
)
def test_a_cda_is_searched_in_every_part(part: bytes, is_clean: bool, tmp_path: Path) -> None:
    assert (refusal(CDA % part, "cda", tmp_path) is None) == is_clean


def binary_stl(head: bytes, spare: bytes = b"\0\0") -> bytes:
    return head.ljust(80, b"\0") + struct.pack("<I", 2) + 2 * (struct.pack("<12f", *range(12)) + spare)


@pytest.mark.parametrize(
    ("kind", "data", "is_clean"),
    [
        ("stl", binary_stl(b"model"), True),
        ("stl", binary_stl(b"made for Adam"), False),
        ("stl", b"solid Grouszek\nfacet normal 0 0 1\nendsolid", False),
        ("obj", b"# jaw\nv 0 0 1\nv 0 1 0\n", True),
        ("obj", b"o Grouszek\nv 0 0 1\n", False),
        ("mtl", b"newmtl bone\nmap_Kd adam.png\n", False),
        ("mtl", b"newmtl bone\nKd 1 1 1\n", True),
    ],
)
def test_models_are_searched_where_text_can_stand(kind: str, data: bytes, is_clean: bool, tmp_path: Path) -> None:
    assert (refusal(data, kind, tmp_path) is None) == is_clean


# -- through the pipeline --------------------------------------------------------------------------------------------


def instance(path: Path, kind: str, document: bytes) -> Path:
    made = patient()
    made.SOPClassUID, made.SOPInstanceUID = f"1.2.840.10008.5.1.4.1.1.{CLASSES[kind]}", "1.2.826.0.1.3680043.8.498.7"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.8", "1.2.826.0.1.3680043.8.498.9"
    made.Modality, made.MIMETypeOfEncapsulatedDocument = "DOC", "application/pdf"
    made.EncapsulatedDocumentLength = len(document)
    made.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def exported(tmp_path: Path, key_file: Path) -> Callable[..., Outcome]:
    """Exports one instance of a kind with the profile on."""

    def export(kind: str, document: bytes, **privacy: Any) -> Outcome:
        path = instance(tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm", kind, document)
        return run(path, path.with_suffix(""), key_file, **privacy)

    return export


def test_a_permitted_document_leaves_byte_by_byte_and_its_line_names_nobody(
    exported: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = exported("pdf", pdf(), permit=["pdf"], write_dicom=True)
    assert isinstance(outcome, Exported)
    files = {one.kind: one.file for one in outcome.media}
    (found,) = tmp_path.rglob(files[MediaType.DOCUMENT])
    assert found.read_bytes() == pdf()
    assert json.loads(outcome.record)["export"]["privacy"]["permit"] == ["pdf"]
    assert "GROUSZEK" not in outcome.record
    written = dcmread(found.with_name(files[MediaType.DICOM]))
    assert written.EncapsulatedDocument.rstrip(b"\0") == pdf().rstrip(b"\0")
    assert written.MIMETypeOfEncapsulatedDocument == "application/pdf"


def test_a_permitted_document_that_names_the_patient_is_refused_and_nothing_is_left(
    exported: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = exported("pdf", SHOWING_THE_NAME["in glyphs"], permit=["pdf"])
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.PRIVACY_UNKNOWN
    assert "holds an identifier" in outcome.message
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("permit", [(), ("stl", "audio"), ("audio",)])
def test_only_what_is_named_is_permitted_by_its_bytes(
    permit: tuple[str, ...], exported: Callable[..., Outcome]
) -> None:
    for kind in ("pdf", "stl"):  # the class and the type of a model do not make a model of a PDF
        outcome = exported(kind, pdf(), permit=permit)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.PRIVACY_UNKNOWN
        assert "privacy.permit" in outcome.message


def test_sound_is_permitted_by_name(tmp_path: Path, key_file: Path) -> None:
    sound = (np.sin(np.arange(800) / 7) * 9000).astype("<i2")[:, np.newaxis]
    group = multiplex_group(sound, "SS", 8000.0, ChannelDefinitionSequence=[channel("voice")])
    path = save_waveform(tmp_path / "voice.dcm", [group], sop_class=VOICE)
    outcome = run(path, tmp_path / "partial", key_file, permit=["audio"])
    assert isinstance(outcome, Exported)
    assert [one.kind for one in outcome.media] == [MediaType.AUDIO]
