"""`exporter conformance`: prints the DICOM Conformance Statement of the settings in force."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import Annotated

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, settings_of


def conformance(
    *,
    to: Annotated[
        Path | None, Parameter(name="--to", help="File to write, or to replace; without it, standard output.")
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Print the DICOM Conformance Statement (PS3.2 Annex N) of the configuration in force, as Markdown."""
    from exporter.commands.conformance.statement import statement
    from listener.foundation.durable import replaced_text_file

    text = statement(settings_of(config), is_default=config is None)
    if to is None:
        print(text, end="")
        return ExitCode.DONE
    try:
        with replaced_text_file(to.expanduser()) as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{to} cannot be written: {error.strerror}; choose another place with --to") from error
    print(f"wrote {to}")
    return ExitCode.DONE
