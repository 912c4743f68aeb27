"""Pauses between attempts that double up to a longest one."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DOUBLINGS = 64
"""More would leave the range of a float, where thousands of failures are counted."""


@dataclass(slots=True)
class Backoff:
    """How long to wait after failures: `first_s`, twice that, and so on, but never more than `longest_s`."""

    first_s: float
    longest_s: float
    failures: int = 0
    """Failures since the last success."""

    def next_pause(self) -> float:
        """Count one more failure.

        Returns:
            Seconds to wait for it.
        """
        self.failures += 1
        return self.pause_after(self.failures)

    def pause_after(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, for a caller that keeps the count itself."""
        doublings = min(max(failures - 1, 0), _MOST_DOUBLINGS)
        return float(min(self.first_s * 2**doublings, self.longest_s))

    def reset(self) -> None:
        """Begin with the first pause again: there was a success."""
        self.failures = 0
