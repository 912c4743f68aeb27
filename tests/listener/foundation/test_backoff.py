"""Back-off: pauses that double up to a longest one."""

from __future__ import annotations

from listener.foundation.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(first_s=1.0, longest_s=5.0)
    assert [backoff.next_pause() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_success_begins_with_the_first_pause_again() -> None:
    backoff = Backoff(first_s=0.5, longest_s=30.0)
    assert [backoff.next_pause() for _ in range(3)] == [0.5, 1.0, 2.0]
    backoff.reset()
    assert backoff.next_pause() == 0.5


def test_a_count_kept_elsewhere_gives_the_same_pauses() -> None:
    backoff = Backoff(first_s=1.0, longest_s=60.0)
    assert [backoff.pause_after(failures) for failures in (1, 2, 3, 7)] == [1.0, 2.0, 4.0, 60.0]


def test_no_number_of_failures_is_too_large() -> None:
    assert Backoff(first_s=1.0, longest_s=60.0).pause_after(1_000_000) == 60.0


def test_a_first_pause_above_the_longest_is_cut() -> None:
    assert Backoff(first_s=10.0, longest_s=5.0).next_pause() == 5.0
