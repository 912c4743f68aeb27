"""Signals: the first one asks a process to stop, and what was handled before is handled so again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from listener.foundation.signals import STOP, handling, stopping


@pytest.mark.parametrize("number", STOP)
def test_the_first_signal_sets_the_event(number: signal.Signals) -> None:
    stop = threading.Event()
    with stopping(stop):
        signal.raise_signal(number)
        assert stop.wait(100)


@pytest.mark.parametrize(
    ("numbers", "code"),
    [((signal.SIGTERM, signal.SIGTERM, signal.SIGTERM), 0), ((signal.SIGTERM, signal.SIGINT), 130)],
)
def test_a_further_signal_never_breaks_into_what_holds_a_lock(numbers: tuple[signal.Signals, ...], code: int) -> None:
    lines = f"""
import signal, threading
from listener.foundation.signals import stopping

class Locked(threading.Event):
    def set(self):
        with lock:
            super().set()

lock, stop = threading.Lock(), Locked()
with stopping(stop):
    with lock:
        signal.raise_signal({int(numbers[0])})
    stop.wait()
    with lock:
        for number in {[*map(int, numbers[1:])]}:
            signal.raise_signal(number)
        if {code}:
            threading.Event().wait()
assert not lock.locked()
print("ended")
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (code, "" if code else "ended\n", "")


def test_a_caller_says_what_a_second_signal_does() -> None:
    stop, now = threading.Event(), threading.Event()
    with stopping(stop, now.set):
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(100)
        assert not now.is_set()
        signal.raise_signal(signal.SIGINT)
        assert now.wait(100)


def test_the_handlers_before_come_back() -> None:
    before = [signal.getsignal(number) for number in STOP]
    with stopping(threading.Event()):
        assert [signal.getsignal(number) for number in STOP] != before
    assert [signal.getsignal(number) for number in STOP] == before


def test_each_signal_that_comes_is_handed_on() -> None:
    came: list[int] = []
    with handling(came.append, signal.SIGHUP, signal.SIGTERM):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGHUP, signal.SIGTERM]


def test_a_block_within_another_leaves_it_the_signals_that_it_does_not_handle() -> None:
    outer: list[int] = []
    inner: list[int] = []
    with handling(outer.append, signal.SIGHUP, signal.SIGTERM):
        with handling(inner.append, signal.SIGTERM):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert (outer, inner) == ([signal.SIGHUP, signal.SIGTERM], [signal.SIGTERM])


def test_in_another_thread_nothing_is_handled() -> None:
    found: list[object] = []
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with stopping(threading.Event()):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]
