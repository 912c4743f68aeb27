"""The units of export daemon, page and notifications are correct and keep them in."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS = Path(__file__).parents[3] / "exporter" / "commands" / "units"
UNIT = UNITS / "dicom-exporter.service"


@pytest.fixture(params=["dicom-exporter.service", "dicom-notify.service", "dicom-page.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The unit, its program replaced by one that every machine has."""
    told = (UNITS / request.param).read_text()
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={shutil.which('true')}", told, flags=re.MULTILINE)
    path = tmp_path / str(request.param)
    path.write_text(text)
    return path


def test_systemd_finds_nothing_wrong_with_it(unit: Path, peer: Callable[[str], str]) -> None:
    done = subprocess.run([peer("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_it_is_exposed_to_little(unit: Path, peer: Callable[[str], str]) -> None:
    command = [peer("systemd-analyze"), "security", "--offline=yes", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]


def test_the_watchdog_and_the_notification_are_on_and_stopping_takes_longer_than_draining() -> None:
    from exporter.services.daemon import DRAIN_S

    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), flags=re.MULTILINE))
    assert settings["Type"] == "notify"
    assert int(settings["WatchdogSec"]) > 0
    assert int(settings["TimeoutStopSec"]) > DRAIN_S
