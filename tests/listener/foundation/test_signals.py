"""Signals: the first one asks a process to stop, and what was handled before is handled so again."""

from __future__ import annotations

import signal
import threading

import pytest

from listener.foundation.signals import STOP, handling, stopping


@pytest.mark.parametrize("number", STOP)
def test_the_first_signal_sets_the_event_and_the_second_interrupts(number: signal.Signals) -> None:
    stop = threading.Event()
    with stopping(stop):
        signal.raise_signal(number)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_a_caller_says_what_a_second_signal_does() -> None:
    stop, now = threading.Event(), threading.Event()
    with stopping(stop, now.set):
        signal.raise_signal(signal.SIGTERM)
        assert (stop.is_set(), now.is_set()) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert now.is_set()


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
