"""`exporter serve` and `exporter run`: the exporter as a service, with or without its own listener."""

from __future__ import annotations

import importlib.util
import signal
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.config import keep_copy, refuse_untried
from exporter.commands.options import (
    DataOptions,
    TakeOverOption,
    in_words,
    refuse_unusable_notify,
    refuse_unusable_privacy,
    refuse_unusable_writers,
)
from listener.foundation.processes import end_with_parent

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

Level = Literal["debug", "info", "warning", "error"]  # that of listener.foundation.logs, without its imports

LogLevelOption = Annotated[
    Level | None, Parameter(name="--log-level", help="The least that is logged; default: `log.level`.")
]


def serve(
    places: DataOptions | None = None,
    *,
    demo: Annotated[bool, Parameter(negative="", help="Also send a few sample instances to itself.")] = False,
    log_level: LogLevelOption = None,
) -> int:
    """Receive and export in one go, with a page that shows it; needs no configuration, binds loopback."""
    places = places or DataOptions()
    settings = ready(places, log_level)
    refuse_unusable_writers(settings)
    refuse_unusable_privacy(settings)
    refuse_unusable_notify(settings)
    with in_words():
        from exporter.services.serve import serve as run_all

        # The daemons read the configuration for themselves; `exporter run` tries its encoders and keeps its copy.
        return run_all(
            settings, places.folder(), config=places.config, log_level=log_level, demo=demo, has_page=has_page()
        )


def run(
    places: DataOptions | None = None, *, log_level: LogLevelOption = None, take_over: TakeOverOption = False
) -> int:
    """Export what the daemon `listener` puts into the data folder's spool, until SIGTERM or Ctrl-C."""
    end_with_parent(signal.SIGTERM)
    places = places or DataOptions()
    settings = ready(places, log_level)
    refuse_untried(settings, places.config)
    keep_copy(settings, places.config)
    with in_words():
        from exporter.services.daemon import run as run_daemon

        return run_daemon(settings, places.folder(), take_over=take_over)


def ready(places: DataOptions, log_level: Level | None) -> Settings:
    """The settings of a service, with its logs as they say.

    Raises:
        CommandError: Media are to be kept in shards, which is for what runs and ends.
    """
    from listener.foundation import logs

    settings = places.settings()
    if settings.media.store != "files":
        raise CommandError(
            f"media.store: {settings.media.store} is for `exporter backfill` and `exporter orthanc-storage`: let the"
            " daemons write files, and move finished studies into shards with `exporter media compact`",
            ExitCode.USAGE,
        )
    logs.configure(log_level or settings.log.level, settings.log.format)
    logs.catch_uncaught()
    return settings


def has_page() -> bool:
    """Whether the extra `page` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("starlette", "jinja2"))
