"""The fork server: its children are as those of an interpreter, and end as they do, and with the server."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from listener.foundation.fork_server import ForkServer
from listener.foundation.processes import ChildProcess
from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., ChildProcess]

MODULE = "tests.listener.foundation.child"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def held() -> Iterator[ForkServer]:
    with ForkServer(f"{MODULE}:copied", load=f"{MODULE}:load") as server:
        yield server


@pytest.fixture
def start(held: ForkServer) -> Iterator[Start]:
    """Starts children and tells them what to do; every one is ended."""
    made: list[ChildProcess] = []

    def start(*words: str, server: ForkServer = held) -> ChildProcess:
        made.append(ChildProcess(MODULE, fork=server.fork))
        made[-1].start(with_pipes=True)
        assert made[-1].pipes is not None
        os.write(made[-1].pipes[0], " ".join(words).encode() + b"\n")
        return made[-1]

    yield start
    for child in made:
        child.end()


def said(child: ChildProcess) -> Any:
    assert child.pipes is not None
    _, output, _ = child.pipes
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([output], [], [], 100)[0], "it says nothing"
        piece = os.read(output, 65_536)
        assert piece, f"it ended after {line!r}"
        line += piece
    return json.loads(line)


def servers() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if f"{MODULE}:copied" in one.cmdline()]


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_has_its_pipes_and_the_folder_it_reads_them_from_and_nothing_else(start: Start) -> None:
    assert len(said(start("describe"))["descriptors"]) == 4


def test_a_child_leads_a_process_group_and_is_a_child_of_the_server(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    (server,) = servers()
    (process,) = server.children()
    assert os.getpgid(process.pid) == process.pid


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_may_end_by_itself_with_its_code(start: Start, code: int) -> None:
    child = start("end", str(code))
    assert child.end(100.0) == code
    assert not child.exists


def test_a_child_that_does_not_end_in_time_is_killed(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    child.send_signal(signal.SIGTERM)
    assert child.end(0.1) == -signal.SIGKILL


def test_what_a_child_has_started_ends_with_it(start: Start) -> None:
    child = start("start")
    grandchild = said(child)
    assert child.end() == -signal.SIGKILL
    eventually(lambda: is_gone(grandchild), "what it started is killed", 100)


def test_the_exit_code_is_known_without_waiting(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    assert child.exit_code() is None
    child.kill()
    eventually(lambda: child.exit_code() == -signal.SIGKILL, "it is dead", 100)


def test_children_die_with_a_server_that_is_killed_and_the_next_one_has_a_new_server(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    (server,) = servers()
    server.kill()
    eventually(lambda: child.exit_code() == -signal.SIGKILL, "it is dead", 100)
    other = start("stubborn")
    assert said(other) == "deaf"
    (new,) = servers()
    assert new.pid != server.pid
    assert [one.pid for one in new.children()] != []


def test_a_child_has_the_variables_that_its_parent_has_now(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND_OF_TEST", "set late")
    monkeypatch.setenv("NOTIFY_SOCKET", "of the parent")
    environment = said(start("describe"))["environment"]
    assert environment["KIND_OF_TEST"] == "set late"
    assert "NOTIFY_SOCKET" not in environment


@pytest.mark.parametrize("what", ["path of modules", "working folder"])
def test_what_a_copy_cannot_change_leaves_the_start_to_an_interpreter(
    held: ForkServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    if what == "working folder":
        monkeypatch.chdir(tmp_path)
    else:
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert held.fork() is None


def test_a_server_that_cannot_load_leaves_the_start_to_an_interpreter() -> None:
    with ForkServer(f"{MODULE}:copied", load="no_such_module:load") as server:
        child = ChildProcess(MODULE, "describe", fork=server.fork)
        child.start(with_pipes=True)
        assert said(child)["descriptors"]
        assert child.end(100.0) == 0


def test_the_wait_for_libraries_can_be_given_up_and_ends_when_they_are_there() -> None:
    asked: list[int] = []

    def may_wait() -> bool:
        asked.append(len(asked))
        return len(asked) < 3

    with ForkServer(f"{MODULE}:copied", load=f"{MODULE}:load_slowly") as server:
        server.await_loaded(may_wait)
        assert len(asked) == 3
    with ForkServer(f"{MODULE}:copied", load=f"{MODULE}:load") as server:
        server.await_loaded(lambda: True)
        child = server.fork()
        assert child is not None
        child.send_signal(signal.SIGKILL)
        assert child.is_dead(100)
        assert child.poll() == -signal.SIGKILL
        for pipe in (child.stdin, child.stdout, child.stderr):
            pipe.close()


def test_without_a_holder_there_is_no_server() -> None:
    server = ForkServer(f"{MODULE}:copied", load=f"{MODULE}:load")
    with server, server:
        pass
    assert server.fork() is None


def test_server_and_children_end_with_a_parent_that_is_killed() -> None:
    command = [sys.executable, "-m", MODULE, "hold"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        left = json.loads(parent.stdout.readline())
        parent.kill()
    assert len(left) == 2  # the server and its child
    eventually(lambda: all(map(is_gone, left)), "they are dead", 100)
