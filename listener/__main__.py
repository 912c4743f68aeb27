"""The command `listener`: the receiving daemon alone.

Exit codes: 0 stopped as told, 1 could not run (port in use, unusable data folder, a second daemon on the same spool),
2 usage or configuration. Every refusal is one sentence on standard error, and nothing has changed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from listener.foundation.errors import Unusable
from listener.foundation.processes import end_with_parent
from listener.foundation.quick_start import quicken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from listener.settings.listener import ListenerSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    if arguments is None:
        quicken()
    end_with_parent(signal.SIGTERM)
    sys.exit(_run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> int:
    try:
        return _receive(options, _read(options))
    except Unusable as error:
        sys.stderr.write(error.report("listener"))
        return error.exit_code


def _receive(options: argparse.Namespace, settings: ListenerSettings) -> int:
    """Receive until a signal says otherwise.

    Raises:
        SpoolUnusable, SpoolBusy, SourceUnusable: Why it cannot.
    """
    from listener.daemon import ListenerDaemon, ListenerSignals, run
    from listener.foundation import logs
    from listener.foundation.configuration import ConfigurationError
    from listener.settings.listener import DataFolder

    logs.configure(settings.log.level, settings.log.format)
    logs.catch_uncaught()

    def read_again() -> ListenerSettings | None:
        try:
            return _read(options)
        except ConfigurationError as error:
            sys.stderr.write(error.report("listener"))
            return None

    orders = ListenerSignals()
    with orders.handled():
        daemon = ListenerDaemon(settings, DataFolder(options.data))
        daemon.start()
        run(daemon, orders, read_again)
    return 0


def _read(options: argparse.Namespace) -> ListenerSettings:
    """The settings of the file and the command line; the exporter checks its own sections of the file."""
    from listener.settings.listener import ListenerSettings

    settings = ListenerSettings()
    if options.config is not None:
        from listener.foundation.configuration import load

        settings = load(options.config, ListenerSettings, is_shared=True)
    if options.log_level is None:
        return settings
    return settings.model_copy(update={"log": settings.log.model_copy(update={"level": options.log_level})})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="listener", description="Receive DICOM (C-STORE, C-ECHO) into the spool of a data folder."
    )
    parser.add_argument("--config", type=Path, metavar="F", help="YAML configuration file")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", default=Path("dicom-media"), help="data folder [%(default)s]"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="default: log.level of the configuration"
    )
    return parser


if __name__ == "__main__":
    main()
