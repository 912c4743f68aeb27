"""The command `listener` as a process: what it says, how it exits, how it is told to stop, what systemd hears."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from listener.foundation.counters import read_counters
from tests.listener.requestor import Requestor, data_set, eventually, pdu, pdv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Command:
    """One run of the command."""

    def __init__(self, *arguments: str, notify: str | None = None, **environment: str) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"} | environment
        if notify:
            environment["NOTIFY_SOCKET"] = notify
        self.process = subprocess.Popen(
            [sys.executable, "-m", "listener", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ended(self) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=100)
        return self.process.returncode, said


@pytest.fixture
def run() -> Iterator[Callable[..., Command]]:
    commands: list[Command] = []

    def start(*arguments: str, **more: str) -> Command:
        commands.append(Command(*arguments, **more))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
        command.process.communicate()


def config(folder: Path, port: int, more: str = "") -> str:
    path = folder / f"listener-{port}.yml"
    path.write_text(f"listener:\n  port: {port}\n{more}")
    return str(path)


def connected(port: int) -> Requestor:
    requestors: list[Requestor] = []

    def is_there() -> bool:
        try:
            requestors.append(Requestor(port))
        except OSError:
            return False
        return True

    eventually(is_there, "the port is open")
    return requestors[0]


def test_a_port_in_use_is_one_sentence_and_nothing_has_changed(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        code, said = run("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data")).ended()
    assert code == 1
    assert said.count("\n") == 1
    assert f"port {free_port}" in said
    assert "listener.port" in said


def test_a_data_folder_that_cannot_be_used_is_one_sentence(run: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    code, said = run("--data", str(tmp_path / "data")).ended()
    assert (code, said.count("\n")) == (1, 1)
    assert "--data" in said
    assert (tmp_path / "data").read_text() == "a file in the way"


def test_a_second_daemon_on_the_same_spool_is_one_sentence_and_does_no_harm(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    first = run("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data"))
    with connected(free_port) as requestor:
        requestor.associate()
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())) + pdu(4, pdv(1, 0, data_set()[:100])))
        eventually(lambda: bool(list((tmp_path / "data/spool/tmp").iterdir())), "a file is being received")
        code, said = run("--config", config(tmp_path, free_port + 1), "--data", str(tmp_path / "data")).ended()
        assert (code, said.count("\n")) == (1, 1)
        assert f"process {first.process.pid}" in said
        requestor.send(pdu(4, pdv(1, 2, data_set()[100:])))
        assert requestor.response().status == 0


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("listener:\n  prot: 1\n", "prot"),
        ("listener:\n  host: 0.0.0.0\n", "allow_any"),
        ("listener: [\n", "wrong.yml:2"),
    ],
)
def test_a_wrong_configuration_is_said_with_its_line_and_nothing_is_made(
    run: Callable[..., Command], tmp_path: Path, text: str, word: str
) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    code, said = run("--config", str(path), "--data", str(tmp_path / "data")).ended()
    assert code == 2
    assert word in said
    assert "Traceback" not in said
    assert not (tmp_path / "data").exists()


def test_a_configuration_that_is_not_there_is_exit_code_2(run: Callable[..., Command], tmp_path: Path) -> None:
    code, said = run("--config", str(tmp_path / "absent.yml"), "--data", str(tmp_path / "data")).ended()
    assert code == 2
    assert "absent.yml" in said
    assert "Traceback" not in said


def test_sigterm_lets_a_message_under_way_finish_and_aborts_the_idle(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    command = run("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data"))
    with connected(free_port) as busy, connected(free_port) as idle:
        busy.associate()
        idle.associate()
        busy.send(pdu(4, pdv(1, 3, busy.store_command())) + pdu(4, pdv(1, 0, data_set()[:100])))
        eventually(lambda: bool(list((tmp_path / "data/spool/tmp").iterdir())), "a file is being received")
        started = time.monotonic()
        command.process.send_signal(signal.SIGTERM)
        assert idle.receive()[0] == 7
        busy.send(pdu(4, pdv(1, 2, data_set()[100:])))
        assert busy.response().status == 0
        assert busy.receive()[0] == 7
    code, _ = command.ended()
    assert code == 0
    assert time.monotonic() - started < 10
    assert len(list((tmp_path / "data/spool/new").iterdir())) == 1


def test_what_was_acknowledged_survives_a_kill_and_partial_files_do_not(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    arguments = ("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data"))
    acknowledged = 0
    for turn in range(5):
        command = run(*arguments)
        with connected(free_port) as requestor:
            requestor.associate()
            for n in range(turn + 1):
                assert requestor.store(f"1.2.{turn}.{n}").status == 0
                acknowledged += 1
            requestor.send(pdu(4, pdv(1, 3, requestor.store_command())) + pdu(4, pdv(1, 0, data_set()[:99])))
            command.process.kill()
            command.ended()
    run(*arguments)
    connected(free_port).sock.close()
    files = list((tmp_path / "data/spool/new").iterdir())
    assert len(files) == acknowledged
    assert all(path.read_bytes().endswith(data_set()[-1000:]) for path in files)
    eventually(lambda: not list((tmp_path / "data/spool/tmp").iterdir()), "partial files are gone")


def test_counters_can_be_read_beside_the_spool(run: Callable[..., Command], tmp_path: Path, free_port: int) -> None:
    run("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data"))
    with connected(free_port) as requestor:
        requestor.associate()
        requestor.store()
        requestor.release()

    def counted() -> bool:
        found = read_counters(tmp_path / "data/spool")
        counts = found["counts"] if found else {}
        assert isinstance(counts, dict)
        return counts.get("instances_stored") == 1 and counts.get("associations_released") == 1

    eventually(counted, "the counters are written")


def test_systemd_hears_ready_after_the_port_is_open_then_that_we_live_and_reload_and_stop(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(100)
        command = run(
            "--config",
            config(tmp_path, free_port),
            "--data",
            str(tmp_path / "data"),
            notify=address,
            WATCHDOG_USEC="200000",
        )
        assert "READY=1" in heard.recv(4096).decode()
        connected(free_port).sock.close()
        assert "WATCHDOG=1" in heard.recv(4096).decode()
        command.process.send_signal(signal.SIGHUP)
        said = _until(heard, "RELOADING=1")
        assert "MONOTONIC_USEC=" in said
        assert "READY=1" in _until(heard, "READY=1")
        command.process.send_signal(signal.SIGTERM)
        _until(heard, "STOPPING=1")
    assert command.ended()[0] == 0


def _until(heard: socket.socket, word: str) -> str:
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if select.select([heard], [], [], 0.1)[0]:
            said = heard.recv(4096).decode()
            if word in said:
                return said
    raise AssertionError(f"systemd did not hear {word}")


def test_a_reload_with_a_wrong_file_keeps_the_old_settings_and_says_so(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    path = config(tmp_path, free_port)
    address = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        command = run("--config", path, "--data", str(tmp_path / "data"), notify=address)
        _until(heard, "READY=1")
        (tmp_path / f"listener-{free_port}.yml").write_text("listener:\n  prot: 7\n")
        command.process.send_signal(signal.SIGHUP)
        _until(heard, "RELOADING=1")
        _until(heard, "READY=1")
        with connected(free_port) as requestor:
            assert requestor.associate()[0] == 2
            requestor.release()
        command.process.send_signal(signal.SIGTERM)
        code, said = command.ended()
    assert code == 0
    assert "prot" in said


def test_log_lines_are_json_with_one_line_per_association_and_no_control_characters(
    run: Callable[..., Command], tmp_path: Path, free_port: int
) -> None:
    command = run("--config", config(tmp_path, free_port), "--data", str(tmp_path / "data"))
    with connected(free_port) as requestor:
        requestor.associate(calling="EVIL\n\x1b[31mX")
        requestor.store()
        requestor.release()
    command.process.send_signal(signal.SIGTERM)
    _, said = command.ended()
    assert "\x1b" not in said
    assert "Patient" not in said
    lines = [json.loads(line) for line in said.splitlines()]
    (line,) = [line for line in lines if line["event"] == "association" and line.get("stored")]
    assert (line["ended"], line["peer"], line["stored"], line["bytes"]) == ("released", "127.0.0.1", 1, len(data_set()))
