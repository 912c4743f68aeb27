"""Further processes that receive: one Python interpreter serves one processor, so a listener has several.

Connections are accepted, counted and turned away in the listener's own process; one that was admitted is served there
or handed over, as an open descriptor, to the process that serves fewest. What a process of the crew has to know
(settings, room) it is told; what it has to tell (who has asked, who has left, what was counted) it tells.

Contract: the crew is an addition. Without it, or while it starts, or where it cannot, the listener's own process serves
everybody. A process of the crew that ends costs its own associations, whose senders got no answer; what they had begun
is deleted, and another process is started. When the listener's process ends, however, the crew ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from listener.foundation.durable import write_all
from listener.foundation.processes import own_environment
from listener.sources.dimse.processes.messages import ChannelClosed, DescriptorChannel
from listener.spool.names import MARK_BITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from listener.network.connection_slots import ConnectionSlot
    from listener.settings.listener import ListenerSettings
    from listener.sources.contract import Surroundings

log = structlog.get_logger()

TICK_S: Final = 0.5
BUSY_S: Final = 3.0
"""A process that says nothing for so long gets no connection; they speak once a second."""
SILENT_S: Final = 30.0
"""A process that says nothing for so long hangs; it is ended."""
LONGEST_PAUSE_S: Final = 30.0
KILLED_WITHIN_S: Final = 5.0
"""A process that is killed while it waits for a disk ends when the disk answers."""


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
    ) -> None:
        """Nothing is started yet.

        Args:
            size: How many processes there are beside ours.
            surroundings: Ours; theirs are made like them.
            on_leave: Called whenever associations that were handed over have ended.
            on_declined: Called with a connection that was handed over and came back, for want of threads.
            on_ended: Called with the mark of a process that ended by itself, once nothing of it runs.
        """
        self._counters = surroundings.counters
        self._on_leave = on_leave
        self._on_declined = on_declined
        self._members = [_PoolProcess(number, surroundings, on_ended) for number in range(1, size + 1)]
        self._stopping = threading.Event()
        self._hearing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="crew", daemon=True)
        self._last_tick = 0.0

    def start(self, settings: ListenerSettings) -> None:
        """Start the processes."""
        self.apply_settings(settings)
        self._last_tick = time.monotonic()
        for member in self._members:
            member.start()
        self._count()
        if self._members:
            self._thread.start()

    def wait(self, within_s: float) -> None:
        """Until every process can serve or has failed to, or so long."""
        until = time.monotonic() + within_s
        while not all(member.is_settled for member in self._members) and time.monotonic() < until:
            self._stopping.wait(0.01)

    def apply_settings(self, settings: ListenerSettings) -> None:
        """Settings for the associations that are handed over from now on."""
        told = settings.model_dump(mode="json", include={"listener", "spool", "log"})
        for member in self._members:
            member.apply_settings(told)

    def is_alive(self) -> bool:
        """Whether somebody looks after the processes."""
        looks = self._thread.is_alive() and time.monotonic() - self._last_tick < 20 * TICK_S
        return looks or not self._members

    def hand_over(self, place: ConnectionSlot, own: int) -> bool:
        """Hand a connection over, unless this process serves no more than any other itself.

        Args:
            place: The connection's.
            own: How many associations our own process serves.

        Returns:
            Whether it was handed over.
        """
        least = min(self._members, key=lambda member: member.load, default=None)
        return least is not None and least.load < own and least.hand_over(place)

    def tell_to_stop(self, within_s: float) -> None:
        """Have every process finish what is under way, for so long, and then end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for member in self._members:
            member.tell_to_stop(within_s)

    def join(self, until: float) -> int:
        """Wait until every process has ended.

        Args:
            until: When those that did not finish are ended, on the monotonic clock.

        Returns:
            The number of associations that were cut off.
        """
        return sum(member.terminate(until) for member in self._members)

    def catch_up(self) -> None:
        """Take what the processes have said until now."""
        heard = _PoolEvents()
        with self._hearing:
            for member in self._members:
                member.read_messages(heard)
        for place in heard.declined:
            self._on_declined(place)
        if heard.has_left:
            self._on_leave()

    def _count(self) -> None:
        """How many processes serve now, the listener's own among them."""
        self._counters.gauge("receiving_processes", 1 + sum(member.is_ready for member in self._members))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._last_tick = time.monotonic()
            self._wait_for_words()
            self.catch_up()
            for member in self._members:
                member.supervise()
            self._count()

    def _wait_for_words(self) -> None:
        """Until a process says something, for a tick."""
        waiting = select.poll()
        for member in self._members:
            if (descriptor := member.fileno()) >= 0:
                waiting.register(descriptor, select.POLLIN)
        waiting.poll(TICK_S * 1000)


@dataclass(slots=True)
class _PoolEvents:
    """What a process had to say."""

    has_left: bool = False
    """Whether associations ended."""
    declined: list[ConnectionSlot] = field(default_factory=list)
    """Connections that it could not serve."""


class _PoolProcess:
    """One process, over all its lives, as we see it."""

    def __init__(self, number: int, surroundings: Surroundings, on_ended: Callable[[int], None]) -> None:
        self._number = number
        self._on_ended = on_ended
        self._surroundings = surroundings
        self._lock = threading.Lock()
        self._mark = (surroundings.spool.mark + number) % (1 << MARK_BITS)
        self._channel: DescriptorChannel | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._places: dict[int, ConnectionSlot] = {}
        self._next_id = 0
        self.is_ready = False
        self._settings: dict[str, Any] = {}
        self._is_up_to_date = False
        self._heard_at = 0.0
        self._start_at = 0.0
        self._pause_s = 0.5
        self._room: tuple[int, bool] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it can serve, or ended."""
        return self.is_ready or self._process is None or self._channel is None

    @property
    def load(self) -> float:
        """How many associations it serves; beyond all measure while it cannot, or knows old settings only."""
        answers = time.monotonic() - self._heard_at < BUSY_S
        return len(self._places) if self.is_ready and self._is_up_to_date and answers else float("inf")

    def fileno(self) -> int:
        """The descriptor of the channel; -1 where there is no channel."""
        channel = self._channel  # whoever admits connections may hear of its end meanwhile
        return channel.fileno() if channel is not None else -1

    def start(self) -> None:
        """Start the process and tell it what it needs."""
        self._heard_at = time.monotonic()
        try:
            self._process, channel = _spawn()
        except OSError as error:
            log.warning("a receiving process cannot be started", problem=error.strerror)
            self._postpone()
            return
        self._channel = channel
        surroundings = self._surroundings
        start = {
            "spool": str(surroundings.spool.root),
            "state": str(surroundings.state),
            "number": os.getpid() + self._number,
            "mark": self._mark,
        }
        channel.send({"start": start}, wait=False)
        with self._lock:
            self._tell_settings()
        self._room = None
        self._tell_room()

    def apply_settings(self, settings: dict[str, Any]) -> None:
        """Other settings from now on."""
        with self._lock:
            self._settings = settings
            self._tell_settings()

    def _tell_settings(self) -> None:
        """Tell it the settings, in a file in memory, whose length is of no concern; `look` tries again."""
        channel, self._is_up_to_date = self._channel, False
        if channel is None:
            return
        settings = self._settings
        try:
            with os.fdopen(os.memfd_create("settings", os.MFD_CLOEXEC), "wb", buffering=0) as file:
                write_all(file.fileno(), [json.dumps(settings).encode("ascii")])
                self._is_up_to_date = channel.send({"use": 1}, file.fileno(), wait=False)
        except OSError as error:
            log.warning("a receiving process cannot be told its settings", problem=error.strerror)

    def hand_over(self, place: ConnectionSlot) -> bool:
        """Hand a connection over; False where that cannot be done now."""
        with self._lock:
            channel = self._channel
            if channel is None or not self.is_ready:
                return False
            self._next_id += 1
            number = self._next_id
            self._places[number] = place
            self._tell_room()
            if channel.send({"take": number, "host": place.host}, place.sock.fileno(), wait=False):
                return True
            del self._places[number]
            return False

    def read_messages(self, heard: _PoolEvents) -> None:
        """Take what it has said until now."""
        channel = self._channel
        if channel is None:
            return
        try:
            while (received := channel.receive(0)) is not None:
                self._heard_at = time.monotonic()
                self._note(received[0], heard)
        except ChannelClosed:
            heard.has_left |= self._gone()

    def supervise(self) -> None:
        """Tell it what it does not know yet; start it again if it ended; end it if it hangs."""
        process = self._process
        if process is None:
            if time.monotonic() >= self._start_at:
                self.start()
            return
        if self._channel is None:  # whoever admits connections may have heard of its end
            self._clear_up(process)
            return
        if not self._is_up_to_date:
            with self._lock:
                self._tell_settings()
        self._tell_room()
        if time.monotonic() - self._heard_at > SILENT_S:
            log.error("a receiving process gives no sign of life: ended", process=self._number)
            process.kill()
            self._heard_at = time.monotonic()

    def tell_to_stop(self, within_s: float) -> None:
        """Have it finish."""
        if self._channel is not None:
            self._channel.send({"stop": within_s}, wait=False)

    def terminate(self, until: float) -> int:
        """Read the last messages of the process, and wait until it has ended.

        Returns:
            The number of its associations that were cut off.
        """
        channel, process, cut_off = self._channel, self._process, len(self._places)
        if process is None:
            return 0
        heard = _PoolEvents()
        with suppress(ChannelClosed):
            while channel is not None and (left_s := until + 2.0 - time.monotonic()) > 0:
                received = channel.receive(left_s)
                if received is not None:
                    self._note(received[0], heard)
                    cut_off = int(received[0].get("stopped", len(self._places)))
        try:
            process.wait(max(0.1, until + 2.0 - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_WITHIN_S)
        if channel is not None:
            channel.close()
        self._leave_all(heard.declined)
        self._channel = self._process = None
        return cut_off

    def _note(self, message: dict[str, Any], heard: _PoolEvents) -> None:
        """Take one message."""
        if message.get("counts"):
            self._surroundings.counters.add_each(**message["counts"])
        if "lacks_settings" in message:
            self._is_up_to_date = False
        if "ready" in message:
            self.is_ready = True
            self._pause_s = 0.5
        elif "asked" in message:
            place = self._places.get(message["asked"])
            if place is not None:
                place.mark_requested()
                place.sock.close()  # ours: from now on the connection is closed when the other process closes it
        elif "left" in message:
            place = self._places.pop(message["left"], None)
            if place is not None:
                place.release()
                place.sock.close()
                heard.has_left = True
        elif "declined" in message:
            place = self._places.pop(message["declined"], None)
            if place is not None:
                heard.declined.append(place)

    def _gone(self) -> bool:
        """The process ended, and nobody told it to; whether it served anybody. Whoever accepts waits for this."""
        channel, process = self._channel, self._process
        with self._lock:
            self.is_ready = False
            self._channel = None
        if channel is not None:
            channel.close()
        lost = len(self._places)
        if process is not None:
            process.kill()
            log.error("a receiving process ended unexpectedly", process=self._number, associations_lost=lost)
            self._surroundings.counters.add("receiving_processes_ended")
        self._leave_all()
        return bool(lost)

    def _clear_up(self, process: subprocess.Popen[bytes]) -> None:
        """Delete what a process had begun, once it has ended: one that is killed may wait for a disk that hangs."""
        if process.poll() is not None:
            with suppress(OSError):
                self._surroundings.spool.recover_process(self._mark)
                self._on_ended(self._mark)
            self._postpone()

    def _leave_all(self, declined: Iterable[ConnectionSlot] = ()) -> None:
        places, self._places = self._places, {}
        for place in (*places.values(), *declined):
            place.release()
            place.sock.close()

    def _postpone(self) -> None:
        """Not at once again: what ended it may still be there."""
        self._process = None
        self._start_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _tell_room(self) -> None:
        space = self._surroundings.space
        room = (int(space.state), space.queue_full)
        if room != self._room and self._channel is not None:
            told = self._channel.send({"room": room[0], "queue_full": room[1]}, wait=False)
            self._room = room if told else None


def _spawn() -> tuple[subprocess.Popen[bytes], DescriptorChannel]:
    """A new process, and our end of its channel."""
    channel, theirs = DescriptorChannel.pair()
    command = [sys.executable, "-P", "-m", "listener.sources.dimse.processes.child", str(theirs.fileno())]
    with theirs:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=own_environment()
            )
        except OSError:
            channel.close()
            raise
    return process, channel
