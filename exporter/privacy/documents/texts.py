"""What is searched of a document: its texts, its letters, its bytes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class DocumentTexts:
    """Every form in which an identifier may stand in a document."""

    words: list[str] = field(default_factory=list)
    """Texts, to be searched for whole words."""
    letters: list[str] = field(default_factory=list)
    """Shown text in one run each: a word may be shown in several pieces, and beside its neighbours without a space."""
    raw: list[bytes] = field(default_factory=list)
    """The file and what it packs, to be searched as bytes."""
    least_letters: int = 5
    """Shortest spelling that is searched for within runs, where shorter ones are parts of words."""
