"""Child processes that run modules of ours: how they start, how long they may be silent, how they end.

Contract: a `ChildProcess` is one child after another. Each is started without a shell and with no open files but those
named, finds the same package as its parent, and does not speak to the service manager in its place. It has a process
group of its own, so that a Ctrl-C of the terminal reaches the parent alone, and what the child started is killed with
it. One thread starts, watches and reaps; any thread may call `kill`.
"""

from __future__ import annotations

import math
import os
import select
import signal
import site
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from listener.foundation.backoff import Backoff

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence

_NOT_FOR_CHILDREN: Final = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"})
_PARENT: Final = "EXPORTER_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1


class ForkedProcess:
    """A child that a fork server made for us, with what `ChildProcess` uses of a `subprocess.Popen`.

    Its parent is the server, which keeps it unreaped, and its number unused, until it is asked for the exit code.
    """

    def __init__(self, pid: int, pipes: tuple[int, int, int], reap: Callable[[int], int | None]) -> None:
        """Watch a child.

        Args:
            pid: Its number.
            pipes: Our ends of its standard input, output and error.
            reap: Gives the exit code of a child that has ended, or None if the server has ended too.

        Raises:
            OSError: The system has no descriptor left to watch it by.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._reap = reap
        self._watched = os.pidfd_open(pid)
        self.stdin, self.stdout, self.stderr = (
            os.fdopen(descriptor, mode, buffering=0) for descriptor, mode in zip(pipes, ("wb", "rb", "rb"), strict=True)
        )

    def is_dead(self, within_s: float = 0.0) -> bool:
        """Whether it has ended, at once or within a time."""
        poll = select.poll()
        poll.register(self._watched, select.POLLIN)
        return bool(poll.poll(None if math.isinf(within_s) else max(within_s, 0.0) * 1000))

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None and self.is_dead():
            code = self._reap(self.pid)
            self.returncode = -signal.SIGKILL if code is None else code
            os.close(self._watched)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._watched, number)


class ChildProcess:
    """One child process after another that runs the same module."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        backoff: Backoff | None = None,
        fork: Callable[[], ForkedProcess | None] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            module: What ``python -m`` runs.
            arguments: For every child; they can be seen by anybody on this machine.
            environment: Variables beside those of this process.
            backoff: Pauses before another start; from 0.5 to 30 s by default.
            fork: Of a fork server; for children with pipes. Where it gives None, an interpreter is started.
        """
        # -P: no module of the current folder is run.
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._variables = dict(environment or {})
        self._backoff = backoff or Backoff(0.5, 30.0)
        self._fork = fork
        self._lock = threading.Lock()  # between `kill` and the end of a process, whose number is free after it
        self._popen: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._heard_at = 0.0
        self._start_at = 0.0
        self.starts = 0
        """Processes that were started so far."""
        self.is_ready = False
        """Whether the present child has said that it can work."""

    @property
    def exists(self) -> bool:
        """Whether there is a child that was not reaped, running or dead."""
        return self._popen is not None

    @property
    def is_due(self) -> bool:
        """Whether a child is to be started now: there is none, and the pause after the last one is over."""
        return self._popen is None and time.monotonic() >= self._start_at

    @property
    def silent_s(self) -> float:
        """Seconds since the child was started or last heard."""
        return time.monotonic() - self._heard_at

    @property
    def pipes(self) -> tuple[int, int, int] | None:
        """Descriptors of our ends of its standard input, output and error; None where there is no child with pipes."""
        popen = self._popen
        if popen is None or popen.stdin is None or popen.stdout is None or popen.stderr is None:
            return None
        return popen.stdin.fileno(), popen.stdout.fileno(), popen.stderr.fileno()

    def start(
        self, *arguments: str, pass_fds: Sequence[int] = (), with_pipes: bool = False, prints_to: int | None = None
    ) -> None:
        """Start a child.

        Args:
            arguments: For this child, after those for every child.
            pass_fds: Descriptors that it inherits, under the same numbers.
            with_pipes: Whether its standard streams are pipes to us; otherwise it reads nothing.
            prints_to: Descriptor of a file for what it prints; by default it prints where we do.

        Raises:
            OSError: The system gives no process, or no descriptors.
        """
        self._heard_at, self.is_ready = time.monotonic(), False
        forked = self._fork() if self._fork is not None and with_pipes else None
        self._popen = forked or self._spawned(arguments, pass_fds, with_pipes=with_pipes, prints_to=prints_to)
        self.starts += 1

    def _spawned(
        self, arguments: Sequence[str], pass_fds: Sequence[int], *, with_pipes: bool, prints_to: int | None
    ) -> subprocess.Popen[bytes]:
        """A fresh interpreter."""
        from subprocess import DEVNULL, PIPE, Popen  # children import this module, too, and start none

        output = PIPE if with_pipes else prints_to
        return Popen(
            [*self._command, *arguments],
            stdin=PIPE if with_pipes else DEVNULL,
            stdout=output,
            stderr=output,
            bufsize=0,
            env=environment_of_child() | self._variables,
            pass_fds=pass_fds,
            process_group=0,
        )

    def hear(self, *, is_ready: bool = False) -> None:
        """Note a sign of life; a child that is ready has begun well, and the next pause is the first again."""
        self._heard_at = time.monotonic()
        if is_ready:
            self.is_ready = True
            self._backoff.reset()

    def exit_code(self) -> int | None:
        """The exit code of the child, negative for a signal; None while it runs, or where there is none."""
        popen = self._popen
        with self._lock:
            return popen.poll() if popen is not None else None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone, if it runs."""
        popen = self._popen
        with self._lock:
            if popen is not None:
                popen.send_signal(number)

    def kill(self) -> None:
        """Kill the child and whatever it has started, without waiting for their end; from any thread."""
        popen = self._popen
        with self._lock:
            if popen is not None and popen.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(popen.pid, signal.SIGKILL)

    def end(self, within_s: float = 0.0, killed_within_s: float = math.inf) -> int | None:
        """Let the child end by itself, then kill what is left of it and its group, and forget it.

        Args:
            within_s: How long it may take to end by itself.
            killed_within_s: How long we wait for its death; one that waits for a disk dies when the disk answers.

        Returns:
            Its exit code; 0 where there was none, None where it is not dead yet.
        """
        popen, self.is_ready = self._popen, False
        if popen is None:
            return 0
        self._await_end(popen, within_s)
        self.kill()
        self._await_end(popen, killed_within_s)
        code = self.exit_code()
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                pipe.close()
        self._popen = None
        return code

    def postpone(self) -> float:
        """Put off the next start: what ended a child, or kept it from starting, may still be there.

        Returns:
            Seconds until the next start is due.
        """
        self.end()
        pause_s = self._backoff.next_pause()
        self._start_at = time.monotonic() + pause_s
        return pause_s

    @staticmethod
    def _await_end(popen: subprocess.Popen[bytes] | ForkedProcess, within_s: float) -> None:
        """Wait until a child is dead, without reaping it: until then nobody else gets its number."""
        if isinstance(popen, ForkedProcess):
            if popen.returncode is None:
                popen.is_dead(within_s)
            return
        until, polls = time.monotonic() + within_s, Backoff(0.0005, 0.02)
        with suppress(ChildProcessError):  # reaped by the kernel: this process was started with SIGCHLD ignored
            while popen.returncode is None and not os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                left_s = until - time.monotonic()
                if left_s <= 0:
                    return
                time.sleep(min(left_s, polls.next_pause()))


def exit_in_words(code: int) -> str:
    """``code 1``, or the name of the signal that ended a child."""
    if code >= 0:
        return f"code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def environment_of_child() -> dict[str, str]:
    """The environment for a child process that runs a module of ours."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    environment[_PARENT] = str(os.getpid())
    folder = str(Path(__file__).resolve().parents[2])
    if folder not in site.getsitepackages():  # run from a checkout: the child shall find the same package
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, environment.get("PYTHONPATH")]))
    return environment


def end_with_parent(number: signal.Signals, parent: int | None = None) -> None:
    """Have the kernel send this process a signal when the thread that started it is gone (prctl(2)).

    For a child that a `ChildProcess` started, or one that `parent` has forked; any other process goes on as it is.
    """
    named = os.environ.pop(_PARENT, None)
    if parent is None:
        if named is None:
            return
        parent = int(named)
    import ctypes  # here: most processes are nobody's child

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # the parent died before the line above took effect
