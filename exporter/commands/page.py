"""`exporter page`: the operator's page, and what monitoring asks, as a process of its own."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from exporter.commands import CommandError
from exporter.commands.daemons import LogLevelOption, has_page, ready
from exporter.commands.options import DataOptions, in_words
from listener.foundation.processes import end_with_parent

if TYPE_CHECKING:
    from exporter.settings.settings import Settings


def page(places: DataOptions | None = None, *, log_level: LogLevelOption = None) -> int:
    """Serve the operator's page, /metrics, /healthz and /readyz of a data folder, until SIGTERM or Ctrl-C."""
    end_with_parent(signal.SIGTERM)
    places = places or DataOptions()
    settings: Settings = ready(places, log_level)
    if not has_page():
        raise CommandError(MISSING)
    with in_words():
        from exporter.page.server import run

        return run(settings, places.folder(), config=places.config)


MISSING = "the page needs the extra `page`: pip install 'dicom-media-exporter[page]'"
"""The sentence where it is not."""
