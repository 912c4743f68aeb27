"""Signals of a process, handled while a block runs; the handlers before it come back afterwards.

Contract: Python runs handlers in the main thread only, and only there can they be set (signal(7), `signal.signal`): in
another thread nothing is handled, and whoever runs a daemon there stops it by other means.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP: Final = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end: a service manager's signal, and Ctrl-C."""


@contextmanager
def handling(act: Callable[[int], object], *numbers: signal.Signals) -> Iterator[None]:
    """Have `act` called with the number of each of these signals that comes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda came, _: act(came)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping(stop: threading.Event, again: Callable[[], object] | None = None) -> Iterator[None]:
    """Have the first signal of `STOP` set `stop`.

    Args:
        stop: Set by the first one; may be set already.
        again: Called for each further one; default: raise KeyboardInterrupt.
    """

    def act(number: int) -> None:
        if not stop.is_set():
            stop.set()
        elif again is not None:
            again()
        else:
            signal.default_int_handler(number, None)

    with handling(act, *STOP):
        yield
