"""Tables and set phrases of the statement, as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

YES, NO, OFF = "Y", "N", "OFF"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are text, and a vertical bar in one of them is no border."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def not_applicable(why: str) -> str:
    """The body of a section that the product has nothing for."""
    return f"Not applicable: {why}"


def yes(is_so: object) -> str:
    """Whether something is so, as the template writes it."""
    return YES if is_so else NO


def switched(is_on: object) -> str:
    """State of something that is supported."""
    return YES if is_on else OFF


def size(size_bytes: int) -> str:
    """A number of bytes, with its largest binary unit where that is a whole number."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= unit and size_bytes % unit == 0:
            return f"{size_bytes} bytes ({size_bytes // unit} {name})"
    return f"{size_bytes} bytes"


def seconds(time_s: float) -> str:
    """A time in seconds."""
    return f"{time_s:g} s"


def paragraphs(*parts: str) -> str:
    """Parts of a body, an empty line between two of them."""
    return "\n\n".join(part for part in parts if part)
