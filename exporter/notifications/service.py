"""The process `exporter notify run`, and the notification of a backfill at its end.

Contract: the process looks at how everything stands every `LOOK_S`, from outside: it has neither the spool's nor the
ledger's lock, and can neither slow nor end receiving and exporting, and it notices when either daemon is down. The
queue is written before anything is sent. While another process sends out of the same queue, this one ends with a
sentence; a backfill leaves its notification to it.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from exporter.errors import OutOfSpace
from exporter.notifications.destinations import destinations_of
from exporter.notifications.queue import NotificationQueue, QueueUnusable
from exporter.notifications.sending import Sender
from exporter.notifications.watch import FailureNumbers, Watch
from exporter.page.condition import standing_of
from exporter.results.ledger.browsing import LedgerBrowser
from exporter.results.ledger.schema import LedgerUnusable
from exporter.services.context import own_version
from exporter.services.reserve import DiskReserve
from listener.foundation.errors import Unusable
from listener.foundation.locks import LockBusy
from listener.foundation.notify import notify, watchdog_interval_s
from listener.foundation.signals import stopping
from listener.settings.listener import DataFolder
from listener.spool.view import FolderCensus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.notifications.destinations import Destination
    from exporter.notifications.events import Event
    from exporter.settings.settings import Settings

log = structlog.get_logger()

LOOK_S: Final = 2.0
LONGEST_STEP_S: Final = 10.0
"""Time between two looks that counts at most: a machine that slept has not watched."""
FORGET_S: Final = 86_400.0
RESERVE_BYTES: Final = 1 << 20
"""Kept beside the queue, so that a full disk still takes the message about it."""
RUN_END_S: Final = 20.0
"""Time that a backfill waits at its end until its notification is delivered."""


class Notifier:
    """Looks, and the queue that they fill."""

    def __init__(self, settings: Settings, data: Path, queue: NotificationQueue, names: Sequence[str]) -> None:
        """Look at nothing yet.

        Args:
            settings: The configuration in force.
            data: The data folder.
            queue: Where events go.
            names: Destinations.
        """
        self._settings = settings
        self._data = data
        self._queue = queue
        self._names = names
        self._watch = Watch(settings.notify.failures)
        self._census = FolderCensus()
        self._reserve = DiskReserve(Path(f"{DataFolder(data).notifications}.reserve"), RESERVE_BYTES)
        self._looked_at: float | None = None
        self._forgot_at = float("-inf")

    def look(self) -> None:
        """Look at how everything stands, and put what has happened into the queue.

        Raises:
            QueueUnusable: It cannot be; the next look finds the same again.
        """
        now = time.monotonic()
        elapsed_s = 0.0 if self._looked_at is None else min(now - self._looked_at, LONGEST_STEP_S)
        self._looked_at = now
        numbers = failure_numbers(self._data, self._settings.notify.failures.window_s)
        tolerated = (LedgerUnusable, OutOfSpace)
        standing = standing_of(self._data, self._settings, census=self._census, tolerates=tolerated)
        changes = self._watch.look(standing, numbers, self._queue.marks(), elapsed_s)
        if changes:
            wanted = [event for event in changes.events if event.kind in self._settings.notify.events]
            self._record(wanted, changes.marks)
            for event in wanted:
                log.info("notification", kind=event.kind, event_id=event.id)
        self._reserve.fill()
        if now - self._forgot_at >= FORGET_S:
            self._queue.forget_old(time.time())
            self._forgot_at = now

    def _record(self, events: list[Event], marks: dict[str, str | None]) -> None:
        try:
            self._queue.record(events, self._names, marks)
        except QueueUnusable as error:
            if not error.is_full or not self._reserve.release():
                raise
            self._queue.record(events, self._names, marks)


def failure_numbers(data: Path, window_s: float) -> FailureNumbers | None:
    """What the ledger of a data folder has counted; None where it cannot be read."""
    path = data / "exporter.db"
    if not path.is_file():
        return FailureNumbers()
    now = time.time()
    try:
        with closing(LedgerBrowser(path)) as ledger:
            # What a clock that was set back since has dated into the future belongs to the window, too.
            window = ledger.numbers(max(now - window_s, 60.0), now + 10 * 365 * 86_400)
            ever = ledger.numbers(0)  # last: it holds all that the window holds
    except (LedgerUnusable, OutOfSpace):
        return None
    return FailureNumbers(_failed(ever.by_state), _failed(window.by_state), window.total)


def _failed(by_state: Mapping[str, int]) -> int:
    return by_state.get("failed", 0) + by_state.get("quarantined", 0)


def ready_destinations(settings: Settings) -> list[Destination]:
    """The destinations of a configuration, whose files can be used.

    Raises:
        SecretUnusable: One cannot be.
    """
    found = destinations_of(settings.notify, own_version())
    for destination in found:
        destination.check()
    return found


def run(settings: Settings, data: DataFolder, *, stop: threading.Event | None = None) -> int:
    """Watch a data folder and send what happens, until SIGTERM or SIGINT, or until `stop` is set.

    Returns:
        Exit code 0; 1 where a thread has ended that must not.

    Raises:
        Unusable: It cannot start.
    """
    destinations = ready_destinations(settings)
    ended = stop or threading.Event()
    with stopping(ended, ended.set), _sending(data.root, destinations) as (queue, sender):
        notifier = Notifier(settings, data.root, queue, [one.name for one in destinations])
        notify("READY=1", f"STATUS=notifies {len(destinations)} destinations")
        log.info("notifying", destinations=len(destinations))
        pause_s = min(watchdog_interval_s() or LOOK_S, LOOK_S)
        while sender.is_alive:
            try:
                notifier.look()
            except (Unusable, OSError) as error:
                log.error("cannot look at what happens", problem=str(error))  # noqa: TRY400 - a sentence
            notify("WATCHDOG=1")
            if ended.wait(pause_s):
                notify("STOPPING=1")
                return 0
    log.error("a thread of the notifications has ended")
    return 1


def send_waiting(settings: Settings, data: Path, *, within_s: float, each_once: bool = False) -> int:
    """Deliver what waits in the queue of a folder.

    Args:
        settings: The configuration in force.
        data: A data or output folder.
        within_s: Longest time that this takes.
        each_once: Whether a delivery that failed is left to somebody else.

    Returns:
        Number of deliveries that still wait when the time is up.

    Raises:
        Unusable: The queue cannot be used, or another process sends.
    """
    with _sending(data, ready_destinations(settings)) as (queue, sender):
        sender.wait_until_empty(within_s, each_once=each_once)
        return queue.waiting()


def notify_of_run(settings: Settings, output: Path, event: Event) -> int:
    """Put the end of a run into the queue of its output folder, and deliver it unless another process does.

    Returns:
        Number of deliveries that still wait, and that nobody is delivering.

    Raises:
        Unusable: The queue, or a file of the configuration, cannot be used.
    """
    if event.kind not in settings.notify.events:
        return 0
    names = [one.name for one in destinations_of(settings.notify, own_version())]
    with closing(NotificationQueue(output)) as queue:
        queue.record([event], names)
    try:
        return send_waiting(settings, output, within_s=RUN_END_S, each_once=True)
    except _Busy:
        return 0


class _Busy(Unusable):
    """Another process sends."""


@contextmanager
def _sending(data: Path, destinations: Sequence[Destination]) -> Iterator[tuple[NotificationQueue, Sender]]:
    """The queue of a folder, and threads that deliver what is in it."""
    with closing(NotificationQueue(data)) as queue:
        try:
            with queue.sender():
                if given_up := queue.give_up_all_but([one.name for one in destinations]):
                    log.warning("notifications given up: no such destination any more", number=given_up)
                sender = Sender(queue, destinations)
                sender.start()
                try:
                    yield queue, sender
                finally:
                    sender.stop()
        except LockBusy as error:
            hint = "one `exporter notify run` for each data folder is enough"
            raise _Busy(f"notifications {data}", f"another process sends them ({error.holder})", hint) from error
