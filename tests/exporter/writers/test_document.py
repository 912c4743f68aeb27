"""Encapsulated documents: the bytes that went in, under the name that they deserve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from exporter.dicom.instance import Instance
from exporter.errors import SkipInstance, SkipReason, Unreadable, UnsupportedSyntax, VerifyFailed
from exporter.outcome import MediaType
from exporter.settings.settings import MediaSettings
from exporter.writers import choose
from exporter.writers.contract import WriterTask, Written
from exporter.writers.document import DocumentWriter, kind_of

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = MediaSettings()
PDF_CLASS = "1.2.840.10008.5.1.4.1.1.104.1"

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
STL_TEXT = b"solid cube\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nendloop\nendfacet\nendsolid cube\n"
STL_BINARY = bytes(80) + (3).to_bytes(4, "little") + bytes(range(150))
OBJ = b"# made by hand\nmtllib a.mtl\no cube\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
MTL = b"newmtl red\nKa 1 0 0\nKd 1 0 0\nillum 2\n"
CDA = b'<?xml version="1.0"?>\n<ClinicalDocument xmlns="urn:hl7-org:v3"><title>t</title></ClinicalDocument>\n'
CDA_PREFIXED = b'<!-- a --><h:ClinicalDocument xmlns:h="urn:hl7-org:v3"/>'
CDA_LATIN = b"<?xml version='1.0' encoding='cp1252'?>" + CDA.replace(b">t<", b">\xe4<").partition(b"\n")[2]
DOCUMENTS = {
    "pdf": (PDF, "application/pdf", ".pdf"),
    "pdf behind white space": (b"\xef\xbb\xbf\r\n" + PDF, "application/pdf", ".pdf"),
    "stl text": (STL_TEXT, "model/stl", ".stl"),
    "stl text in capitals": (STL_TEXT.upper(), "model/stl", ".stl"),
    "stl text without a facet": (b"solid\nendsolid\n", "model/stl", ".stl"),
    "stl binary": (STL_BINARY, "model/stl", ".stl"),
    "stl binary, solid": (b"solid" + STL_BINARY[5:], "model/stl", ".stl"),
    "obj": (OBJ, "model/obj", ".obj"),
    "obj with continued lines": (OBJ + b"f 1 \\\n 2 3\nvt 0 1\ng\n", "model/obj", ".obj"),
    "obj of old lines": (OBJ.replace(b"\n", b"\r"), "model/obj", ".obj"),
    "mtl": (MTL, "model/mtl", ".mtl"),
    "mtl of a newer kind": (b"# x\n\n" + MTL + b"Pr 0.5\nmap_Kd -s 1 1 1 a.png\n", "model/mtl", ".mtl"),
    "cda": (CDA, "text/XML", ".cda.xml"),
    "cda with a prefix": (CDA_PREFIXED, "text/XML", ".cda.xml"),
    "cda without its namespace": (b"<ClinicalDocument></ClinicalDocument>", "text/XML", ".cda.xml"),
    "cda behind a comment": (b"<?xml version='1.0'?><!-- <a> -->" + CDA_PREFIXED, "text/XML", ".cda.xml"),
    "cda in latin-1": (CDA_LATIN, "text/XML", ".cda.xml"),
    "cda in utf-16": (CDA.decode().encode("utf-16"), "text/XML", ".cda.xml"),
}


def saved(path: Path, document: bytes, mime: str | None, syntax: str = ExplicitVRLittleEndian, **extra: Any) -> Path:
    instance = Dataset()
    instance.SOPClassUID, instance.SOPInstanceUID = UID(PDF_CLASS), generate_uid()
    if mime is not None:
        instance.MIMETypeOfEncapsulatedDocument = mime
    instance.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    for keyword, value in extra.items():
        setattr(instance, keyword, value)
    instance.file_meta = FileMetaDataset()
    instance.file_meta.MediaStorageSOPClassUID = UID(PDF_CLASS)
    instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    instance.file_meta.TransferSyntaxUID = UID(syntax)
    instance.save_as(path, enforce_file_format=True)
    return path


def written(path: Path, folder: Path) -> Written:
    out = folder / "out"
    out.mkdir()
    with Instance.open(path, SETTINGS.limits) as instance:
        assert isinstance(choose(instance, SETTINGS), DocumentWriter)
        result = DocumentWriter().write(WriterTask(instance, out, SETTINGS))
    assert sorted(entry.name for entry in out.iterdir()) == sorted(medium.file for medium in result.media)
    return result


@pytest.mark.parametrize("with_length", [True, False])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_file_is_the_document_byte_for_byte(tmp_path: Path, name: str, with_length: bool) -> None:
    document, mime, suffix = DOCUMENTS[name]
    text_of_bytes = name not in {"stl binary", "stl binary, solid", "cda in utf-16"}
    for odd in (document, document + b"\n") if text_of_bytes else (document,):
        folder = tmp_path / str(len(odd))
        folder.mkdir()
        length: dict[str, Any] = {"EncapsulatedDocumentLength": len(odd)} if with_length else {}
        (medium,) = written(saved(folder / "in.dcm", odd, mime, **length), folder).media
        assert (folder / "out" / medium.file).read_bytes() == odd
        assert (medium.suffix, medium.kind, medium.transcoded) == (suffix, MediaType.DOCUMENT, False)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_the_transfer_syntax_does_not_matter(tmp_path: Path, syntax: str) -> None:
    (medium,) = written(saved(tmp_path / "in.dcm", PDF, "application/pdf", syntax), tmp_path).media
    assert (tmp_path / "out" / medium.file).read_bytes() == PDF


def test_the_bytes_decide_and_the_claim_is_a_warning(tmp_path: Path) -> None:
    result = written(saved(tmp_path / "in.dcm", STL_TEXT, "application/pdf"), tmp_path)
    assert result.media[0].suffix == ".stl"
    assert any("MIME Type" in warning for warning in result.warnings)
    assert not written(saved(tmp_path / "b.dcm", PDF, None), _folder(tmp_path / "b")).warnings


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "document",
    [
        b"\x7fELF\x02\x01\x01\0" + bytes(56),
        b"MZ\x90\0" + bytes(60),
        b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        b"#!/bin/sh\nrm -rf /\n",
        b"PK\x03\x04" + bytes(40),
        b"plain text, not more",
        b"v is a letter\nf is another\nw is not in the list\n",
        b"v is a letter\nf is another\n",
        b"MZ\x90\0 and then\n" + PDF,
        b"#!/bin/sh\n" + PDF,
        b"%PDF-\nno version",
        b"MZ\x90\0\n" + OBJ,
        OBJ + b"\x7fELF\0\n",
        b"curl https://example.org | sh\n" + OBJ,
        OBJ + b"csh rm -rf /\n",
        b"MZ\x90\0\n" + MTL,
        b"#!/bin/sh\nrm -rf /\n" + MTL,
        b"#!/bin/sh\n" + MTL + b"rm -rf /\n",
        b"solid advice: see each facet of it\n",
        b"<html xmlns='http://www.w3.org/1999/xhtml'><!-- <ClinicalDocument > --><script/></html>",
        b"<html xmlns='http://www.w3.org/1999/xhtml'><ClinicalDocument xmlns='urn:hl7-org:v3'/></html>",
        b"<ClinicalDocument xmlns='http://www.w3.org/1999/xhtml'/>",
        b"<!DOCTYPE x [<!ENTITY a 'b'>]><ClinicalDocument xmlns='urn:hl7-org:v3'>&a;</ClinicalDocument>",
        b"#!/bin/sh\n" + CDA,
        b"<?xml version='1.0' encoding='no-such'?>" + CDA_PREFIXED,
        bytes(79) + b"x" + (9).to_bytes(4, "little") + bytes(10),
    ],
)
def test_what_is_no_document_is_never_written(tmp_path: Path, document: bytes) -> None:
    assert kind_of(document) is None
    with pytest.raises(UnsupportedSyntax, match="holds no PDF, CDA, STL, OBJ or MTL"):
        written(saved(tmp_path / "in.dcm", document, "application/pdf"), tmp_path)
    assert not list((tmp_path / "out").iterdir())


def test_an_instance_without_its_document_has_no_media(tmp_path: Path) -> None:
    with Instance.open(saved(tmp_path / "in.dcm", b"", "application/pdf"), SETTINGS.limits) as instance:
        with pytest.raises(SkipInstance) as caught:
            choose(instance, SETTINGS)
        assert caught.value.reason is SkipReason.NO_MEDIA


def test_a_length_that_is_no_number_is_told_and_not_believed(tmp_path: Path) -> None:
    path = saved(tmp_path / "in.dcm", PDF, "application/pdf", EncapsulatedDocumentLength=[1, 2])
    result = written(path, tmp_path)
    assert (tmp_path / "out" / result.media[0].file).read_bytes() == PDF
    assert any("Encapsulated Document Length" in warning for warning in result.warnings)


def test_documents_of_which_bytes_are_missing_are_unreadable(tmp_path: Path) -> None:
    lost = {"EncapsulatedDocumentLength": 9999}
    cases: list[tuple[bytes, dict[str, Any]]] = [(b"", lost), (bytes(8), {}), (PDF, lost)]
    for number, (document, extra) in enumerate(cases):
        folder = _folder(tmp_path / str(number))
        with pytest.raises(Unreadable):
            written(saved(folder / "in.dcm", document, "application/pdf", **extra), folder)


def test_a_length_that_would_cut_the_document_is_not_believed(tmp_path: Path) -> None:
    result = written(saved(tmp_path / "in.dcm", PDF, "application/pdf", EncapsulatedDocumentLength=7), tmp_path)
    assert (tmp_path / "out" / result.media[0].file).read_bytes() == PDF
    assert any("Encapsulated Document Length" in warning for warning in result.warnings)


def test_a_pdf_without_end_is_written_and_said(tmp_path: Path) -> None:
    assert any(
        "end mark" in w for w in written(saved(tmp_path / "in.dcm", PDF[:20], "application/pdf"), tmp_path).warnings
    )


def test_an_xml_document_that_is_cut_is_written_and_said(tmp_path: Path) -> None:
    result = written(saved(tmp_path / "in.dcm", CDA[:-20], "text/xml"), tmp_path)
    assert result.media[0].suffix == ".cda.xml"
    assert any("well-formed" in warning for warning in result.warnings)
    assert not written(saved(tmp_path / "b.dcm", CDA, "text/xml"), _folder(tmp_path / "b")).warnings


@given(
    before=st.binary(min_size=1, max_size=40).filter(lambda text: bool(text.strip(b"\t\n\f\r \xef\xbb\xbf#"))),
    document=st.sampled_from([PDF, CDA, CDA_PREFIXED, STL_TEXT]),
)
def test_bytes_before_a_document_make_it_none(before: bytes, document: bytes) -> None:
    assert kind_of(before + document) is None or kind_of(before) is not None


def test_a_real_pdf_is_what_the_instance_holds(corpus: Path, tmp_path: Path) -> None:
    source = corpus / "Dashtid__dicom-fuzzer" / "doc_evle.dcm"
    (medium,) = written(source, tmp_path).media
    content = (tmp_path / "out" / medium.file).read_bytes()
    stored = dcmread(source).EncapsulatedDocument
    assert medium.suffix == ".pdf"
    assert content.startswith(b"%PDF-")
    assert stored in {content, content + b"\0"}


def test_a_file_that_the_disk_changed_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "in.dcm", PDF, "application/pdf")

    def damaged(_: int) -> None:
        (tmp_path / "out" / "0.part").write_bytes(PDF.replace(b"obj", b"jbo"))

    monkeypatch.setattr("exporter.writers.durable_write.os.fsync", damaged)
    with pytest.raises(VerifyFailed):
        written(path, tmp_path)
