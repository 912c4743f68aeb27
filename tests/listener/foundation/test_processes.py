"""Child processes: what they start with, how their silence and their pauses are measured, and that nothing is left."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from listener.foundation.backoff import Backoff
from listener.foundation.processes import ChildProcess, exit_in_words
from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., ChildProcess]

MODULE = "tests.listener.foundation.child"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts children with pipes; every one is ended."""
    made: list[ChildProcess] = []

    def start(*arguments: str, pass_fds: tuple[int, ...] = (), **options: Any) -> ChildProcess:
        made.append(ChildProcess(MODULE, **options))
        made[-1].start(*arguments, pass_fds=pass_fds, with_pipes=True)
        return made[-1]

    yield start
    for child in made:
        child.end()


def said(child: ChildProcess) -> Any:
    """The line that a child prints."""
    assert child.pipes is not None
    _, output, _ = child.pipes
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([output], [], [], 30)[0], "it says nothing"
        piece = os.read(output, 65_536)
        assert piece, f"it ended after {line!r}"
        line += piece
    return json.loads(line)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_child_has_the_variables_of_its_parent_and_its_own_but_not_the_service_managers(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LANG_OF_TEST", "KIND_OF_TEST"):
        monkeypatch.setenv(name, "of the parent")
    environment = said(start("describe", environment={"KIND_OF_TEST": "of the child"}))["environment"]
    assert environment["LANG_OF_TEST"] == "of the parent"
    assert environment["KIND_OF_TEST"] == "of the child"
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & environment.keys()


def test_a_child_inherits_the_descriptors_that_are_named_and_no_others(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "named").open("wb") as named, (tmp_path / "other").open("wb") as other:
        os.set_inheritable(other.fileno(), True)
        descriptors = said(start("describe", pass_fds=(named.fileno(),)))["descriptors"]
        assert named.fileno() in descriptors
        assert len(descriptors) == 5  # its standard streams, the named one, and the folder it reads them from


def test_a_child_may_end_by_itself(start: Start) -> None:
    child = start("end", "3")
    assert child.end(60.0) == 3
    assert not child.exists


def test_a_child_that_does_not_end_in_time_is_killed(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    child.send_signal(signal.SIGTERM)
    assert child.end(0.1) == -signal.SIGKILL
    assert not child.exists


@pytest.mark.parametrize("then", [(), ("and end",)], ids=["a child that runs", "a child that has ended"])
def test_what_a_child_has_started_ends_with_it(start: Start, then: tuple[str, ...]) -> None:
    child = start("start", *then)
    grandchild = said(child)
    assert child.end(60.0 if then else 0.0) == (0 if then else -signal.SIGKILL)
    eventually(lambda: is_gone(grandchild), "what it started is killed")


def test_the_exit_code_is_known_without_waiting(start: Start) -> None:
    child = start("stubborn")
    assert said(child) == "deaf"
    assert child.exit_code() is None
    child.kill()
    eventually(lambda: child.exit_code() == -signal.SIGKILL, "it is dead")
    assert child.exists
    child.kill()  # its number may be another's by now: nobody is killed
    assert child.end() == -signal.SIGKILL


def test_without_a_child_there_is_nothing_to_end_and_nothing_to_kill() -> None:
    child = ChildProcess(MODULE)
    child.kill()
    child.send_signal(signal.SIGTERM)
    assert child.end() == 0
    assert child.exit_code() is None
    assert child.pipes is None


def test_a_child_that_cannot_be_started_is_an_error_and_none_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    child = ChildProcess(MODULE)
    with pytest.raises(FileNotFoundError):
        child.start()
    assert not child.exists
    assert child.starts == 0


def test_pauses_double_until_a_child_is_ready() -> None:
    child = ChildProcess(MODULE, backoff=Backoff(1.0, 4.0))
    assert child.is_due
    assert [child.postpone() for _ in range(4)] == [1.0, 2.0, 4.0, 4.0]
    assert not child.is_due
    child.hear()
    assert child.postpone() == 4.0
    child.hear(is_ready=True)
    assert child.is_ready
    assert child.postpone() == 1.0
    assert not child.is_ready


def test_what_a_child_said_last_does_not_make_the_next_one_ready(start: Start) -> None:
    child = start("end", "1")
    child.end(60.0)
    child.hear(is_ready=True)  # read late
    child.start("end", "1", with_pipes=True)
    assert not child.is_ready


def test_after_the_pause_another_child_is_due(start: Start) -> None:
    child = start("end", "1", backoff=Backoff(0.01, 0.01))
    assert not child.is_due
    eventually(lambda: child.exit_code() == 1, "it has ended", 100)
    assert not child.is_due  # nobody has seen to what it left
    child.postpone()
    eventually(lambda: child.is_due, "the pause is over")
    child.start("end", "2")
    assert child.end(60.0) == 2
    assert child.starts == 2


def test_silence_is_measured_from_the_last_sign_of_life(start: Start) -> None:
    child = start("stubborn")
    eventually(lambda: child.silent_s > 0.2, "it has been silent")
    child.hear()
    assert child.silent_s < 0.2


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal
        from listener.foundation.processes import ChildProcess

        child = ChildProcess({MODULE!r})
        child.start("follow", with_pipes=True)
        _, output, _ = child.pipes
        os.read(output, 1)
        print(os.getpgid(int(open("/proc/self/task/%d/children" % os.getpid()).read())), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr
    eventually(lambda: is_gone(int(done.stdout)), "the child has ended")


def test_a_child_whose_parent_died_before_it_could_notice_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, "follow"],
        env={**os.environ, "EXPORTER_PARENT_PID": "1"},
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_childs_own_children_do_not_take_its_parent_for_theirs(start: Start) -> None:
    assert "EXPORTER_PARENT_PID" not in said(start("follow"))


@pytest.mark.parametrize(
    ("code", "words"), [(0, "code 0"), (3, "code 3"), (-signal.SIGKILL, "SIGKILL"), (-50, "signal 50")]
)
def test_an_exit_code_is_told_by_its_number_or_by_the_signal(code: int, words: str) -> None:
    assert exit_in_words(code) == words
