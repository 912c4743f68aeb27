"""Signals of a process, handled while a block runs; the handlers before it come back afterwards.

Contract: what a signal sets off runs in a thread of its own, which the kernel wakes through a pipe (`set_wakeup_fd`).
The main thread may hold any lock when a signal comes, and is neither interrupted nor waited for. Only in the main
thread can handlers be set (`signal.signal`): in another thread nothing is handled, and a daemon that runs there is
stopped by other means.

Must never: raise an exception in the middle of whatever the main thread does: a lock would stay locked for good.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP: Final = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end: a service manager's signal, and Ctrl-C."""
INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit code of a process that Ctrl-C has ended, as shells have it."""
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


@contextmanager
def handling(act: Callable[[int], object], *numbers: signal.Signals) -> Iterator[None]:
    """Have `act` called with the number of each of these signals that comes, one call after the other.

    Calls for signals that came while the block ran are over when this returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    thread = threading.Thread(target=_call, args=(reading, outer, act, numbers), name="signals", daemon=True)
    thread.start()
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(outer)
        os.close(writing)
        thread.join()
        os.close(reading)


def _call(reading: int, outer: int, act: Callable[[int], object], numbers: tuple[signal.Signals, ...]) -> None:
    """Call `act` for each signal that the kernel has written to the pipe; pass others on to the block around."""
    while came := os.read(reading, 1):
        if came[0] in numbers:
            act(came[0])
        elif outer >= 0:
            os.write(outer, came)


@contextmanager
def stopping(stop: threading.Event, again: Callable[[], object] | None = None) -> Iterator[None]:
    """Have the first signal of `STOP` set `stop`.

    By default a further Ctrl-C ends the process at once, as SIGKILL would, and a further SIGTERM changes nothing: the
    kernel may send one for each thread of a parent that is killed (prctl(2)), and who has lost patience sends SIGKILL.

    Args:
        stop: Set by the first one; may be set already.
        again: Called for each further one, instead of the default.
    """

    def act(number: int) -> None:
        if not stop.is_set():
            stop.set()
        elif again is not None:
            again()
        elif number == signal.SIGINT:
            _end_at_once()

    with handling(act, *STOP):
        yield


def _end_at_once() -> None:
    """End this process without another step of any thread; a progress bar may have hidden the cursor."""
    if os.isatty(2):
        os.write(2, _SHOW_CURSOR)
    os._exit(INTERRUPTED)
