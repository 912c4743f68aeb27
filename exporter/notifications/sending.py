"""Deliveries out of the queue, one thread for each destination, so that one that hangs delays no other.

Contract: one process at a time sends out of a queue (`NotificationQueue.sender`). Within a destination events go out
in their order, but one that was put off lets later ones pass. Threads end with the process: a delivery that is cut off
stays waiting.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from exporter.notifications.mail import Undelivered
from exporter.notifications.queue import QueueUnusable
from exporter.notifications.schedule import next_attempt
from listener.network.deadlines import Deadlines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.notifications.destinations import Destination
    from exporter.notifications.queue import NotificationQueue

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
REST_S: Final = 5.0
"""Pause after the queue could not be read or written."""
STOP_S: Final = 1.0


class Sender:
    """The threads."""

    def __init__(self, queue: NotificationQueue, destinations: Sequence[Destination]) -> None:
        self._queue = queue
        self._deadlines = Deadlines("notification-deadlines")
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, args=(one,), name=f"notify-{number}", daemon=True)
            for number, one in enumerate(destinations)
        ]

    @property
    def is_alive(self) -> bool:
        """Whether every thread runs."""
        return self._deadlines.is_alive() and all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Begin to deliver."""
        self._deadlines.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Break deliveries under way, and end; a thread that hangs in the system is left behind."""
        self._stop.set()
        self._deadlines.stop()
        until = time.monotonic() + STOP_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))

    def wait_until_empty(self, within_s: float, *, each_once: bool) -> None:
        """Wait until nothing is left to deliver, with `each_once` until nothing is left to be tried now.

        Raises:
            QueueUnusable: The queue cannot be read.
        """
        until = time.monotonic() + within_s
        while self._queue.waiting(time.time() if each_once else None) and time.monotonic() < until:
            self._stop.wait(LOOK_EVERY_S / 10)

    def attempt(self, destination: Destination, now: float) -> bool:
        """Make the attempt at the oldest delivery to a destination that is due, and note how it ended.

        Returns:
            Whether there was one.

        Raises:
            QueueUnusable: The queue cannot be read or written.
        """
        delivery = self._queue.next_due(destination.name, now)
        if delivery is None:
            return False
        said = {"destination": destination.name, "event_id": delivery.event.id, "kind": delivery.event.kind}
        attempts = delivery.attempts + 1
        try:
            destination.deliver(delivery.event, self._deadlines)
        except Undelivered as error:
            if self._stop.is_set():  # cut off by us
                return True
            due, problem = next_attempt(delivery.event.at, attempts, now), str(error)
            if due is None:
                self._queue.give_up(delivery, problem)
                log.error("notification given up", problem=problem, attempts=attempts, **said)  # noqa: TRY400 - a sentence
            else:
                self._queue.put_off(delivery, due, problem)
                log.warning("notification not delivered", problem=problem, next_in_s=round(due - now), **said)
        else:
            self._queue.delivered(delivery)
            log.info("notification delivered", attempts=attempts, **said)
        return True

    def _serve(self, destination: Destination) -> None:
        while not self._stop.is_set():
            try:
                if not self.attempt(destination, time.time()):
                    self._stop.wait(LOOK_EVERY_S)
            except QueueUnusable as error:
                if not self._stop.is_set():
                    log.error("notifications cannot be read or written", problem=str(error))  # noqa: TRY400 - a sentence
                self._stop.wait(REST_S)
