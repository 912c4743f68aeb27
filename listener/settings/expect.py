"""The section `expect`: how often something must arrive from a source, so that its silence is a fault."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from listener.foundation.configuration import Section

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_UNITS = {"m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,5})([mhd])")


def _duration(value: Any) -> Any:
    """Seconds of a time such as `24h`."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        permitted = {"permitted": "a whole number and its unit: m, h or d, such as `24h`"}
        raise PydanticCustomError("duration", "is no time", permitted)
    return value


def _some_time(value: Any) -> Any:
    """A time that is not nothing."""
    if _duration(value)[0] == "0":
        raise PydanticCustomError("duration", "is no time at all", {"permitted": "such as `30m`, `24h` or `7d`"})
    return value


def _days(value: Any) -> Any:
    """Days of the week such as `mon-fri` or `mon,wed,sat`."""
    if not isinstance(value, str) or _numbers(value) is None:
        permitted = {"permitted": f"days ({', '.join(DAYS)}) as `mon-fri` or `mon,wed`"}
        raise PydanticCustomError("days", "are no days of the week", permitted)
    return value


def _numbers(text: str) -> frozenset[int] | None:
    """Days by number, 0 for Monday; None where the text is something else."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        last = last or first
        if first not in DAYS or last not in DAYS:
            return None
        at, end = DAYS.index(first), DAYS.index(last)
        found |= {(at + step) % 7 for step in range((end - at) % 7 + 1)}
    return frozenset(found)


Duration = Annotated[str, BeforeValidator(_duration)]
SourceName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class ExpectSection(Section):
    """How often something must arrive from one source."""

    every: Annotated[str, BeforeValidator(_some_time)] = "24h"
    """Longest time between two arrivals, such as `30m`, `24h` or `7d`."""
    grace: Duration = "0m"
    """Further time before silence is a fault."""
    days: Annotated[str, BeforeValidator(_days)] = Field(default="mon-sun")
    """Days on which something is expected, in local time, such as `mon-fri`; time on other days does not count."""

    @property
    def patience_s(self) -> int:
        """Seconds of silence on expected days after which it is a fault."""
        return sum(int(text[:-1]) * _UNITS[text[-1]] for text in (self.every, self.grace))

    def silence_s(self, last: float, now: float) -> float:
        """Seconds from `last` to `now`, both Unix times, that lie on expected days."""
        expected = _numbers(self.days) or frozenset(range(7))
        at = max(last, now - 60 * 86_400)  # two months of silence are a fault whatever the days
        silent = 0.0
        while at < now:
            day = time.localtime(at)
            midnight = time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))
            until = min(now, max(midnight, at + 1))
            silent += (until - at) * (day.tm_wday in expected)
            at = until
        return silent
