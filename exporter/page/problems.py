"""What is wrong, in sentences for the people who run this: the cause first, then what to do.

Contract: a pure function of what was found. The worst comes first; nothing here holds a name or a value that a sender
chose.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Literal

from exporter.page.standing import Problem
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.page.standing import Standing
    from exporter.settings.settings import Settings

LONG_WAIT_S: Final = 3600.0
"""A queue whose oldest instance has waited for so long is worth a look."""
FEW_DAYS: Final = 30
"""A certificate that expires within so many days."""
DISK_WORDS: Final = frozenset({"paused", "refusing", "disk_low", "disk_silent"})
"""Problems of a disk that is below a limit, or does not answer."""


def problems_of(standing: Standing, settings: Settings | None) -> tuple[Problem, ...]:
    """Everything that is wrong, faults first."""
    found = [
        *_daemons(standing),
        *_space(standing, settings),
        *_silence(standing),
        *_queue(standing),
        *_failures(standing),
        *_certificates(standing),
        *_notifier(standing),
    ]
    return tuple(sorted(found, key=lambda problem: problem.level != "fault"))


def unreadable_ledger(error: Exception) -> Problem:
    """The problem that the ledger cannot be read."""
    cause = getattr(error, "cause", "") or "the disk is full"
    hint = getattr(error, "hint", "") or "free some space"
    return Problem("ledger", "fault", f"The ledger cannot be read: {cause}.", f"{hint[:1].upper()}{hint[1:]}.")


def summary_of(standing: Standing, problems: tuple[Problem, ...]) -> str:
    """Whether all is well, else the worst thing that is wrong and the number of others."""
    if not problems:
        waiting = f", {count_of(standing.pending, 'instance')} waiting" if standing.pending else ""
        runs = "receiving and exporting" if standing.is_live else "nothing is left to do"
        return f"All is well: {runs}{waiting}."
    others = len(problems) - 1
    more = f" ({count_of(others, 'more problem')} below.)" if others else ""
    return f"{problems[0].what}{more}"


def count_of(number: int, noun: str) -> str:
    """A number and its noun in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def span_of(seconds: float) -> str:
    """A time in words, as exact as anybody needs it."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * size or (unit != "day" and seconds >= size):
            return count_of(round(seconds / size), unit)
    return count_of(round(seconds), "second")


def _daemons(standing: Standing) -> Iterator[Problem]:
    what = {
        "listener": ("The listener", "nothing is received", "dicom-listener", "`listener`"),
        "exporter": ("The exporter", "what arrives waits, nothing is exported", "dicom-exporter", "`exporter run`"),
    }
    for name, state in standing.daemons.items():
        subject, effect, unit, command = what[name]
        if state == "stopped":
            do = f"Start it: `systemctl start {unit}`, or {command} with the same --data; its log says why it ended."
            yield Problem(f"{name}_stopped", "fault", f"{subject} is not running: {effect}.", do)
        elif state == "hung":
            do = f"Restart it: `systemctl restart {unit}`; nothing that was acknowledged is lost."
            yield Problem(f"{name}_hung", "fault", f"{subject} does not respond: {effect}.", do)


def _space(standing: Standing, settings: Settings | None) -> Iterator[Problem]:
    do = "Free some space or enlarge the disk; work goes on by itself."
    gauges = (standing.listener or {}).get("gauges")
    room = gauges.get("room") if isinstance(gauges, dict) else None
    if standing.paused is not None:
        yield Problem("paused", "fault", f"The exporter pauses: {standing.paused}.", do)
    if room and standing.daemons.get("listener") == "running":
        effect = "associations are rejected" if room == SpaceLevel.REJECT_ASSOCIATIONS else "instances are refused"
        yield Problem("refusing", "fault", f"The listener is short of disk space: {effect}, and senders try later.", do)
    if standing.unanswered:
        where = " and ".join(standing.unanswered)
        wait = "Check the disk, or the network and the server behind it; work goes on by itself once it answers."
        yield Problem("disk_silent", "fault", f"The disk of {where} does not answer.", wait)
    for disk in standing.disks:
        where = " and ".join(disk.places)
        low = 0 if settings is None else _limit(disk.places, settings)
        is_said = standing.paused is not None or bool(room)
        if disk.free_bytes == 0 or (standing.is_live and disk.free_bytes < low and not is_said):
            what = f"The disk of {where} is nearly full: {size_of(disk.free_bytes)} free."
            yield Problem("disk_low", "fault", what, do)
        elif disk.full_in_s is not None and disk.full_in_s < 86_400:
            what = f"The disk of {where} is full in {span_of(disk.full_in_s)} at the present rate."
            yield Problem("disk_filling", "attention", what, "Free some space or enlarge the disk.")
    if standing.memory is not None:
        do = "Give the machine more memory, or set `num_workers` lower."
        yield Problem("memory", "attention", f"Memory is short: {standing.memory}.", do)


def _limit(places: tuple[str, ...], settings: Settings) -> int:
    """Free bytes under which something of ours stops, on the disk of these places."""
    marks = [settings.spool.refuse_below_bytes] if "spool" in places else []
    return max([*marks, settings.room.pause_below_bytes])


def _silence(standing: Standing) -> Iterator[Problem]:
    for source in standing.sources:
        if source.silent_s is not None:
            since = f"since {day_of(source.last)}" if source.last else "since the listener started"
            what = f"{source.name} is silent {since}; something is expected every {source.expected_every}."
            do = f"Check the sender and the network between it and this machine; `expect.{source.name}` says when."
            yield Problem("silent", "fault", what, do)


def _queue(standing: Standing) -> Iterator[Problem]:
    if standing.overdue:
        what = f"{count_of(standing.overdue, 'instance')} should have been tried again by now."
        yield Problem("overdue", "attention", what, "`exporter failures` says why; is the clock right?")
    if standing.oldest_s is not None and standing.oldest_s >= LONG_WAIT_S:
        what = f"The oldest of {count_of(standing.pending, 'waiting instance')} came {span_of(standing.oldest_s)} ago."
        do = "More arrives than is exported, or instances are put off: give it more processors, or look at the log."
        yield Problem("queue_old", "attention", what, do)
    # What was under way when a backfill was killed is under way until it is started again.
    if not standing.is_live and (left := standing.pending + standing.active):
        what = f"{count_of(left, 'instance')} of this folder {'is' if left == 1 else 'are'} not exported yet."
        yield Problem("unfinished", "attention", what, "If no backfill runs, start the same `exporter backfill` again.")


def _failures(standing: Standing) -> Iterator[Problem]:
    if number := standing.failed + standing.quarantined:
        what = f"{count_of(number, 'instance')} failed and need{'s' if number == 1 else ''} a look."
        do = "See the failures by reason: each says what to do, and can be tried again."
        yield Problem("failures", "attention", what, do)


def _certificates(standing: Standing) -> Iterator[Problem]:
    gauges: Any = (standing.listener or {}).get("gauges")
    days = gauges.get("certificate_days_left") if isinstance(gauges, dict) else None
    if isinstance(days, int) and days < FEW_DAYS:
        when = f"expires in {count_of(days, 'day')}" if days >= 0 else "has expired"
        level: Literal["fault", "attention"] = "attention" if days >= 0 else "fault"
        yield Problem("certificate", level, f"The certificate of the listener {when}.", "Renew it, then reload.")


def _notifier(standing: Standing) -> Iterator[Problem]:
    if standing.notifier == "stopped":
        do = "Start it: `systemctl start dicom-notify`, or `exporter notify run` with the same --data and --config."
        yield Problem("notifier_stopped", "attention", "`notify` names destinations, and nothing sends to them.", do)


def size_of(number: float) -> str:
    """A number of bytes as people read it."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError  # pragma: no cover - the last unit takes everything


def day_of(when: float | None) -> str:
    """A Unix time in words, in local time."""
    return "never" if when is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
