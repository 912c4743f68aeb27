"""Where an association's thread runs: threads that take small instances one after another gather on one processor.

One thread at a time runs Python code. A small instance is a dozen short system calls, and at each of them the
interpreter goes over to the thread of another association. If that one waits on another processor, handing over means
an interrupt there, which costs more than the work (above all in a virtual machine); on the same one it is a switch.
Large instances spend their time in the kernel, beside the interpreter: their threads use every processor.

Contract: advice to the scheduler, given for the calling thread alone; where there is one processor, or the system does
not permit it, nothing happens. Raises nothing.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

SMALL_BYTES: Final = 1 << 20
SMALL_IN_A_ROW: Final = 16
"""So many small instances, one after another, make it likely that more will come."""


class CpuAffinity:
    """The place of one thread; used by that thread only."""

    def __init__(self, number: int) -> None:
        """A place in the process of this number: the same for all its threads, another one for the next process."""
        self._everywhere = os.sched_getaffinity(0)
        self._here = {sorted(self._everywhere)[number % len(self._everywhere)]}
        self._in_a_row = 0
        self.is_gathered = False

    def received(self, size_bytes: int) -> None:
        """So much of an instance has come, or all of it: gather or spread."""
        if size_bytes > SMALL_BYTES:
            self._in_a_row = 0
            if self.is_gathered:
                self.is_gathered = False
                _move(self._everywhere)
            return
        self._in_a_row += 1
        if self._in_a_row == SMALL_IN_A_ROW and len(self._everywhere) > 1:
            self.is_gathered = _move(self._here)


def _move(processors: set[int]) -> bool:
    with suppress(OSError):
        os.sched_setaffinity(0, processors)  # 0 is the calling thread, not the process: sched_setaffinity(2)
        return True
    return False
