"""One entry of the section `sources`: a watched folder."""

from __future__ import annotations

from pathlib import Path

from listener.configuration import Section


class WatchSection(Section):
    """A folder whose files are taken in once they are complete."""

    watch: Path
    """The folder."""
