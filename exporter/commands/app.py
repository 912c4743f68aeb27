"""The command `exporter`: its subcommands and its exit codes.

Contract: every command ends with a code of `ExitCode`; wrong usage ends with 2 and one sentence; expected errors are
one sentence on standard error, never a traceback. Commands are imported when they run, so that the light ones start at
once.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import cyclopts

from exporter.commands import ExitCode
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS = {
    "serve": ("daemons:serve", "Receive and export in one go; needs no configuration."),
    "run": ("daemons:run", "Export what the daemon `listener` receives."),
    "backfill": ("backfill:application", "Export a folder of DICOM files."),
    "batch": ("batch:application", "Cut a backfill into batches that run anywhere; merge them."),
    "orthanc-storage": ("orthanc_storage:orthanc_storage", "Export the storage folder of an Orthanc that is stopped."),
    "pull": ("pull:pull", "Fetch the studies of a CSV file from a PACS."),
    "page": ("page:page", "Serve the operator's page, and numbers for monitoring."),
    "status": ("status:status", "Say whether all is well, else what is wrong and what to do."),
    "failures": ("failures:application", "List what failed, show why, try again."),
    "reconcile": ("reconcile:reconcile", "Check that every instance is accounted for."),
    "explain": ("explain:explain", "Say what would be done with one file, and why."),
    "metadata": ("metadata:application", "Make tables of the metadata lines."),
    "dataset": ("dataset:dataset", "Make a data set of exported media, split by patient."),
    "install-units": ("install_units:install_units", "Install systemd units of the daemons, print or remove them."),
    "privacy": ("privacy:application", "Check that an output identifies nobody."),
    "pseudonym": ("pseudonym:pseudonym", "Give the pseudonyms of identifiers, under the key."),
    "config": ("config:application", "Check, show or write the configuration."),
}
"""Commands, where they are below `exporter.commands`, and what they are for."""


def application() -> cyclopts.App:
    """The command line: names, help, and nothing imported yet."""
    app = cyclopts.App(
        name="exporter",
        help="Turn received DICOM, or folders of it, into media with one line of metadata each.",
        version=_version,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        help_epilogue=_exit_codes(),
    )
    for name, (place, purpose) in COMMANDS.items():
        app.command(f"exporter.commands.{place}", name=name, help=purpose)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is one of `ExitCode`."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(tokens)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("exporter: stopped", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Python would try to flush once more at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.PIPE_CLOSED
    return code


def _run(tokens: list[str]) -> int:
    from listener.foundation.text import printable

    app = application()
    if not tokens:
        app.help_print([])
        return ExitCode.USAGE
    try:
        code = app(tokens, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        command = " ".join(error.command_chain or ())
        sentence = printable(_usage(error))
        help_of = f"exporter {command}".strip()
        print(f"exporter: {sentence} Try `{help_of} --help`.", file=sys.stderr)
        return ExitCode.USAGE
    except Unusable as error:
        sys.stderr.write(error.report("exporter"))
        return error.exit_code
    return int(code or 0)


def _usage(error: cyclopts.CycloptsError) -> str:
    """One sentence about wrong usage."""
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"Too many arguments: {' '.join(error.unused_tokens or ())}."
    return " ".join(str(error).split())


def _version() -> str:
    try:
        number = version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0 (not installed)"
    return f"{number} ({_build()})"


def _build() -> str:
    """Which commit the program was built from; a source tree has none of its own."""
    import json
    from importlib.resources import files

    try:
        build = json.loads((files("exporter") / "build.json").read_text(encoding="utf-8"))
    except OSError:
        return "source tree"
    return f"commit {build['commit'] or 'unknown'}, {build['time'] or 'time unknown'}"


def _exit_codes() -> str:
    return "Exit codes:\n\n" + "\n".join(f"- {code.value}: {code.meaning}" for code in ExitCode)
