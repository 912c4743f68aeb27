"""`exporter completion bash|zsh|fish`: a script by which a shell completes commands, options and their values.

Contract: prints the script, and writes nothing; it is made from the commands themselves.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from exporter.commands import ExitCode


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell that the script is for.")], /
) -> int:
    """Print a script that completes `exporter` in a shell."""
    from exporter.commands.app import application

    print(application().generate_completion(shell=shell), end="")
    return ExitCode.DONE
