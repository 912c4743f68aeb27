"""The listener killed again and again while it empties a watched folder: no file is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from pathlib import Path

FILES = int(os.environ.get("EXPORTER_TEST_KILLS", "0")) * 20 or 120
KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "0")) or 4


def test_killed_at_any_time_every_file_is_in_the_folder_or_in_the_spool(tmp_path: Path, free_port: int) -> None:
    folder, data, config = tmp_path / "in", tmp_path / "data", tmp_path / "x.yml"
    config.write_text(
        f"listener:\n  port: {free_port}\n"
        f"sources:\n  - watch: {folder}\n    after: delete\n    quiet_s: 0.05\n    look_every_s: 0.02\n"
    )
    folder.mkdir()
    wanted = {b"%06d" % number * 5000 for number in range(FILES)}
    waiting = sorted(wanted)
    chance = random.Random(7)  # noqa: S311 - the same kills each time, as far as a clock permits
    for turn in range(KILLS + 1):
        process = start(config, data)
        try:
            for number in range(len(waiting) // (KILLS + 1 - turn)):
                (folder / f"{turn}-{number}.dcm").write_bytes(waiting.pop())
            if turn < KILLS:
                before = len(stored(data))
                eventually(lambda before=before: len(stored(data)) > before, "it takes files", 30)  # type: ignore[misc]
                time.sleep(chance.uniform(0, 0.1))  # the kill comes at a random time: that is the point
                process.send_signal(signal.SIGKILL)
                found = stored(data) | {path.read_bytes() for path in folder.iterdir()}
                assert wanted - set(waiting) <= found
            else:
                eventually(lambda: not list(folder.iterdir()), "the folder is empty", 100)
        finally:
            process.kill()
            process.wait()
    assert stored(data) == wanted
    total = sum(1 for _ in (data / "spool" / "new").iterdir())
    assert total <= FILES + 32 * KILLS


def start(config: Path, data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "listener", "--config", str(config), "--data", str(data), "--log-level", "error"]
    return subprocess.Popen(command)


def stored(data: Path) -> set[bytes]:
    folder = data / "spool" / "new"
    return {path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else set()
