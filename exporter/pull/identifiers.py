"""Identifiers as bytes and as values: what we ask, and what a peer answers (PS3.4 C.4.1.1.3, C.4.1.2).

Contract: an answer is walked over before anything of it is decoded, within a depth and a number of elements; then only
the values that are wanted are decoded, never a sequence. What cannot be walked over is `UnreadableAnswer`: an answer
that is passed over could be the instance that nobody misses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.pull.matching import text_of
from listener.intake.transfer_syntaxes import encoding_of
from listener.intake.walk import LONG_VRS, SHORT_VRS, DataSetScanner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pydicom import Dataset

    from listener.intake.transfer_syntaxes import Encoding
    from listener.intake.walk import _Level

Answer = dict[str, tuple[str, ...]]
"""One answer to a C-FIND: values by keyword."""

MAX_DEPTH: Final = 16
"""Identifiers of the Query/Retrieve service class nest two deep (PS3.4 C.6.2.1)."""
MAX_ELEMENTS: Final = 10_000
CHARACTER_SET: Final = 0x00080005
_TEXT_VRS: Final = (SHORT_VRS | LONG_VRS) - {b"SQ", b"UN", b"OB", b"OD", b"OF", b"OL", b"OV", b"OW"}


class UnreadableAnswer(Exception):
    """The lengths of an answer are wrong, or it nests too deep; `cause` is a stable word."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def encode(asked: Dataset, transfer_syntax: str) -> bytes:
    """The bytes of an identifier of ours."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    encoding = encoding_of(transfer_syntax)
    assert encoding is not None  # noqa: S101 - we propose only the two uncompressed ones
    file = DicomBytesIO()
    file.is_implicit_VR = not encoding.explicit_vr
    file.is_little_endian = encoding.little_endian
    write_dataset(file, asked)
    return bytes(file.getvalue())


def read_answer(content: bytes, transfer_syntax: str, keywords: Sequence[str]) -> Answer:
    """Elements of an answer as text, without those that cannot be read.

    Args:
        content: Its bytes.
        transfer_syntax: One of the uncompressed ones.
        keywords: What is kept of it.

    Raises:
        UnreadableAnswer: Its lengths are wrong, or it nests too deep.
    """
    from pydicom.datadict import tag_for_keyword

    from exporter.dicom.elements import READING_ERRORS, quiet_reading

    encoding = encoding_of(transfer_syntax)
    assert encoding is not None  # noqa: S101 - we propose only the two uncompressed ones
    tags = {tag_for_keyword(keyword) or 0: keyword for keyword in keywords}
    scan = _TopLevel(encoding, {*tags, CHARACTER_SET})
    scan.feed(memoryview(content))
    if fault := scan.finish():
        raise UnreadableAnswer(fault.cause)
    found = _data_set(scan.values, encoding)
    answer: Answer = {}
    with quiet_reading():
        for tag, keyword in tags.items():
            try:
                values = text_of(found[tag].value if tag in found else None)
            except READING_ERRORS:
                continue
            values = tuple(value.strip(" \0") for value in values if value.strip(" \0"))
            if values:
                answer[keyword] = values
    return answer


def _data_set(values: Mapping[int, tuple[bytes, bytes]], encoding: Encoding) -> Dataset:
    """A flat data set that decodes its values when they are asked for."""
    from pydicom import Dataset
    from pydicom.datadict import dictionary_VR
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    found = Dataset()
    for tag, (vr, value) in sorted(values.items()):
        known = vr.decode("ascii") if vr in _TEXT_VRS else dictionary_VR(tag)
        if known == "SQ":
            continue
        found[tag] = RawDataElement(Tag(tag), known, len(value), value, 0, vr == b"", encoding.little_endian)
    return found


class _TopLevel(DataSetScanner):
    """A walk over a whole identifier that keeps the values of some elements of its top level."""

    def __init__(self, encoding: Encoding, wanted: Iterable[int]) -> None:
        super().__init__(encoding, max_depth=MAX_DEPTH, max_elements=MAX_ELEMENTS)
        self._kept = frozenset(wanted)
        self.values: dict[int, tuple[bytes, bytes]] = {}
        """VR (empty in implicit VR) and bytes by tag."""

    def _ordinary(self, piece: memoryview, position: int) -> int:  # noqa: ARG002
        return 0  # every element is looked at

    def _element(self, piece: memoryview, position: int, level: _Level) -> int:
        depth = len(self._levels)
        used = super()._element(piece, position, level)
        if depth > 1 or self._fault is not None or len(self._levels) != depth or position + used > len(piece):
            return used
        group, element, vr, _ = self._short.unpack_from(piece, position)
        header = 12 if level.explicit and vr in LONG_VRS else 8
        tag = group << 16 | element
        if tag in self._kept and used >= header:
            self.values[tag] = (vr if level.explicit else b"", bytes(piece[position + header : position + used]))
        return used
