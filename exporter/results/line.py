"""One line of ``metadata.jsonl``: the instance's elements, three keys of the seed, and everything of ours in `export`.

Contract: bytes of one JSON object in UTF-8 with one newline, at the end. Our keys come first and win over a record
that claims them; the record comes from a worker process, so it is parsed, never trusted. Keys of `export` are always
all there, null where they do not apply. Must never hold NaN, Infinity or a raw control character.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from exporter.errors import BadWorkerAnswer
from exporter.outcome import Exported, MediaType, RejectedSeries, RejectionNote, Skipped
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.outcome import MediaFile, Rendering, Timing, WriterOrigin

WITHDRAWN: Final = "withdrawn"
"""Status in the line of an instance that was exported, and must not be any more."""
_RELATIONS: Final = frozenset({"duplicate_of", "conflict_with"})
_ESCAPED: Final = re.compile(r"\\x([89a-f][0-9a-f])")


def line(
    outcome: Exported | Skipped,
    *,
    dicom_file: str,
    version: str,
    duplicate_of: str | None = None,
    conflict_with: str | None = None,
    ae_title: str = "",
    is_withdrawn: bool = False,
    rejection: Mapping[str, str] | None = None,
) -> bytes:
    """The line of one instance, newline included.

    Args:
        outcome: Exported, with the final names of its media; or Skipped with a record.
        dicom_file: Spool name, or path relative to the input folder as `os.fsdecode` gives it.
        version: Of the exporter.
        duplicate_of: Name of the instance this one repeats, in the form of `dicom_file`.
        conflict_with: Name of an instance with the same SOP Instance UID and other content.
        ae_title: Called AE title whose settings apply; empty for the top-level settings.
        is_withdrawn: Whether the instance was in the output, and is no longer.
        rejection: The rejection that applies to it, as `exporter.results.rejections` words it.

    Raises:
        BadWorkerAnswer: `outcome.record` is no JSON object.
    """
    published = outcome.media if isinstance(outcome, Exported) else ()
    record = _record(outcome.record)
    stated = _stated(record.pop("export", None))
    ours = {
        "dicom_file": shown(dicom_file),
        "media_file": shown(published[0].file) if published else None,
        "media_type": published[0].kind if published else MediaType.NONE,
        "export": {
            "status": WITHDRAWN if is_withdrawn else outcome.status,
            "reason": outcome.reason if isinstance(outcome, Skipped) else None,
            "media": [_medium(medium) for medium in published],
            "timing": _timing(outcome.timing) if isinstance(outcome, Exported) else None,
            "rendering": _rendering(outcome.rendering) if isinstance(outcome, Exported) else None,
            "source_sha256": outcome.source_sha256,
            "content_sha256": outcome.identity.content_sha256 if outcome.identity is not None else None,
            "settings_sha256": outcome.settings_sha256,
            "ae_title": ae_title or None,
            "version": version,
            "warnings": list(dict.fromkeys(map(_clean, (*outcome.warnings, *stated.warnings)))),
            "duplicate_of": None if duplicate_of is None else shown(duplicate_of),
            "conflict_with": None if conflict_with is None else shown(conflict_with),
            "transfer_syntax_uid": stated.transfer_syntax_uid,
            "left_out": stated.left_out,
            "private_left_out": stated.private_left_out,
            "privacy": stated.privacy,
            "writers": _writers(outcome.writers) if isinstance(outcome, Exported) else None,
            "rejection": None if rejection is None else dict(rejection),
            "rejects": _rejects(outcome.rejects),
        },
    }
    return json_escaped(orjson.dumps({**ours, **record, **ours}, option=orjson.OPT_APPEND_NEWLINE))


def says_the_same(old: bytes, new: bytes) -> bool:
    """Whether two lines of one instance differ in nothing but its relation to others, or not at all.

    Others may come after it: exported again it would be the one that is in conflict, though nothing of it changed.
    """
    try:
        stated = [orjson.loads(text) for text in (old, new)]
        for one in stated:
            of_itself = {key: value for key, value in one["export"].items() if key not in _RELATIONS}
            # A key that an earlier version did not write is one that does not apply.
            one["export"] = {key: value for key, value in of_itself.items() if value is not None}
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        return old == new
    return bool(stated[0] == stated[1])


def is_line(text: bytes) -> bool:
    """Whether a line of a metadata file has the form of ours."""
    try:
        said = orjson.loads(text)
        return "dicom_file" in said and "settings_sha256" in said["export"] and "status" in said["export"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return False


def shown(name: str) -> str:
    r"""A file name as text: bytes that are not UTF-8 as ``\xff``, since JSON has no place for them."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def fs_name(text: str) -> str:
    r"""The name in the file system of a name whose bytes `shown` shows as ``\xff``."""
    raw = _ESCAPED.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text)
    return os.fsdecode(raw.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class _Stated:
    """Statements of `exporter.results.metadata.record` besides the elements; a value of another form is left out."""

    transfer_syntax_uid: str | None
    left_out: list[dict[str, Any]]
    private_left_out: int | None
    privacy: dict[str, Any] | None
    warnings: list[str]


def _record(text: str | None) -> dict[str, Any]:
    try:
        record = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        raise BadWorkerAnswer("the record of a worker is not JSON") from None
    if not isinstance(record, dict):
        raise BadWorkerAnswer("the record of a worker is not a JSON object")
    return record


def _stated(value: object) -> _Stated:
    stated = value if isinstance(value, dict) else {}
    syntax, left_out, warnings = (stated.get(key) for key in ("transfer_syntax_uid", "left_out", "warnings"))
    private, privacy = stated.get("private_left_out"), stated.get("privacy")
    return _Stated(
        syntax if isinstance(syntax, str) and syntax else None,
        [one for one in left_out if isinstance(one, dict)] if isinstance(left_out, list) else [],
        private if type(private) is int else None,
        privacy if isinstance(privacy, dict) else None,
        [one for one in warnings if isinstance(one, str)] if isinstance(warnings, list) else [],
    )


def _clean(text: str) -> str:
    # Lone surrogates cannot be encoded; warnings have none unless a worker was taken over.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _medium(medium: MediaFile) -> dict[str, Any]:
    return {
        "path": shown(medium.file),
        "kind": medium.kind,
        "width": medium.width,
        "height": medium.height,
        "frames": medium.frames,
        "duration_s": medium.duration_s,
        "sha256": medium.sha256,
        "bytes": medium.bytes,
        "transcoded": medium.transcoded,
        "codec": _clean(medium.codec),
        "geometry": medium.geometry,
        "values": medium.values,
    }


def _writers(origins: tuple[WriterOrigin, ...]) -> list[dict[str, str]] | None:
    """Writers of other distributions; None where only the exporter's own made media."""
    return [{key: _clean(text) for key, text in asdict(origin).items()} for origin in origins] or None


def _rejects(note: RejectionNote | None) -> dict[str, Any] | None:
    """What a rejection note says, in the form in which `rejects_of` reads it back."""
    if note is None:
        return None
    series = [
        {"study": one.study_uid, "series": one.series_uid, "instances": list(one.instance_uids)} for one in note.series
    ]
    return {"code": note.code, "series": series}


def rejects_of(ours: Mapping[str, Any]) -> RejectionNote | None:
    """What the `export` object of a line says of a rejection note.

    Raises:
        LookupError, TypeError: It has another form.
    """
    stated = ours.get("rejects")
    if stated is None:
        return None
    series = tuple(
        RejectedSeries(str(one["study"]), str(one["series"]), tuple(map(str, one["instances"])))
        for one in stated["series"]
    )
    return RejectionNote(str(stated["code"]), series)


def with_rejection(text: bytes, rejection: Mapping[str, str]) -> bytes | None:
    """An earlier line of an exported instance that says of its rejection, too; None where it does already."""
    said = orjson.loads(text)
    if said["export"].get("rejection") is not None:
        return None
    said["export"]["rejection"] = dict(rejection)
    return json_escaped(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))


def _timing(timing: Timing | None) -> dict[str, Any] | None:
    if timing is None:
        return None
    return {
        "source": _clean(timing.source),
        "rate_hz": timing.rate_hz,
        "variable": timing.variable,
        "frame_times_ms": timing.frame_times_ms,
    }


def _rendering(rendering: Rendering | None) -> dict[str, Any] | None:
    if rendering is None:
        return None
    return {
        "modality": rendering.modality,
        "window": rendering.window,
        "voi": rendering.voi,
        "inverted": rendering.inverted,
        "inside_window": rendering.inside_window,
        "colour": rendering.colour,
        "notes": [_clean(note) for note in rendering.notes],
    }
