"""Structured reports and key object selections as a JSON tree and as text.

Contract: instances of the report classes, and others that hold the root of a content tree. Every content item of the
document, in order, with its relationship, concept name, value type and value: codes with scheme and meaning, numbers
with unit and qualifier, references with class and instance UID (frames, segments, channels), coordinates, names, dates
and texts. Numbers are JSON numbers next to the decimal text that was stored. The text file shows the same tree for
reading. Nothing is interpreted, translated or left out; a value that an item lacks is null, with a warning.

Must never: follow a reference to another instance, or recurse deeper than `limits.max_depth`.

Source: PS3.3 C.17.3 (SR document content), C.18 (content item macros), C.17.6 (key object document).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exporter.errors import VerifyFailed
from exporter.outcome import MediaType
from exporter.writers.contract import InstancePart, Written
from exporter.writers.durable_write import media_file, write_new, writing
from exporter.writers.report_parts.content_tree import has_tree, read_tree
from listener.foundation.text import json_escaped, text_line, text_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from exporter.dicom.instance import Instance
    from exporter.settings.settings import MediaSettings
    from exporter.writers.contract import WriterTask
    from exporter.writers.report_parts.content_tree import Item

SCORE: Final = 50
_FLAGS: Final = {
    "completion": frozenset({"PARTIAL", "COMPLETE"}),
    "verification": frozenset({"UNVERIFIED", "VERIFIED"}),
}
"""Defined terms of (0040,A491) Completion Flag and (0040,A493) Verification Flag (PS3.3 C.17.2)."""
_OF_SEVERAL_LINES: Final = frozenset({"TEXT"})
"""Value types whose value is UT, which may have lines (PS3.5 6.2)."""
_REPORT_CLASSES: Final = "1.2.840.10008.5.1.4.1.1.88."


class ReportWriter:
    """JSON and text files."""

    kind = MediaType.REPORT
    part = InstancePart.CONTENT

    def score(self, instance: Instance, settings: MediaSettings) -> int | None:
        """`SCORE` for structured report classes (key object selections included), and for any content tree."""
        del settings
        return SCORE if instance.sop_class_uid.startswith(_REPORT_CLASSES) or has_tree(instance.header) else None

    def write(self, task: WriterTask) -> Written:
        """The content tree as JSON, and as text where `report.text` is set.

        Raises:
            Unreadable: The content tree cannot be read.
            TooLarge: It is nested deeper than `limits.max_depth`.
            VerifyFailed: The JSON, read back, is another tree.
            OutOfSpace: The disk is full.
        """
        import orjson

        tree, warnings = read_tree(task.instance, task.settings.limits.max_depth)
        path = task.folder / "0.part"
        write_new(path, [json_escaped(orjson.dumps(tree, option=orjson.OPT_INDENT_2)), b"\n"])
        with writing("reading a report back"):
            back = path.read_bytes()
        if orjson.loads(back) != tree:
            raise VerifyFailed("read report back: another tree than was written")
        media = [media_file(path, self.kind, ".json", "json")]
        if task.settings.report.text:
            text = task.folder / "1.part"
            write_new(text, (line.encode() + b"\n" for line in tree_lines(tree)))
            media.append(media_file(text, self.kind, ".txt", "text"))
        return Written(tuple(media), warnings=tuple(warnings))


def tree_lines(tree: Item) -> Iterator[str]:
    """The tree for reading: one item per line, indented below its parent, further lines of its text behind ``|``.

    The first line is always the state of the document. No text of the document begins a line.
    """
    document = tree["document"]
    flags = [_flag(document[key], terms) for key, terms in _FLAGS.items() if document[key]]
    yield f"[{', '.join(flags) or 'no completion or verification flag'}]"
    stack: list[tuple[Item, int]] = [(tree["content"], 0)]
    while stack:
        item, depth = stack.pop()
        yield from _item_lines(item, "  " * depth)
        stack.extend((child, depth + 1) for child in reversed(item.get("children", ())))


def _flag(value: str, terms: frozenset[str]) -> str:
    """A flag of the document; a text that is no defined term is shown as unknown."""
    return value if value in terms else f"unknown flag {text_line(value)!r}"


def _item_lines(item: Item, indent: str) -> Iterator[str]:
    relationship = text_line(item.get("relationship", "").lower().replace("_", " "))
    lead = f"{indent}{relationship} " if relationship else indent
    if "refers_to" in item:
        yield f"{lead}-> item {item['refers_to']}"
        return
    name = text_line(_code_text(item["concept"]) or (item["type"] or "item").lower())
    value = _value_text(item)
    lines = text_lines(value) if item["type"] in _OF_SEVERAL_LINES else [text_line(value)] if value else []
    yield f"{lead}{name}{': ' + lines[0] if lines else ''}"
    for line in lines[1:]:
        yield f"{indent}    | {line}"


def _code_text(code: Item | None) -> str:
    """``meaning (value, scheme)``."""
    if code is None:
        return ""
    where = ", ".join(part for part in (code["value"], code["scheme"]) if part)
    meaning = code["meaning"] or ""
    return f"{meaning} ({where})".strip() if where else meaning


def _number_text(item: Item) -> str:
    unit, qualifier = item["unit"], _code_text(item.get("qualifier"))
    number = item["decimal"] if item["decimal"] is not None else item["value"]
    parts = ("" if number is None else str(number), unit["value"] or "" if unit else "", qualifier and f"[{qualifier}]")
    return " ".join(part for part in parts if part)


def _references_text(item: Item) -> str:
    return "; ".join(_reference_text(reference) for reference in item["references"])


def _reference_text(reference: Item) -> str:
    parts = [reference["sop_instance_uid"] or "?"]
    parts += [f"{name} {', '.join(map(str, reference[name]))}" for name in ("frames", "segments") if name in reference]
    return " ".join(parts)


def _points_text(item: Item) -> str:
    points = " ".join("(" + ", ".join(f"{x:g}" for x in point) + ")" for point in item["points"])
    return f"{item['graphic'] or ''} {points}".strip()


def _moments_text(item: Item) -> str:
    values = item.get("samples") or item.get("offsets_s") or item.get("datetimes") or []
    return f"{item['range'] or ''} {' '.join(str(value) for value in values)}".strip()


_TEXTS: Final[Mapping[str, Callable[[Item], str]]] = {
    "CODE": lambda item: _code_text(item["value"]),
    "NUM": _number_text,
    "COMPOSITE": _references_text,
    "IMAGE": _references_text,
    "WAVEFORM": _references_text,
    "SCOORD": _points_text,
    "SCOORD3D": _points_text,
    "TCOORD": _moments_text,
    "TABLE": lambda item: f"table of {len(item['cells'])} cells",
    "CONTAINER": lambda _: "",
}


def _value_text(item: Item) -> str:
    of_type = _TEXTS.get(item["type"] or "")
    return of_type(item) if of_type else str(item.get("value") or "")
