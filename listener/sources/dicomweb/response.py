"""The answer to a store transaction: its status, and the Store Instances Response Module (PS3.18 10.5.3, Annex I.2).

Contract: each instance of the request is in exactly one of Referenced SOP Sequence, Failed SOP Sequence and, where its
UIDs are not known, Other Failures Sequence. Nothing is retrieved from here, so that every Retrieve URL (type 2) is
empty.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

from listener.intake import store_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from listener.sources.dicomweb.part10 import Answer

JSON: Final = "application/dicom+json"
XML: Final = "application/dicom+xml"
OF_RESOURCES: Final = frozenset({store_status.OUT_OF_SPACE, store_status.STORAGE_FAILED, store_status.QUEUE_FULL})
"""Failures that are ours and may pass."""
_KEYWORDS: Final = {
    "00081150": "ReferencedSOPClassUID",
    "00081155": "ReferencedSOPInstanceUID",
    "00081190": "RetrieveURL",
    "00081196": "WarningReason",
    "00081197": "FailureReason",
    "00081198": "FailedSOPSequence",
    "00081199": "ReferencedSOPSequence",
    "0008119A": "OtherFailuresSequence",
}
_NO_URL: Final[Mapping[str, Any]] = {"vr": "UR"}


def http_status(answers: Sequence[Answer]) -> int:
    """The status for the whole request (PS3.18 Table 10.5.3-1 and 8.5)."""
    if not answers:
        return 400
    if all(answer.situation is store_status.SUCCESS for answer in answers):
        return 200
    if any(answer.situation.is_success for answer in answers):
        return 202
    return 503 if all(answer.situation in OF_RESOURCES for answer in answers) else 409


def data_set(answers: Sequence[Answer]) -> dict[str, Any]:
    """The response module in the DICOM JSON Model (PS3.18 Annex F)."""
    stored, refused, others = [], [], []
    for answer in answers:
        item = _item(answer)
        if answer.situation.is_success:
            stored.append(item)
        elif "00081155" in item:
            refused.append(item)
        else:
            others.append({"00081197": item["00081197"]})
    found: dict[str, Any] = {"00081190": _NO_URL}
    for tag, items in (("00081198", refused), ("00081199", stored), ("0008119A", others)):
        if items:
            found[tag] = {"vr": "SQ", "Value": items}
    return found


def _item(answer: Answer) -> dict[str, Any]:
    item: dict[str, Any] = {}
    if answer.sop_class_uid:
        item["00081150"] = {"vr": "UI", "Value": [answer.sop_class_uid]}
    if answer.sop_instance_uid:
        item["00081155"] = {"vr": "UI", "Value": [answer.sop_instance_uid]}
    situation = answer.situation
    if not situation.is_success:
        item["00081197"] = {"vr": "US", "Value": [situation.status]}
        return item
    item["00081190"] = _NO_URL
    if situation.status:
        item["00081196"] = {"vr": "US", "Value": [situation.status]}
    return item


def encoded(answers: Sequence[Answer], media_type: str) -> bytes:
    """The response module as JSON or as XML (PS3.19 A.1)."""
    found = data_set(answers)
    if media_type == XML:
        head = '<?xml version="1.0" encoding="UTF-8"?>'
        body = f'<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">{_xml(found)}'
        return f"{head}{body}</NativeDicomModel>".encode()
    return json.dumps(found, separators=(",", ":")).encode("ascii")


def _xml(elements: Mapping[str, Any]) -> str:
    return "".join(_xml_element(tag, element) for tag, element in sorted(elements.items()))


def _xml_element(tag: str, element: Mapping[str, Any]) -> str:
    values = enumerate(element.get("Value", ()), 1)
    if element["vr"] == "SQ":
        inside = "".join(f'<Item number="{number}">{_xml(item)}</Item>' for number, item in values)
    else:
        inside = "".join(f'<Value number="{number}">{escape(str(value))}</Value>' for number, value in values)
    return f'<DicomAttribute tag="{tag}" vr="{element["vr"]}" keyword="{_KEYWORDS[tag]}">{inside}</DicomAttribute>'


def acceptable(accept: str) -> str | None:
    """Which of our two media types an Accept header wants (RFC 9110 12.5.1); None where neither will do."""
    if not accept.strip():
        return JSON
    best: tuple[float, int, str] | None = None
    for one in accept.split(",")[:64]:
        name, *parameters = (part.strip().lower() for part in one.split(";"))
        weight = next((_weight(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
        kind = _OFFERED.get(name)
        if kind is not None and weight > 0:
            rank = (weight, 0 if "*" in name else 1, kind)
            best = rank if best is None or rank[:2] > best[:2] else best
    return best[2] if best else None


_OFFERED: Final = {JSON: JSON, "application/json": JSON, "application/*": JSON, "*/*": JSON, XML: XML}


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
