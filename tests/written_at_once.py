"""A file that others may be reading while it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write_at_once(path: Path, text: str) -> None:
    """Give a file this text in one step: a daemon that starts meanwhile would take half a configuration for all of it.

    An empty one above all is a valid configuration, of other places.
    """
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
