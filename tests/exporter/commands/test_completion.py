"""A shell completes our commands and options with the script that we print."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from exporter.commands.app import main

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = """source "$1"
COMP_WORDS=("${@:2}"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_exporter
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "exporter"
    path.write_text(printed.getvalue())
    return path


def completed(script: Path, *words: str) -> list[str]:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not there")
    done = subprocess.run(
        [bash, "--norc", "-c", COMPLETE, "complete", script, *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("exporter", "hand"), "handover"),
        (("exporter", "reconcile", "--de"), "--deep"),
        (("exporter", "failures", "re"), "retry"),
        (("exporter", "handover", "--to", "cv"), "cvat"),
    ],
)
def test_bash_completes_commands_options_and_values(script: Path, words: tuple[str, ...], expected: str) -> None:
    assert completed(script, *words) == [expected]


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef exporter"), ("fish", "complete -c exporter")])
def test_other_shells_get_theirs(shell: str, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert mark in capsys.readouterr().out
