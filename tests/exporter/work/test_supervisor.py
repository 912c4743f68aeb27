"""Whatever one input does to its worker process is an outcome, costs that process alone, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.outcome import Failed, InstanceIdentity, Outcome, Skipped
from exporter.work.protocol import WorkerJob
from exporter.work.supervisor import Cancelled, SetAside, Worker, WorkerKilled, WorkerSetup, WorkerUnstartable
from tests.exporter.misbehaving import identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def worker(settings: dict[str, Any] | None = None, **limits: Any) -> Iterator[Worker]:
    made = Worker(
        WorkerSetup(
            **{"settings": settings or {}, "target": "tests.exporter.misbehaving:prepare", "wall_s": 300, **limits}
        )
    )
    try:
        yield made
    finally:
        made.close()


def go(_: InstanceIdentity) -> None:
    return None


def run(
    made: Worker, word: str, folder: Path | str = ".", decide: Callable[[InstanceIdentity], Skipped | None] = go
) -> Outcome:
    return made.run(WorkerJob(path=f"x/{word}.dcm", folder=str(folder)), decide)


def descendants() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize(
    ("word", "said"),
    [("crash", "SIGSEGV"), ("fault", "SIGSEGV"), ("abort", "SIGABRT"), ("leave", "code 7")],
)
def test_a_crash_is_an_outcome_and_the_next_job_gets_a_new_process(word: str, said: str) -> None:
    with worker() as made:
        outcome = run(made, word)
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.may_pass, outcome.identity) == (Reason.DECODER_CRASH, True, identity(word))
        assert said in outcome.message
        assert isinstance(run(made, "plain"), Skipped)
        assert made.starts == 2


@pytest.mark.parametrize("word", ["hang", "freeze"])
def test_a_job_that_hangs_is_killed_at_the_wall_limit(word: str) -> None:
    with worker(wall_s=1.0) as made:
        made.ensure_ready()
        started = time.monotonic()
        outcome = run(made, word)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.TIMEOUT
        assert time.monotonic() - started >= 1.0
        assert not made.has_process
        made.ensure_ready()
        assert made.starts == 2


def test_a_job_that_spins_is_stopped_at_its_own_processor_time_not_at_that_of_the_jobs_before_it() -> None:
    with worker(cpu_s=1.0) as made:
        for _ in range(2):
            outcome = run(made, "spin")
            assert isinstance(outcome, Failed)
            assert outcome.reason is Reason.TIMEOUT
            assert "cpu_s" in outcome.message


def test_a_small_file_may_use_less_processor_time_than_a_large_one(tmp_path: Path) -> None:
    (tmp_path / "spin.small.dcm").write_bytes(b"")
    (tmp_path / "spin.large.dcm").write_bytes(bytes(1_000_000))
    (server,) = (one for one in psutil.Process().children() if "exporter.work.worker:main" in one.cmdline())
    with worker(cpu_s=60.0, cpu_base_s=1.0, cpu_s_per_mb=2.0) as made:
        spent = []
        for name in ("spin.small", "spin.large"):
            before = server.cpu_times().children_user
            made.ensure_ready()
            outcome = made.run(WorkerJob(str(tmp_path / f"{name}.dcm"), "."), go)
            spent.append(server.cpu_times().children_user - before)
            assert isinstance(outcome, Failed)
            assert (outcome.reason, outcome.may_pass) == (Reason.TIMEOUT, False)
            assert "cpu_s_per_mb" in outcome.message
    assert spent[0] < 3 < spent[1] + 1
    assert spent[1] - spent[0] > 1


def test_a_process_that_is_killed_from_outside_gives_no_verdict() -> None:
    with worker() as made:
        with pytest.raises(WorkerKilled, match="memory may be short"):
            run(made, "killed")
        assert isinstance(run(made, "plain"), Skipped)


def test_a_job_that_may_not_go_on_is_given_up() -> None:
    with worker() as made:
        with pytest.raises(SetAside):
            made.run(WorkerJob(path="x/hang.dcm", folder="."), go, lambda: False)
        assert isinstance(run(made, "plain"), Skipped)


def test_a_job_that_wants_too_much_memory_does_not_get_it() -> None:
    with worker(memory_bytes=1 << 30) as made:
        outcome = run(made, "eat")
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.TOO_LARGE
        assert made.starts == 1


def test_a_process_that_keeps_memory_is_replaced() -> None:
    with worker(growth_bytes=60 << 20) as made:
        for _ in range(4):
            run(made, "grow")
        assert made.starts == 2


def test_a_file_beyond_the_limit_is_an_error_of_that_job(tmp_path: Path) -> None:
    with worker(file_bytes=1 << 20) as made:
        outcome = run(made, "write", tmp_path)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.DECODER_CRASH  # this job of ours maps nothing; the pipeline says `too_large`
        assert (tmp_path / "0.part").stat().st_size == 1 << 20


def test_what_a_process_prints_is_neither_an_answer_nor_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with worker() as made:
        outcome = run(made, "babble")
        assert isinstance(outcome, Skipped)
        assert outcome.message == "babble"
        assert isinstance(run(made, "plain"), Skipped)
        assert made.starts == 1
    assert "Doe" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("word", ["nonsense", "garbage"])
def test_an_answer_that_makes_no_sense_costs_the_process(word: str) -> None:
    with worker() as made:
        outcome = run(made, word)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.DECODER_CRASH
        assert "Doe" not in outcome.message
        following = run(made, "plain")
        assert isinstance(following, Skipped)
        assert following.message == "plain"


def test_a_full_disk_is_no_outcome() -> None:
    with worker() as made:
        with pytest.raises(OutOfSpace, match="no space"):
            run(made, "full")
        assert isinstance(run(made, "plain"), Skipped)
        assert made.starts == 1


def test_what_is_not_wanted_is_not_exported_and_costs_no_process() -> None:
    refusal = Skipped(SkipReason.DUPLICATE, "seen before", identity())
    with worker() as made:
        assert run(made, "crash", decide=lambda _: refusal) is refusal
        assert isinstance(run(made, "plain"), Skipped)
        assert made.starts == 1


def test_the_time_to_decide_does_not_count() -> None:
    with worker(wall_s=3) as made:
        made.ensure_ready()
        assert isinstance(run(made, "plain", decide=lambda _: time.sleep(3.5)), Skipped)  # type: ignore[func-returns-value]  # it decides None, late


def test_another_thread_can_have_the_job_given_up() -> None:
    with worker() as made:
        made.ensure_ready()
        asked = threading.Event()
        timer = threading.Thread(target=lambda: (asked.wait(100), made.cancel()))
        timer.start()
        with pytest.raises(Cancelled):
            run(made, "hang", decide=lambda _: asked.set())  # type: ignore[func-returns-value]  # it decides None
        timer.join()
        with pytest.raises(Cancelled):
            run(made, "plain")


def test_a_process_that_was_killed_while_idle_costs_nobody_an_attempt() -> None:
    with worker() as made:
        first = run(made, "pid")
        assert isinstance(first, Failed)
        os.kill(int(first.message), signal.SIGKILL)
        deadline = time.monotonic() + 100
        while Path(f"/proc/{first.message}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
        assert isinstance(run(made, "plain"), Skipped)


def test_workers_that_do_not_start_are_said_to_be_so_and_no_instance_is_blamed() -> None:
    with worker({"prepare": "crash"}) as made:
        with pytest.raises(WorkerUnstartable, match="RuntimeError: no such library"):
            run(made, "plain")
        assert made.starts == 3
    with worker({"prepare": "hang"}, start_s=0.5) as made, pytest.raises(WorkerUnstartable):
        run(made, "plain")


def test_nothing_of_the_job_is_in_the_arguments_or_the_environment_of_the_process() -> None:
    with worker() as made:
        first = made.run(WorkerJob(path="x/pid.Doe^Jane.dcm", folder="."), go)
        assert isinstance(first, Failed)
        process = Path("/proc") / first.message
        for name in ("cmdline", "environ", "comm"):
            assert b"Doe" not in (process / name).read_bytes()
        limits = (process / "limits").read_text()
        assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]


@pytest.mark.parametrize("start", ["as a copy of the fork server", "as an interpreter of its own"])
def test_closing_leaves_no_process_behind(start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if start == "as an interpreter of its own":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)  # a copy would not see it
    before = descendants()
    with worker() as made:
        made.ensure_ready()
        (mine,) = descendants() - before
        is_copy = psutil.Process(mine).ppid() != os.getpid()
        assert is_copy == (start == "as a copy of the fork server")
        assert isinstance(run(made, "plain"), Skipped)
    assert descendants() == before


def test_the_process_dies_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal
        from exporter.work.protocol import WorkerJob
        from exporter.work.supervisor import Worker, WorkerSetup

        worker = Worker(WorkerSetup(settings={}, target="tests.exporter.misbehaving:prepare"))
        print(worker.run(WorkerJob("x/pid.dcm", "."), lambda _: None).message, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        """)
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    process = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 100
    while process.exists() and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the worker outlived its parent"
