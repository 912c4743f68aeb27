"""The example files for other schedulers say what the commands take."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from exporter.commands.app import application
from exporter.commands.batch import INDEXES

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "config" / "scaling"
FILES = sorted(path.name for path in EXAMPLES.iterdir())


def commands_in(text: str) -> list[list[str]]:
    """Calls of the exporter, with values in the place of variables."""
    found = re.findall(r"exporter (batch (?:plan|run|merge) [^\n|>;]*)", text)
    plain = [re.sub(r"\$\{[^}]*\}|\{[^}]*\}|\$OUT", "1", one) for one in found]
    return [shlex.split(one.replace('"', "").replace("'", "").replace(" \\", "")) for one in plain]


@pytest.mark.parametrize("name", FILES)
def test_every_command_in_an_example_can_be_parsed(name: str) -> None:
    text = "\n".join(line for line in (EXAMPLES / name).read_text().splitlines() if not line.startswith(("#", "//")))
    if name.endswith(".yml"):
        text = " ".join(yaml.safe_load(text)["spec"]["template"]["spec"]["containers"][0]["command"])
    found = commands_in(text)
    assert found
    for command in found:
        application().parse_args(command, print_error=False, exit_on_error=False)


def test_the_job_for_kubernetes_is_valid() -> None:
    job = yaml.safe_load((EXAMPLES / "backfill-job.yml").read_text())
    kubernetes_validate.validate(job, "1.33", strict=True)
    assert job["spec"]["completionMode"] == "Indexed"


def test_the_job_for_pbs_is_a_shell_script() -> None:
    assert subprocess.run(["sh", "-n", EXAMPLES / "backfill.pbs"], check=False).returncode == 0
    compile(re.sub(r"(?s)\nrule all:.*", "", (EXAMPLES / "Snakefile").read_text()), "Snakefile", "exec")


def test_every_variable_of_a_scheduler_is_documented() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    for variable, scheduler, offset in INDEXES:
        assert f"| `{variable}` | {scheduler} | the value{' + 1' * offset}" in text
