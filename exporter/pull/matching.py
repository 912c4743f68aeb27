"""Whether an answer is what was asked for (PS3.4 C.2.2.2): a peer that does not know a key answers as if it were empty.

Contract: judges what can be judged without knowing how the peer compares: UIDs, dates and times exactly, codes and
other text without regard to case and outer spaces. Names of persons are left to the peer: it may fold accents and
compare sounds (PS3.4 C.2.2.2.1.1). An empty value in the answer matches no key that says something.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from exporter.pull.keys import MatchingKey

LEFT_TO_THE_PEER: Final = frozenset({"PN", "DT"})


def matches(values: Iterable[tuple[MatchingKey, str]], answer: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether every key is met by the answer.

    Args:
        values: Keys and what they must be.
        answer: Values by keyword; nothing for a keyword that has none.
    """
    return all(_matches(key, value, answer.get(key.keyword, ())) for key, value in values)


def _matches(key: MatchingKey, wanted: str, found: tuple[str, ...]) -> bool:
    if key.vr in LEFT_TO_THE_PEER:
        return True
    values = [value.strip(" \0") for value in found]
    match key.vr:
        case "UI":
            return bool({*wanted.split("\\")} & {*values})
        case "DA":
            return any(_in_range(wanted, value.replace(".", "")) for value in values if value)
        case "TM":
            return any(_in_range(wanted, value.replace(":", "")) for value in values if value)
        case "IS" | "DS" | "US" | "SS" | "UL" | "SL" | "FL" | "FD":
            return any(_same_number(wanted, value) for value in values)
        case _:
            pattern = _pattern(wanted)
            return any(pattern.fullmatch(value) for value in values if value)


def _in_range(wanted: str, found: str) -> bool:
    """Range matching (PS3.4 C.2.2.2.5.1): times are compared to the precision of the shorter one."""
    first, dash, last = wanted.partition("-")
    if not dash:
        shorter = min(len(first), len(found))
        return first[:shorter] == found[:shorter]
    after = not first or found[: len(first)] >= first[: len(found)]
    before = not last or found[: len(last)] <= last[: len(found)]
    return after and before


def _same_number(wanted: str, found: str) -> bool:
    try:
        return float(wanted) == float(found)
    except ValueError:
        return False


def _pattern(wanted: str) -> re.Pattern[str]:
    """Wildcards as PS3.4 C.2.2.2.4: `*` any sequence, `?` one character."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(c, re.escape(c)) for c in wanted.strip()), re.IGNORECASE | re.DOTALL)


def text_of(value: Any) -> tuple[str, ...]:
    """The values of an element as pydicom gives them, as text."""
    if value is None:
        return ()
    # A person's name is no string to pydicom, and goes through its letters.
    if isinstance(value, str) or hasattr(value, "family_name") or not hasattr(value, "__iter__"):
        return (str(value),)
    return tuple(str(one) for one in value)
