"""Texts of documents and models that `privacy.permit` lets leave as they are, for the search for identifiers.

Contract: `texts_of_document` returns every text that a document holds or shows, or refuses a document of which that
cannot be said. Nothing is changed in a document, and nothing that it refers to is read.

Must never: let a document pass because its texts could not be found.

    texts        what is searched of a document
    pdf_objects  objects of PDF files
    fonts        what the codes of a PDF's fonts mean
    pdf          texts of PDF
    markup       texts of CDA
"""

from __future__ import annotations

from typing import Final

from exporter.errors import PrivacyUnknown
from exporter.privacy.documents.markup import texts_of_markup
from exporter.privacy.documents.pdf import texts_of_pdf
from exporter.privacy.documents.texts import DocumentTexts

__all__ = ["DocumentTexts", "texts_of_document"]

_STL_HEAD: Final = 80
_STL_TRIANGLE: Final = 50


def texts_of_document(data: bytes, suffix: str) -> DocumentTexts:
    """Everything of a document that is to be searched.

    Args:
        data: The file.
        suffix: Ending of its name, as the document writer gives it.

    Raises:
        PrivacyUnknown: Something in it cannot be searched, or the kind is not known.
    """
    if suffix == ".pdf":
        return texts_of_pdf(data)
    if suffix == ".cda.xml":
        return texts_of_markup(data)
    if suffix == ".stl" and _is_binary_stl(data):
        between = b"".join(data[end - 2 : end] for end in range(84 + _STL_TRIANGLE, len(data) + 1, _STL_TRIANGLE))
        return DocumentTexts([*_decoded(data[:_STL_HEAD]), *_decoded(between)], raw=[data])
    if suffix in (".stl", ".obj", ".mtl"):
        return DocumentTexts(_decoded(data), raw=[data])
    raise PrivacyUnknown(f"nothing searches documents of the kind {suffix}")


def _is_binary_stl(data: bytes) -> bool:
    """Whether a file is exactly as long as the number of triangles in it says."""
    return len(data) >= 84 and len(data) == 84 + _STL_TRIANGLE * int.from_bytes(data[80:84], "little")


def _decoded(data: bytes) -> list[str]:
    """A text in the encodings that it may have."""
    return [data.decode("utf-8", "replace"), data.decode("latin-1"), data.replace(b"\0", b"").decode("latin-1")]
