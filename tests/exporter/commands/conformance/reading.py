"""A conformance statement as a reader has it: its Markdown, taken apart; nothing of the product is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

DOCUMENT: Final = Path(__file__).resolve().parents[4] / "docs" / "conformance.md"
HEADING: Final = re.compile(r"^(#{2,6}) ((?:[0-9]+|A\.[A-E])(?:\.[0-9]+)*) (.+)$", re.MULTILINE)


class ReadSection(NamedTuple):
    """One section: its number, title, level and what stands below its heading."""

    number: str
    title: str
    level: int
    body: str


def sections(text: str) -> list[ReadSection]:
    """Sections in their order."""
    found = list(HEADING.finditer(text))
    ends = [one.start() for one in found[1:]] + [len(text)]
    return [
        ReadSection(one[2], one[3], len(one[1]), text[one.end() : end].strip())
        for one, end in zip(found, ends, strict=True)
    ]


def tables(text: str) -> list[list[list[str]]]:
    """Every table as rows of cells, heads left out."""
    found = re.findall(r"^\|.*\|\n\|(?:-+\|)+\n((?:\|.*\|(?:\n|$))*)", text, re.MULTILINE)
    return [[[cell.strip() for cell in row[1:-1].split(" | ")] for row in rows.splitlines()] for rows in found]


def table(text: str, caption: str) -> list[list[str]]:
    """Rows of the table below a caption."""
    _, found, rest = text.partition(f"\n{caption}")
    assert found, caption
    return tables(rest)[0]


def plain(cell: str) -> str:
    """A cell without marks of code."""
    return cell.strip("`")
