"""How everything stands: the one question behind `exporter status`, `exporter status --json`, the page and `/metrics`.

Contract: looks only, at a running exporter's data folder as at a finished backfill's output folder, and answers at
once, whatever the number of instances: it reads the ledger's kept numbers, the files that the two daemons publish in
the spool, and the length of a few folders. An instance is counted in exactly one of pending, active, exported, skipped,
quarantined and failed. Skipped instances and duplicates are no failures.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from exporter.page.disks import DiskQuestions, DiskSize
from exporter.page.problems import problems_of, summary_of, unreadable_ledger
from exporter.page.standing import DiskStanding, Problem, SourceStanding, SpanStanding, Standing
from listener.foundation import locks
from listener.foundation.counters import SLOT_S, SourceArrivals
from listener.spool import view
from listener.spool.view import FolderCensus, SpoolView

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from exporter.results.ledger import Counts
    from exporter.results.ledger.types import Overdue
    from exporter.settings.settings import Settings

FRESH_S: Final = 5.0
"""A daemon that has written its file within this time runs, wherever it is."""
HUNG_S: Final = 60.0
"""A daemon that lives and has not written its file for so long does not respond."""
STRIP_SLOTS: Final = 144
"""Slots of arrivals in a strip: a day."""


def standing_of(
    data: Path,
    settings: Settings | None = None,
    *,
    census: FolderCensus | None = None,
    trend: DiskTrend | None = None,
    tolerates: tuple[type[Exception], ...] = (),
) -> Standing:
    """Look at a data or output folder.

    Args:
        data: The folder.
        settings: The configuration in force; None where it is not known.
        census: Counts of the spool's folders, for a caller that looks again and again.
        trend: Free space of earlier looks, for such a caller.
        tolerates: Errors of the ledger that become the first problem; all else is looked at as usual.

    Raises:
        LedgerUnusable: The ledger cannot be read.
    """
    from exporter.results.ledger.browsing import LedgerBrowser, MinuteNumbers
    from exporter.results.ledger.types import Counts, Overdue

    now = time.time()
    disks, unanswered = disks_of(places_of(data, settings), trend)
    # The spool first: an instance that ends meanwhile is then counted once more rather than missed.
    spool = None if "spool" in unanswered else SpoolView.read(data / "spool", census)
    path = data / "exporter.db"
    counts, overdue, hour, day = Counts(), Overdue(), MinuteNumbers(), MinuteNumbers()
    worst: tuple[Problem, ...] = ()
    try:
        if "ledger" not in unanswered and path.is_file():
            with closing(LedgerBrowser(path)) as ledger:
                counts, overdue = ledger.counts(), ledger.overdue(now)
                hour, day = ledger.numbers(now - 3600), ledger.numbers(now - 86_400)
    except tolerates as error:
        worst = (unreadable_ledger(error),)
    standing = replace(
        _counted(spool, counts, overdue),
        now=round(now, 3),
        version=_version(),
        is_live=spool is not None,
        daemons={} if spool is None else _daemons(spool, now),
        notifier=None if spool is None or settings is None else _notifier(data, settings),
        oldest_s=None if spool is None or spool.oldest is None else max(0.0, round(now - spool.oldest, 1)),
        sources=() if spool is None else sources_of(spool.listener, settings, now),
        last_hour=SpanStanding.of(hour),
        last_day=SpanStanding.of(day),
        disks=disks,
        unanswered=unanswered,
        settings=None if settings is None else masked(settings.model_dump(mode="json")),
    )
    problems = worst + problems_of(standing, settings)
    return replace(standing, problems=problems, summary=summary_of(standing, problems))


def _counted(spool: SpoolView | None, counts: Counts, overdue: Overdue) -> Standing:
    """The numbers of instances."""
    active = {source: number for (state, source), number in counts.by_source.items() if state == "active"}
    deferred = {source: number for (state, source), number in counts.by_source.items() if state == "deferred"}
    waiting = sum(deferred.values()) if spool is None else deferred.get("folder", 0)
    if spool is not None:
        waiting += max(0, spool.waiting - active.get("spool", 0))
    reasons: dict[str, dict[str, int]] = {}
    for (state, reason), count in counts.by_reason.items():
        name = {"deferred": "pending"}.get(str(state), str(state))
        if reason and (spool is None or name != "quarantined"):
            reasons.setdefault(name, {})[reason] = count
    if spool is not None and spool.quarantined:
        reasons["quarantined"] = spool.quarantined
    return Standing(
        pending=waiting,
        active=sum(active.values()),
        exported=counts.exported,
        skipped=counts.skipped,
        quarantined=counts.quarantined if spool is None else sum(spool.quarantined.values()),
        failed=counts.failed,
        duplicates=counts.duplicates,
        conflicts=counts.conflicts,
        rejected=counts.rejected,
        reasons={state: dict(sorted(found.items())) for state, found in sorted(reasons.items())},
        overdue=overdue.late + overdue.too_far,
        receiving=0 if spool is None else spool.receiving,
        paused=None if spool is None else spool.paused,
        memory=None if spool is None else spool.memory,
        listener=None if spool is None else spool.listener,
    )


# -- daemons ---------------------------------------------------------------------------------------------------------


def _daemons(spool: SpoolView, now: float) -> dict[str, str]:
    written = {"listener": spool.listener, "exporter": spool.exporter}
    return {name: _life(spool.root, name, (facts or {}).get("updated"), now) for name, facts in written.items()}


def _life(root: Path, name: str, updated: Any, now: float) -> str:
    """Whether a daemon runs, from the time at which it last wrote its file and the process that its lock file names."""
    age_s = abs(now - updated) if isinstance(updated, int | float) else HUNG_S
    if age_s < FRESH_S:
        return "running"
    if not view.holder_lives(root, name):
        return "stopped"
    return "running" if age_s < HUNG_S else "hung"


def _notifier(data: Path, settings: Settings) -> str | None:
    from listener.settings.listener import DataFolder  # heavy, and loaded already where there are settings

    if not settings.notify.is_on:
        return None
    return "running" if locks.is_held(locks.lock_file_of(DataFolder(data).notifications)) else "stopped"


# -- sources ---------------------------------------------------------------------------------------------------------


def sources_of(listener: Mapping[str, Any] | None, settings: Settings | None, now: float) -> tuple[SourceStanding, ...]:
    """Every source that the listener counts or the configuration expects something from."""
    counted = (listener or {}).get("sources")
    arrivals: dict[str, SourceArrivals] = {}
    for name, one in counted.items() if isinstance(counted, dict) else ():
        if (read := SourceArrivals.read(one)) is not None:
            arrivals[str(name)] = read
    expected = {} if settings is None else settings.expect
    known_since = (listener or {}).get("started")
    found = []
    for name in sorted({*arrivals, *expected}, key=lambda name: (name == "other", name)):
        one = arrivals.get(name, SourceArrivals())
        expect, silent_s = expected.get(name), None
        since = one.last or (known_since if isinstance(known_since, int | float) else None)
        if expect is not None and since is not None:
            silence_s = expect.silence_s(since, now)
            silent_s = round(silence_s) if silence_s > expect.patience_s else None
        slot = int(now) // SLOT_S
        strip = tuple(one.slots.get(slot - back, 0) for back in range(STRIP_SLOTS - 1, -1, -1))
        every = None if expect is None else expect.every
        found.append(
            SourceStanding(name, one.last or None, sum(strip[-6:]), sum(strip), strip, one.number, every, silent_s)
        )
    return tuple(found)


# -- disks -----------------------------------------------------------------------------------------------------------


def places_of(data: Path, settings: Settings | None) -> dict[str, Path]:
    """Folders of received files, media, lines and ledger, by what is in them."""
    places = {"spool": data / "spool", "media": data / "media", "metadata": data, "ledger": data}
    if settings is not None:
        places["media"] = settings.media.dir or places["media"]
        places["metadata"] = settings.metadata.file.parent if settings.metadata.file else places["metadata"]
    return places


class DiskTrend:
    """Free space of file systems over the last hour, and when they are full at that rate."""

    SPAN_S: Final = 3600.0
    LEAST_S: Final = 900.0
    """Time that must have passed before a rate is known."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[float, int]]] = {}
        self.questions = DiskQuestions()
        """Open questions: a caller that looks again and again asks a disk that does not answer once."""

    def full_in_s(self, device: int, free_bytes: int) -> float | None:
        """Seconds until the file system is full; None where it does not fill, or that is not known yet."""
        now = time.monotonic()
        seen = self._seen.setdefault(device, [])
        if not seen or now - seen[-1][0] >= self.SPAN_S / 120:
            seen.append((now, free_bytes))
            while seen[0][0] < now - self.SPAN_S:
                del seen[0]
        since, before = seen[0]
        if now - since < self.LEAST_S or before <= free_bytes:
            return None
        return free_bytes * (now - since) / (before - free_bytes)


def disks_of(places: Mapping[str, Path], trend: DiskTrend | None) -> tuple[tuple[DiskStanding, ...], tuple[str, ...]]:
    """The file systems under these folders, each once, and the folders whose file system does not answer."""
    sizes, silent = (trend.questions if trend is not None else DiskQuestions()).ask(places.values())
    on: dict[int, list[str]] = {}
    by_device: dict[int, DiskSize] = {}
    for name, path in places.items():
        if (size := sizes.get(path)) is not None:
            on.setdefault(size.device, []).append(name)
            by_device[size.device] = size
    disks = tuple(
        DiskStanding(tuple(names), size.free_bytes, size.total_bytes, full_in_s)
        for device, names in on.items()
        for size in (by_device[device],)
        for full_in_s in (trend.full_in_s(device, size.free_bytes) if trend is not None else None,)
    )
    return disks, tuple(name for name, path in places.items() if path in silent)


# -- settings --------------------------------------------------------------------------------------------------------

MASK: Final = "********"
_SECRET: Final = ("token", "password", "passcode", "secret", "key", "username")


def masked(values: Any, name: str = "") -> Any:
    """The values with every secret replaced by asterisks; paths of files that hold secrets stay."""
    if isinstance(values, dict):
        found = {key: masked(value, str(key)) for key, value in values.items()}
        # The path of a webhook is a secret at many services.
        return found | {"url": _only_host(found["url"])} if name == "webhooks" and found.get("url") else found
    if isinstance(values, list | tuple):
        return [masked(value, name) for value in values]
    is_secret = any(word in name.lower() for word in _SECRET) and not name.endswith(("_file", "_dir"))
    return MASK if is_secret and isinstance(values, str) and values else _without_credentials(values)


def _without_credentials(value: Any) -> Any:
    """An address without the user and password in it (RFC 3986 3.2.1)."""
    if not isinstance(value, str) or "://" not in value or "@" not in value:
        return value
    scheme, _, rest = value.partition("://")
    before, slash, path = rest.partition("/")
    return f"{scheme}://{MASK}@{before.rpartition('@')[2]}{slash}{path}" if "@" in before else value


def _only_host(address: str) -> str:
    """An address without what follows the host."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{MASK}"


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0 (not installed)"
