"""Names of spooled files: made here, in order of arrival, never from the wire."""

from __future__ import annotations

import random
import re
import threading
import time
from typing import Final

NAME: Final = re.compile(r"[0-9]{20}-[0-9a-f]{16}\.dcm")
"""Time of arrival in nanoseconds, 64 random bits: sorted names are in order of arrival."""
TIME_DIGITS: Final = 20


class Names:
    """Names in strictly rising order, also when the clock is set back while we run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ns = 0
        # Against two processes that make a name in the same nanosecond, not against guessing: the folders are private.
        self._chance = random.Random().getrandbits  # noqa: S311

    def make(self) -> str:
        """A new name."""
        return f"{self._now():020d}-{self._chance(64):016x}.dcm"

    def renew(self, name: str) -> str:
        """The same name at the present time."""
        return f"{self._now():020d}{name[TIME_DIGITS:]}"

    def _now(self) -> int:
        with self._lock:
            self._last_ns = max(time.time_ns(), self._last_ns + 1)
            return self._last_ns
