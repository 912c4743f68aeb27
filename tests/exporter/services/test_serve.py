"""One command receives and exports; a crash of one daemon does not touch the other, and all end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from exporter.results.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]


class Served:
    """`exporter serve` as its users run it."""

    def __init__(self, root: Path, port: int, *options: str) -> None:
        self.data = root / "data"
        self.port = port
        config = root / "exporter.yml"
        config.write_text(f"num_workers: 1\nlistener: {{port: {port}}}\npage: {{port: 0}}\n")
        self.out = (root / "out").open("w+b")
        command = [
            sys.executable,
            "-m",
            "exporter",
            "serve",
            "--config",
            str(config),
            "--data",
            str(self.data),
            *options,
        ]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=self.out, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        self.out.flush()
        return Path(self.out.name).read_text()

    def until(self, what: Callable[[], object], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def daemons(self) -> dict[str, int]:
        """The process of each daemon."""
        found = {}
        for pid in map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            for name, word in (("listener", b"listener"), ("exporter", b"run"), ("page", b"page")):
                if word in words:
                    found[name] = pid
        return found

    def exported(self) -> int:
        if not (self.data / "exporter.db").exists():
            return 0
        with Ledger.open_read_only(self.data / "exporter.db") as ledger:
            return ledger.counts().exported

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(100)
        finally:
            self.process.kill()
            self.process.wait()
            self.out.close()


@pytest.fixture
def serve(tmp_path: Path, free_port: int) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(*options: str) -> Served:
        made.append(Served(tmp_path, free_port, *options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_it_says_what_runs_and_the_demo_becomes_media(serve: Callable[..., Served]) -> None:
    served = serve("--demo")
    served.until(lambda: "Stop with Ctrl-C" in served.said)
    assert f"echoscu -aec EXPORTER 127.0.0.1 {served.port}" in served.said
    assert str(served.data / "media") in served.said
    found = re.search(r"See what it does: (http://127\.0\.0\.1:\d+/)", served.said)
    assert found is not None
    with urlopen(found[1], timeout=60) as answer:  # noqa: S310 - an address of http
        assert b"All is well" in answer.read()
    assert served.answers()
    served.until(lambda: "9 of 9 sample instances sent" in served.said)
    served.until(lambda: served.exported() == 9)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(100) == 0
    assert not served.answers()


@pytest.mark.parametrize("victim", ["listener", "exporter", "page"])
def test_a_daemon_that_dies_is_started_again_and_the_others_go_on(serve: Callable[..., Served], victim: str) -> None:
    served = serve()
    served.until(lambda: "Stop with Ctrl-C" in served.said)
    before = served.daemons()
    os.kill(before[victim], signal.SIGKILL)
    served.until(lambda: served.daemons().get(victim, before[victim]) != before[victim])
    others = before.keys() - {victim}
    assert {name: served.daemons()[name] for name in others} == {name: before[name] for name in others}
    served.until(served.answers)


def test_the_daemons_end_with_it_even_when_it_is_killed(serve: Callable[..., Served]) -> None:
    served = serve()
    served.until(lambda: "Stop with Ctrl-C" in served.said)
    daemons = served.daemons()
    assert daemons.keys() == {"listener", "exporter", "page"}
    served.process.kill()
    served.process.wait()
    deadline = time.monotonic() + 100
    while any(_runs(pid) for pid in daemons.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_port_in_use_is_one_sentence_and_code_1(serve: Callable[..., Served], free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        served = serve()
        assert served.process.wait(100) == 1
    assert served.said.count("\n") == 1, served.said
    assert str(free_port) in served.said


def test_a_data_folder_that_cannot_be_written_is_one_sentence_and_code_1(
    tmp_path: Path, serve: Callable[..., Served]
) -> None:
    (tmp_path / "data").write_text("a file")
    served = serve()
    assert served.process.wait(100) == 1
    assert served.said.count("\n") == 1, served.said
