"""Further processes that receive: one Python interpreter serves one processor, so a listener has several.

Connections are accepted, counted and turned away in the listener's own process; one that was admitted is served there
or handed over, as an open descriptor, to the process that serves fewest. A process of the pool is sent what it has to
know (settings, space level), and reports what becomes of its connections and what it counted.

Contract: the pool is an addition. Without it, or while it starts, or where it cannot, the listener's own process serves
everybody. A process of the pool that ends costs its own associations, whose senders got no answer; what they had begun
is deleted, and another process is started. When the listener's process ends, however, the pool ends.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.durable import write_all
from listener.foundation.processes import ChildProcess
from listener.sources.dimse.processes import messages
from listener.sources.dimse.processes.messages import ChannelClosed, DescriptorChannel, PoolMessage
from listener.spool.names import MARK_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from listener.network.connection_slots import ConnectionSlot
    from listener.settings.listener import ListenerSettings
    from listener.sources.contract import Surroundings

log = structlog.get_logger()

TICK_S: Final = 0.5
KILLED_WITHIN_S: Final = 5.0
"""A process that is killed while it waits for a disk ends when the disk answers."""


@dataclass(slots=True)
class PoolTiming:
    """How long a process may be silent; processes report once a second. Changes count from the next look on."""

    busy_s: float = 3.0
    """A process that is silent for so long gets no connection."""
    silent_s: float = 30.0
    """A process that is silent for so long hangs; it is ended."""


class ReceiverPool:
    """The other receiving processes of one listener; there may be none."""

    def __init__(
        self,
        size: int,
        surroundings: Surroundings,
        *,
        on_leave: Callable[[], None],
        on_declined: Callable[[ConnectionSlot], None],
        on_ended: Callable[[int], None],
        timing: PoolTiming | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            size: How many processes there are beside ours.
            surroundings: Ours; theirs are made like them.
            on_leave: Called whenever associations that were handed over have ended.
            on_declined: Called with a connection that was handed over and came back, for want of threads.
            on_ended: Called with the mark of a process that ended by itself, once nothing of it runs.
            timing: Other times than those of `PoolTiming`.
        """
        self._counters = surroundings.counters
        self._on_leave = on_leave
        self._on_declined = on_declined
        timing = timing or PoolTiming()
        self._processes = [_PoolProcess(number, surroundings, on_ended, timing) for number in range(1, size + 1)]
        self._stopping = threading.Event()
        self._hearing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="pool", daemon=True)
        self._last_tick = 0.0

    def start(self, settings: ListenerSettings) -> None:
        """Start the processes."""
        self.apply_settings(settings)
        self._last_tick = time.monotonic()
        for process in self._processes:
            process.start()
        self._count()
        if self._processes:
            self._thread.start()

    def wait(self, within_s: float) -> None:
        """Wait until every process can serve or has failed to, or so long."""
        until = time.monotonic() + within_s
        while not all(process.is_settled for process in self._processes) and time.monotonic() < until:
            self._stopping.wait(0.01)

    def apply_settings(self, settings: ListenerSettings) -> None:
        """Settings for the associations that are handed over from now on."""
        content = json.dumps(settings.model_dump(mode="json", include={"listener", "spool", "log"})).encode("ascii")
        for process in self._processes:
            process.apply_settings(content)

    def is_alive(self) -> bool:
        """Whether the thread that supervises the processes is running."""
        supervises = self._thread.is_alive() and time.monotonic() - self._last_tick < 20 * TICK_S
        return supervises or not self._processes

    def hand_over(self, slot: ConnectionSlot, own: int) -> bool:
        """Hand a connection over, unless we serve no more than any of the others ourselves.

        Args:
            slot: The connection's.
            own: How many associations our own process serves.

        Returns:
            Whether it was handed over.
        """
        least = min(self._processes, key=lambda process: process.load, default=None)
        return least is not None and least.load < own and least.hand_over(slot)

    def tell_to_stop(self, within_s: float) -> None:
        """Have every process finish what is under way, for so long, and then end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for process in self._processes:
            process.tell_to_stop(within_s)

    def join(self, until: float) -> int:
        """See that every process ends.

        Args:
            until: When those that did not finish are ended, on the monotonic clock.

        Returns:
            How many associations were cut off.
        """
        return sum(process.terminate(until) for process in self._processes)

    def catch_up(self) -> None:
        """Take in what the processes have reported until now."""
        events = _PoolEvents()
        with self._hearing:
            for process in self._processes:
                process.read_messages(events)
        for slot in events.declined:
            self._on_declined(slot)
        if events.has_released:
            self._on_leave()

    def _count(self) -> None:
        """How many processes serve now, the listener's own among them."""
        self._counters.gauge("receiving_processes", 1 + sum(process.is_ready for process in self._processes))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._last_tick = time.monotonic()
            self._wait_for_messages()
            self.catch_up()
            for process in self._processes:
                process.supervise()
            self._count()

    def _wait_for_messages(self) -> None:
        """Wait until a process reports something, for a tick."""
        waiting = select.poll()
        for process in self._processes:
            if (descriptor := process.fileno()) >= 0:
                waiting.register(descriptor, select.POLLIN)
        waiting.poll(TICK_S * 1000)


@dataclass(slots=True)
class _PoolEvents:
    """What processes reported that others have to know."""

    has_released: bool = False
    """Whether associations ended."""
    declined: list[ConnectionSlot] = field(default_factory=list)
    """Connections that could not be served."""


class _PoolProcess:
    """One process, over all its lives, as we see it."""

    def __init__(
        self, number: int, surroundings: Surroundings, on_ended: Callable[[int], None], timing: PoolTiming
    ) -> None:
        self._number = number
        self._on_ended = on_ended
        self._surroundings = surroundings
        self._timing = timing
        self._lock = threading.Lock()
        self._mark = (surroundings.spool.mark + number) % (1 << MARK_BITS)
        self._channel: DescriptorChannel | None = None
        self._child = ChildProcess("listener.sources.dimse.processes.child")
        self._slots: dict[int, ConnectionSlot] = {}
        self._next_slot = 0
        self._settings = b""
        self._is_up_to_date = False
        self._cut_off: int | None = None
        self._space: messages.SpaceChanged | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can serve."""
        return self._child.is_ready and self._channel is not None

    @property
    def is_settled(self) -> bool:
        """Whether it can serve, or ended."""
        return self._child.is_ready or self._channel is None

    @property
    def load(self) -> float:
        """Number of active associations; infinity while the process is not ready, is silent or has stale settings."""
        can_serve = self.is_ready and self._is_up_to_date and self._child.silent_s < self._timing.busy_s
        return len(self._slots) if can_serve else float("inf")

    def fileno(self) -> int:
        """Descriptor of the channel; -1 where there is none."""
        channel = self._channel  # the thread that admits connections may hear of its end meanwhile
        return channel.fileno() if channel is not None else -1

    def start(self) -> None:
        """Start the process and send it what it needs."""
        try:
            channel, theirs = DescriptorChannel.pair()
            with theirs:
                try:
                    self._child.start(str(theirs.fileno()), pass_fds=(theirs.fileno(),))
                except OSError:
                    channel.close()
                    raise
        except OSError as error:
            log.warning("a receiving process cannot be started", problem=error.strerror)
            self._child.postpone()
            return
        spool, state = self._surroundings.spool.root, self._surroundings.state
        number = os.getpid() + self._number
        channel.send(messages.StartReceiving(os.fsencode(spool), os.fsencode(state), number, self._mark), wait=False)
        self._is_up_to_date, self._cut_off, self._space = False, None, None
        self._channel = channel  # from here on others may send, too
        self._send_news()

    def apply_settings(self, settings: bytes) -> None:
        """Other settings from now on, as JSON."""
        with self._lock:
            self._settings = settings
            self._send_settings()

    def hand_over(self, slot: ConnectionSlot) -> bool:
        """Hand a connection over; False where that cannot be done now."""
        with self._lock:
            channel = self._channel
            if channel is None or not self._child.is_ready:
                return False
            self._next_slot += 1
            number = self._next_slot
            self._slots[number] = slot
            self._send_space()
            if channel.send(messages.ServeConnection(number, slot.host), slot.sock.fileno(), wait=False):
                return True
            del self._slots[number]
            return False

    def read_messages(self, events: _PoolEvents) -> None:
        """Take in what it has reported until now."""
        channel = self._channel
        if channel is None:
            return
        try:
            while (received := channel.receive(0)) is not None:
                self._child.hear()
                self._take_in(received[0], events)
        except ChannelClosed as closed:
            if isinstance(closed, messages.MessageRefused):
                log.error("a receiving process sent what is no message", process=self._number, problem=str(closed))  # noqa: TRY400 - no traceback
            events.has_released |= self._lose()

    def supervise(self) -> None:
        """Send it what it does not know yet; start it again if it ended; end it if it hangs."""
        if self._child.is_due:
            self.start()
        elif self._child.exists and self._channel is None:  # the thread that admits connections may have heard of it
            self._clear_up()
        elif self._child.exists:
            self._send_news()
            if self._child.silent_s > self._timing.silent_s:
                log.error("a receiving process gives no sign of life: ended", process=self._number)
                self._child.kill()
                self._child.hear()  # its last: the channel ends

    def tell_to_stop(self, within_s: float) -> None:
        """Have it finish."""
        if self._channel is not None:
            self._channel.send(messages.StopReceiving(within_s), wait=False)

    def terminate(self, until: float) -> int:
        """Read its last messages, and see that it ends.

        Returns:
            How many of its associations were cut off.
        """
        channel = self._channel
        events = _PoolEvents()
        with suppress(ChannelClosed):
            while channel is not None and (left_s := until + 2.0 - time.monotonic()) > 0:
                received = channel.receive(left_s)
                if received is not None:
                    self._take_in(received[0], events)
        self._child.end(max(0.1, until + 2.0 - time.monotonic()), KILLED_WITHIN_S)
        if channel is not None:
            channel.close()
        cut_off = len(self._slots) if self._cut_off is None else self._cut_off
        self._release_all(events.declined)
        self._channel = None
        return cut_off

    def _take_in(self, message: PoolMessage, events: _PoolEvents) -> None:
        """Take in one message."""
        match message:
            case messages.ReceiverAlive(lacks_settings):
                self._child.hear(is_ready=True)
                self._is_up_to_date &= not lacks_settings
            case messages.ReceiverCounted(counts):
                self._surroundings.counters.add_each(**counts)
            case messages.ConnectionRequested(number):
                if slot := self._slots.get(number):
                    slot.mark_requested()
                    slot.sock.close()  # ours: from now on the connection is closed when the other process closes it
            case messages.ConnectionReleased(number):
                if slot := self._slots.pop(number, None):
                    _release(slot)
                    events.has_released = True
            case messages.ConnectionDeclined(number):
                if slot := self._slots.pop(number, None):
                    events.declined.append(slot)
            case messages.ReceiverStopped(cut_off):
                self._cut_off = cut_off
            case _:
                raise messages.MessageRefused(f"{type(message).__name__} is no message to the listener's own process")

    def _lose(self) -> bool:
        """Give up a process that ended by itself; the thread that accepts waits for this.

        Returns:
            Whether it served anybody.
        """
        channel = self._channel
        with self._lock:
            self._channel = None
        if channel is not None:
            channel.close()
        lost = len(self._slots)
        self._child.kill()
        log.error("a receiving process ended unexpectedly", process=self._number, associations_lost=lost)
        self._surroundings.counters.add("receiving_processes_ended")
        self._release_all()
        return bool(lost)

    def _clear_up(self) -> None:
        """Delete what a process had begun, once it has ended: one that is killed may wait for a disk that hangs."""
        if self._child.exit_code() is not None:
            with suppress(OSError):
                self._surroundings.spool.recover_process(self._mark)
                self._on_ended(self._mark)
            self._child.postpone()

    def _release_all(self, declined: Iterable[ConnectionSlot] = ()) -> None:
        slots, self._slots = self._slots, {}
        for slot in (*slots.values(), *declined):
            _release(slot)

    def _send_news(self) -> None:
        """Send settings and space level where it does not know them yet."""
        with self._lock:
            if not self._is_up_to_date:
                self._send_settings()
        self._send_space()

    def _send_settings(self) -> None:
        """Send the settings in a file in memory, whose length is of no concern; `supervise` tries again."""
        channel, self._is_up_to_date = self._channel, False
        if channel is None:
            return
        try:
            with os.fdopen(os.memfd_create("settings", os.MFD_CLOEXEC), "wb", buffering=0) as file:
                write_all(file.fileno(), [self._settings])
                self._is_up_to_date = channel.send(messages.UseSettings(), file.fileno(), wait=False)
        except OSError as error:
            log.warning("a receiving process cannot be sent its settings", problem=error.strerror)

    def _send_space(self) -> None:
        channel, space = self._channel, self._surroundings.space
        level = messages.SpaceChanged(space.state, space.queue_full)
        if level != self._space and channel is not None:
            self._space = level if channel.send(level, wait=False) else None


def _release(slot: ConnectionSlot) -> None:
    slot.release()
    slot.sock.close()
