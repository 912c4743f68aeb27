"""What Orthanc answers, checked: JSON from the wire becomes frozen values here, or is refused.

Contract: raises `BadAnswer` for anything that is not what the question has, without quoting it. Keys that are not asked
for are ignored; identifiers are fixed-length bytes from here on. Names of keys are those of Orthanc's REST interface.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeGuard

import orjson

from listener.sources.orthanc.identifiers import attachment_uuid, md5_sum, resource_id
from listener.sources.orthanc.troubles import BadAnswer

LARGEST: Final = 1 << 62
"""Numbers beyond do not fit where we keep them."""


@dataclass(frozen=True, slots=True)
class System:
    """What the server says of itself."""

    version: str
    is_secure: bool | None
    """Its own opinion; None where it has none."""
    overwrites: bool | None
    """Whether an instance that is sent again replaces the earlier one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the log of changes."""

    seq: int
    instance: bytes | None
    """The new instance; None for every other kind of change."""
    fingerprint: bytes
    """Tells this change from another one of the same number, in another index."""


@dataclass(frozen=True, slots=True)
class Changes:
    """A page of the log of changes."""

    changes: tuple[Change, ...]
    last: int
    """Number of the last change there is, or of the last on this page."""
    is_done: bool
    """Whether there is nothing after this page."""


@dataclass(frozen=True, slots=True)
class ListedInstance:
    """One entry of the list of all instances."""

    instance: bytes
    uuid: bytes | None
    """Of its attachment; None on a page that has identifiers only."""


@dataclass(frozen=True, slots=True)
class RemoteInstance:
    """An instance that the server holds."""

    size_bytes: int
    uuid: bytes
    """Of the attachment that is the DICOM file; another one for other content."""
    series: bytes
    labels: frozenset[str] | None
    """None where the server has no labels."""


@dataclass(frozen=True, slots=True)
class OrthancSeries:
    """What filters need of a series."""

    modality: str
    study: bytes
    labels: frozenset[str]


@dataclass(frozen=True, slots=True)
class OrthancStudy:
    """What filters need of a study."""

    date: str
    """As in the data set: eight digits, or whatever it says."""
    labels: frozenset[str]


def system(content: bytes) -> System:
    """The answer to `/system`."""
    answer = _mapping(_json(content))
    version = answer.get("Version")
    if not isinstance(version, str) or "ApiVersion" not in answer:
        raise BadAnswer("this is no Orthanc: `/system` has no version")
    return System(version[:32], _flag(answer.get("IsHttpServerSecure")), _flag(answer.get("OverwriteInstances")))


def changes(content: bytes, since: int) -> Changes:
    """The answer to `/changes?since=`: numbers rise from there."""
    answer = _mapping(_json(content))
    last, is_done, listed = answer.get("Last"), answer.get("Done"), answer.get("Changes")
    if not _is_number(last) or not isinstance(is_done, bool) or not isinstance(listed, list):
        raise BadAnswer("the log of changes lacks `Last`, `Done` or `Changes`")
    found = tuple(map(_change, listed))
    numbers = [since, *(change.seq for change in found)]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise BadAnswer("the changes are not in order")
    if not found and not is_done:
        raise BadAnswer("an empty page of changes says that there are more")
    return Changes(found, last, is_done)


def _change(value: object) -> Change:
    answer = _mapping(value)
    kind, seq, resource, date = (answer.get(key) for key in ("ChangeType", "Seq", "ID", "Date"))
    identifier = resource_id(resource)
    if not isinstance(kind, str) or not _is_number(seq) or seq < 1 or identifier is None:
        raise BadAnswer("a change lacks its kind, number or identifier")
    text = f"{kind}\0{date if isinstance(date, str) else ''}\0".encode(errors="replace")
    fingerprint = hashlib.sha256(text + identifier).digest()[:16]
    return Change(seq, identifier if kind == "NewInstance" else None, fingerprint)


def listed(content: bytes, *, expanded: bool) -> tuple[ListedInstance, ...]:
    """The answer to `/instances`: a list of identifiers, or of whole instances."""
    answer = _json(content)
    if not isinstance(answer, list):
        raise BadAnswer("the list of instances is no list")
    found = []
    for entry in answer:
        value = _mapping(entry) if expanded else {"ID": entry}
        identifier, uuid = resource_id(value.get("ID")), attachment_uuid(value.get("FileUuid"))
        if identifier is None:
            raise BadAnswer("the list of instances holds something that is no identifier")
        found.append(ListedInstance(identifier, uuid))
    return tuple(found)


def held(content: bytes, instance: bytes) -> RemoteInstance:
    """The answer to `/instances/{id}`."""
    answer = _mapping(_json(content))
    uuid, series, size_bytes = (
        attachment_uuid(answer.get("FileUuid")),
        resource_id(answer.get("ParentSeries")),
        answer.get("FileSize"),
    )
    if resource_id(answer.get("ID")) != instance or uuid is None or series is None or not _is_number(size_bytes):
        raise BadAnswer("an instance lacks its attachment, size or series")
    return RemoteInstance(size_bytes, uuid, series, _labels(answer))


def series(content: bytes) -> OrthancSeries:
    """The answer to `/series/{id}`."""
    answer = _mapping(_json(content))
    study = resource_id(answer.get("ParentStudy"))
    if study is None:
        raise BadAnswer("a series lacks its study")
    return OrthancSeries(_tag(answer, "Modality").upper(), study, _labels(answer) or frozenset())


def study(content: bytes) -> OrthancStudy:
    """The answer to `/studies/{id}`."""
    answer = _mapping(_json(content))
    return OrthancStudy(_tag(answer, "StudyDate"), _labels(answer) or frozenset())


def md5(content: bytes) -> bytes:
    """The answer to `/instances/{id}/attachments/dicom/md5`."""
    found = md5_sum(content.decode("ascii", "replace").strip())
    if found is None:
        raise BadAnswer("an MD5 sum is none")
    return found


def _json(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        raise BadAnswer("the answer is no JSON: is this Orthanc, or something before it?") from None


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadAnswer("the answer is not a JSON object")
    return value


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _tag(answer: dict[str, Any], name: str) -> str:
    tags = answer.get("MainDicomTags")
    value = tags.get(name) if isinstance(tags, dict) else None
    return value.strip() if isinstance(value, str) else ""


def _labels(answer: dict[str, Any]) -> frozenset[str] | None:
    found = answer.get("Labels")
    return frozenset(label for label in found if isinstance(label, str)) if isinstance(found, list) else None
