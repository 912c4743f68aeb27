"""`exporter status`: how everything stands, for people and for monitoring.

Contract: looks only, at a running exporter's data folder as at a finished backfill's output folder; answers at once.
What it prints is what the page shows: both are made of `exporter.page.condition`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exporter.commands import ExitCode
from exporter.commands.options import DataOptions, existing, in_words
from exporter.page.condition import standing_of
from exporter.page.problems import day_of, size_of, span_of
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.page.standing import SpanStanding, Standing

_STATES = (
    "pending",
    "active",
    "exported",
    "skipped",
    "quarantined",
    "failed",
    "duplicates",
    "conflicts",
    "rejected",
)
MARKS = " .:-=+*#%@"
"""Marks of a strip of arrivals, from none to the most."""


def status(
    places: DataOptions | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Say whether all is well, else what is wrong and what to do; show numbers, sources, failures and disks."""
    places = places or DataOptions()
    settings = None if places.config is None else places.settings()
    with in_words():
        standing = standing_of(existing(places.data), settings)
    print(json.dumps(standing.as_json()) if as_json else "\n".join(map(printable, _page(standing))))
    return ExitCode.DONE


def _page(standing: Standing) -> Iterator[str]:
    """The status for people, line by line: what is wrong first, then numbers."""
    yield standing.summary
    for problem in standing.problems:
        yield f"  {problem.what}" if len(standing.problems) > 1 else ""
        yield f"    -> {problem.do}"
    yield ""
    for state in _STATES:
        why = ", ".join(f"{reason} {count}" for reason, count in standing.reasons.get(state, {}).items())
        yield f"{state:<12}{getattr(standing, state):>10}" + (f"   {why}" if why else "")
    if standing.oldest_s is not None:
        yield f"oldest      {span_of(standing.oldest_s):>10}   waiting for so long"
    if standing.overdue:
        yield f"overdue     {standing.overdue:>10}   of the pending: `exporter failures` says why"
    if standing.paused is not None:
        yield f"exporter    pauses: {standing.paused}"
    if standing.memory is not None:
        yield f"exporter    {standing.memory}"
    yield from (f"{name:<12}{state}" for name, state in standing.daemons.items())
    yield f"last hour   {_span(standing.last_hour)}"
    yield f"last day    {_span(standing.last_day)}"
    for source in standing.sources:
        heard = "never" if source.last is None else f"{span_of(standing.now - source.last)} ago"
        hours = [sum(source.strip[at : at + 6]) for at in range(0, len(source.strip), 6)]
        yield f"source      {source.name}: last {heard}; {source.hour} in the last hour, {source.day} in 24 h"
        yield f"            |{_strip(hours)}| by hour, now at the right"
    for disk in standing.disks:
        full = "" if disk.full_in_s is None else f", full in {span_of(disk.full_in_s)} at this rate"
        free = f"{size_of(disk.free_bytes)} of {size_of(disk.total_bytes)} free{full}"
        yield f"disk        {free} ({', '.join(disk.places)})"
    yield f"version     {standing.version}, at {day_of(standing.now)}"
    if standing.quarantined or standing.failed:
        yield "`exporter failures` says what failed and why."


def _strip(numbers: list[int]) -> str:
    most = max(numbers, default=0)
    return "".join(MARKS[-(-number * (len(MARKS) - 1) // most) if most else 0] for number in numbers)


def _span(span: SpanStanding) -> str:
    """One line about a span of time."""
    from exporter.results.ledger.browsing import latency_words

    done = f"{span.exported} exported, {span.skipped} skipped, {span.failed} failed; {size_of(span.bytes)}"
    if span.half_within_s is None:
        return done
    half, most = latency_words(span.half_within_s), latency_words(span.most_within_s)
    return f"{done}; half of them within {half} of arrival, 95 % within {most}"
