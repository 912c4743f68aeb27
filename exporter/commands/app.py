"""The command `exporter`: its subcommands and its exit codes.

Contract: every command ends with a code of `ExitCode`; wrong usage ends with 2 and one sentence; expected errors are
one sentence on standard error, never a traceback. Commands are imported when they run, so that the light ones start at
once. Those that export begin with the fork server of the workers, which loads its libraries on another processor while
this process loads its own.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from exporter.commands import ExitCode
from listener.foundation.errors import Unusable
from listener.foundation.quick_start import quicken

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    import cyclopts

COMMANDS = {
    "serve": ("daemons:serve", "Receive and export in one go; needs no configuration."),
    "run": ("daemons:run", "Export what the daemon `listener` receives."),
    "backfill": ("backfill:application", "Export a folder of DICOM files."),
    "batch": ("batch:application", "Cut a backfill into batches that run anywhere; merge them."),
    "orthanc-storage": ("orthanc_storage:orthanc_storage", "Export the storage folder of an Orthanc that is stopped."),
    "pull": ("pull:pull", "Fetch the studies of a CSV file from a PACS."),
    "page": ("page:page", "Serve the operator's page, and numbers for monitoring."),
    "notify": ("notify:application", "Notify people and programs of what needs them."),
    "report": ("report:report", "Write one file that shows what was done, with small pictures."),
    "status": ("status:status", "Say whether all is well, else what is wrong and what to do."),
    "failures": ("failures:application", "List what failed, show why, try again."),
    "reconcile": ("reconcile:reconcile", "Check that every instance is accounted for."),
    "explain": ("explain:explain", "Say what would be done with one file, and why."),
    "metadata": ("metadata:application", "Make tables of the metadata lines."),
    "dataset": ("dataset:dataset", "Make a data set of exported media, split by patient."),
    "handover": ("handover:handover", "Hand cines over to an annotation tool, frame by frame."),
    "media": ("media:application", "Get one medium; move media into shards."),
    "install-units": ("install_units:install_units", "Install systemd units of the daemons, print or remove them."),
    "privacy": ("privacy:application", "Check that an output identifies nobody."),
    "pseudonym": ("pseudonym:pseudonym", "Give the pseudonyms of identifiers, under the key."),
    "conformance": ("conformance.command:conformance", "Print the DICOM Conformance Statement of the settings."),
    "completion": ("completion:completion", "Print a script that completes commands in a shell."),
    "config": ("config:application", "Check, show or write the configuration."),
}
"""Commands, where they are below `exporter.commands`, and what they are for."""
_EXPORTING = frozenset({"run", "backfill", "orthanc-storage"})
_WITHOUT_WORKERS = re.compile(
    r"(?m)^(--help|-h|--dry-run|--workers=0|num_workers: *0 *(#.*)?"
    r"|status|resume|cancel|(--engine=)?(processes|slurm|dask))$"
)
"""Arguments, and a line of a configuration, with which no worker is going to be needed in this process."""

_LONGEST_GLANCE = 1 << 20


def application() -> cyclopts.App:
    """The command line: names, help, and nothing imported yet."""
    import cyclopts

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
    if arguments is None:
        quicken()
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _workers(tokens):
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


def _workers(tokens: Sequence[str]) -> AbstractContextManager[object]:
    """The fork server of the workers, for a command that is going to need it as far as one can see now."""
    if not _EXPORTING.intersection(tokens[:1]) or _WITHOUT_WORKERS.search(_seen(tokens)):
        return nullcontext()
    from exporter.work.worker_server import WORKERS

    return WORKERS


def _seen(tokens: Sequence[str]) -> str:
    """Arguments, one per line, and the text of the configuration file that they name."""
    words = "\n".join(tokens).replace("--workers\n", "--workers=").replace("--config\n", "--config=")
    named = re.search(r"(?m)^--config=(.+)$", words)
    if named is None:
        return words
    try:
        with open(os.path.expanduser(named[1]), encoding="utf-8", errors="replace") as file:  # noqa: PTH111, PTH123 - as light as it gets
            return f"{words}\n{file.read(_LONGEST_GLANCE)}"
    except OSError:
        return words


def _run(tokens: list[str]) -> int:
    import cyclopts

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
    import cyclopts

    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"Too many arguments: {' '.join(error.unused_tokens or ())}."
    return " ".join(str(error).split())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

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
