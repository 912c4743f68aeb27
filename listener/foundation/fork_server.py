"""A fork server: a process that has loaded what its children need, so that each of them starts in a few milliseconds.

    server = ForkServer("package.module:main", load="package.module:load_libraries")
    with server:                                    # starts loading, beside what this process does meanwhile
        child = ChildProcess("package.module", fork=server.fork)

Contract: a child runs the function as ``python -m package.module`` would: in a process group of its own, with its three
pipes, and with no other open files. It is a copy of a process that never saw anything but code. The server has one
thread, so that a copy of it is complete; where a library has started more, the child is a fresh interpreter instead.
The server ends when its parent does, killed or not, and its children are killed with it (prctl(2), PR_SET_PDEATHSIG).
While nobody holds the server there is no such process, and where it cannot start, `fork` says so: then a `ChildProcess`
starts without it.

Must never: handle what a child is sent.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final, Self

from listener.foundation.processes import ChildProcess, ForkedProcess, end_with_parent, environment_of_child
from listener.foundation.quick_start import quicken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

READY_S: Final = 120.0
"""Longest time that the server may take to load and to answer."""
_ORPHAN_S: Final = 1.0
"""How often the server looks for its parent, whose other children may hold our end of the socket open."""
_LOOK_S: Final = 0.1
_NUMBER: Final = struct.Struct("=q")
_FORK: Final = b"fork"
_AT_START: Final = ("PYTHON", "LD_")
_LONGEST_REQUEST: Final = 1 << 20


class ForkServer:
    """The parent's end; any thread may use it."""

    def __init__(self, run: str, *, load: str, environment: Mapping[str, str] | None = None) -> None:
        """Nothing is started yet.

        Args:
            run: ``module:function`` that children run; it returns their exit code.
            load: ``module:function`` that the server calls once, to load libraries.
            environment: Variables beside those of this process.
        """
        self._run = run
        self._load = load
        self._variables = dict(environment or {})
        self._server = ChildProcess("listener.foundation.fork_server", environment=environment)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._has_loaded = False
        self._holders = 0
        self._surroundings: tuple[dict[str, str], str] | None = None
        """What its children share with the server, as it was when the server was started."""

    def __enter__(self) -> Self:
        """Start the server, if nobody holds it yet; does not wait until it has loaded."""
        with self._lock:
            self._holders += 1
            self._ensure_started()
        return self

    def __exit__(self, *_: object) -> None:
        """End the server when its last holder lets it go."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._end()

    def await_loaded(self, may_wait: Callable[[], bool]) -> None:
        """Return when `fork` will not wait for libraries, or when `may_wait`, asked every 0.1 s, says no."""
        poll, until = select.poll(), time.monotonic() + READY_S
        while may_wait() and time.monotonic() < until:
            with self._lock:
                if self._socket is None or self._has_loaded:
                    return
                poll.register(self._socket, select.POLLIN)
            if poll.poll(_LOOK_S * 1000):
                return

    def fork(self) -> ForkedProcess | None:
        """Start a child.

        A server that has ended is started again once.

        Returns:
            The child; None where there is no server, where this process has another working folder or other variables
            for interpreters than when the server was started, or where the system gives no process.
        """
        with self._lock:
            if not self._holders or (self._socket is not None and self._surroundings != _surroundings()):
                return None
            return self._forked() or self._forked()

    def _forked(self) -> ForkedProcess | None:
        """Start a child with the present server; a server that does not answer is ended."""
        try:
            self._ensure_started()
            ours, theirs = _pipes()
        except OSError:
            return None
        try:
            pid = self._ask(_FORK + json.dumps(environment_of_child() | self._variables).encode(), theirs)
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        if pid is not None and pid > 0:
            with suppress(OSError):  # the system has no descriptor to watch it by
                return ForkedProcess(pid, ours, self._reap)
            os.killpg(pid, signal.SIGKILL)
            self._ask(_NUMBER.pack(pid))
        for descriptor in ours:
            os.close(descriptor)
        return None

    def _reap(self, pid: int) -> int | None:
        """Exit code of a child that has ended; None where its server has ended too."""
        with self._lock:
            return self._ask(_NUMBER.pack(pid))

    def _ask(self, request: bytes, descriptors: list[int] | None = None) -> int | None:
        """Answer of the server, or None: then it has ended, or was ended because it gave none."""
        if self._socket is None:
            return None
        with suppress(OSError, struct.error):
            if not self._has_loaded:
                _NUMBER.unpack(self._socket.recv(_NUMBER.size))
                self._has_loaded = True
            socket.send_fds(self._socket, [request], descriptors or [])
            (answer,) = _NUMBER.unpack(self._socket.recv(_NUMBER.size))
            return int(answer)
        self._end()
        return None

    def _ensure_started(self) -> None:
        if self._socket is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._server.start(str(theirs.fileno()), self._run, self._load, pass_fds=(theirs.fileno(),))
            except OSError:
                ours.close()
                return
        ours.settimeout(READY_S)
        self._has_loaded = False
        self._socket, self._surroundings = ours, _surroundings()

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._server.end()


def _surroundings() -> tuple[dict[str, str], str] | None:
    """What cannot be changed in a copy: variables of interpreter and linker, and the folder that names begin at.

    Returns:
        Both, or None where that folder is gone.
    """
    try:
        return {name: value for name, value in os.environ.items() if name.startswith(_AT_START)}, os.getcwd()  # noqa: PTH109 - as text
    except FileNotFoundError:
        return None


def _pipes() -> tuple[tuple[int, int, int], list[int]]:
    """Both ends of a child's standard input, output and error: ours, then its own.

    Raises:
        OSError: There are no more descriptors.
    """
    made: list[int] = []
    try:
        for _ in range(3):
            made += os.pipe()
    except OSError:
        for descriptor in made:
            os.close(descriptor)
        raise
    return (made[1], made[2], made[4]), [made[0], made[3], made[5]]


# -- the server's process --------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Load, then fork and reap children until the parent is gone.

    Returns:
        Exit code; in a child, that of its function.
    """
    descriptor, run, load = arguments
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests = socket.socket(fileno=int(descriptor))
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)  # why libraries cannot be loaded, the interpreter says that is started instead
    os.close(null)
    quicken()
    _function(load)()
    function = _function(run)
    gc.freeze()  # or else the first collection of each child would copy what it shares with the others
    with requests:
        is_child = _serve(requests, parent)
    if not is_child:
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not _has_one_thread():
        module, _, _ = run.partition(":")
        os.execv(sys.executable, [sys.executable, "-P", "-m", module])  # noqa: S606 - no shell
    return function() or 0


def _serve(requests: socket.socket, parent: int) -> bool:
    """Answer requests.

    Returns:
        True in a child that is to run; False when the parent is gone.
    """
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    requests.send(_NUMBER.pack(0))  # all is loaded
    while True:
        if not poll.poll(_ORPHAN_S * 1000):
            if os.getppid() != parent:
                return False
            continue
        request, descriptors, *_ = socket.recv_fds(requests, _LONGEST_REQUEST, 3)
        if not request:
            return False
        if not request.startswith(_FORK):
            (pid,) = _NUMBER.unpack(request)
            answer = _reaped(pid)
        else:
            answer = _fork(descriptors, json.loads(request.removeprefix(_FORK)))
            if answer == 0:
                return True
        with suppress(BrokenPipeError):
            requests.send(_NUMBER.pack(answer))


def _fork(descriptors: list[int], variables: dict[str, str]) -> int:
    """Fork: number of the child, or in the child 0 with its pipes in place; -1 where there is no process."""
    server = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        pid = -1
    if pid == 0:
        os.setpgid(0, 0)
        os.environ.clear()
        os.environ.update(variables)
        end_with_parent(signal.SIGKILL, server)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
    elif pid > 0:
        with suppress(OSError):  # it has done so itself, or has ended
            os.setpgid(pid, pid)
    for descriptor in descriptors:
        os.close(descriptor)
    return pid


def _reaped(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(status)


def _has_one_thread() -> bool:
    """Whether this process and the one it was copied from have one thread; what others held is locked for ever."""
    return len(os.listdir(f"/proc/{os.getppid()}/task")) == 1  # noqa: PTH208 - a number is all that is wanted


def _function(target: str) -> Callable[[], int | None]:
    module, _, name = target.partition(":")
    found: Callable[[], int | None] = getattr(import_module(module), name)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
