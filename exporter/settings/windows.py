"""Windows of the day within which a PACS may be asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import time

_TIMES: Final = re.compile(r"(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})")


_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day from `begins` up to and without `ends`, in minutes after midnight; it may reach over midnight."""

    begins: int
    ends: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The window that text such as ``20:00-06:00`` says.

        Raises:
            ValueError: It says none; ``24:00`` may be its end.
        """
        found = _TIMES.fullmatch(text.strip())
        if found is None:
            raise ValueError("not HH:MM-HH:MM")
        hours = [int(part) for part in found.groups()]
        begins, ends = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        if hours[1] > 59 or hours[3] > 59 or begins >= _DAY or ends > _DAY or begins % _DAY == ends % _DAY:
            raise ValueError("no window of one day")
        return cls(begins, ends % _DAY)

    def holds(self, moment: time.struct_time) -> bool:
        """Whether a moment, in local time, is in it."""
        minute = moment.tm_hour * 60 + moment.tm_min
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends

    def __str__(self) -> str:
        ends = self.ends or _DAY
        return f"{self.begins // 60:02}:{self.begins % 60:02}-{ends // 60:02}:{ends % 60:02}"
