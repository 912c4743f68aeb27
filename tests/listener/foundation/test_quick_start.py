"""What our processes load when they start, and what they leave out, seen in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def loaded_by(program: str) -> set[str]:
    """Modules that an interpreter has after a program."""
    command = [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize(
    ("program", "not_needed"),
    [
        ("import listener.settings.listener, listener.daemon", {"rich", "attr", "pydicom", "numpy", "cyclopts"}),
        (
            "import exporter.settings.settings, exporter.services.daemon, exporter.inputs.backfill",
            {"rich", "attr", "pydicom", "numpy", "imagecodecs", "av", "cyclopts"},
        ),
        ("import exporter.commands.app", {"cyclopts", "pydantic", "structlog", "rich", "importlib.metadata", "yaml"}),
    ],
    ids=["listener", "exporter", "command line"],
)
def test_a_start_loads_nothing_that_it_does_not_need(program: str, not_needed: set[str]) -> None:
    assert loaded_by(program) & not_needed == set()


def test_what_was_left_out_can_still_be_loaded() -> None:
    assert "rich.console" in loaded_by("import listener.foundation.logs, rich.console")


LOOKING = """
import importlib.metadata, sys
looks, real = [], importlib.metadata.distributions
def distributions(**options):
    looks.append(options)
    return real(**options)
importlib.metadata.distributions = distributions
if "quickened" in sys.argv:
    from listener.foundation.quick_start import quicken
    quicken()
from listener.settings.listener import ListenerSettings
ListenerSettings()
print(len(looks))
"""


@pytest.mark.parametrize(("argument", "looks"), [("quickened", False), ("", True)])
def test_our_own_processes_look_through_no_distributions_for_plugins_of_models(argument: str, looks: bool) -> None:
    command = [sys.executable, "-c", LOOKING, argument]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 0) == looks
