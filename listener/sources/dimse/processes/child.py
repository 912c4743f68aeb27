"""One further receiving process of a listener, started by `crew`: serves the connections that it is handed.

Contract: everything it does to the spool it does as the listener's own process does. It ends when it is told to, after
the associations under way, and at once when the listener's process is gone. Signals are the listener's business.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

from listener.foundation import logs
from listener.foundation.counters import Counters
from listener.foundation.errors import SourceUnusable
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.dimse.acceptor.association import ProcessContext
from listener.sources.dimse.acceptor.config import acceptor_config
from listener.sources.dimse.acceptor.serving import Serving
from listener.sources.dimse.commitment.queue import CommitmentQueue
from listener.sources.dimse.processes.messages import ChannelClosed, DescriptorChannel
from listener.sources.dimse.upper_layer.peer_pseudonyms import key_of
from listener.spool.errors import SpoolUnusable
from listener.spool.space import SpaceLevel
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from listener.sources.dimse.acceptor.config import AcceptorConfig

log = structlog.get_logger()

TICK_S: Final = 1.0


class RelayedSpaceLevel:
    """How much room there is, as the listener's process says."""

    def __init__(self) -> None:
        self.state = SpaceLevel.ENOUGH
        self.queue_full = False


class RemoteSlot:
    """The slot of a connection that was handed over; the process that counts it hears of every change."""

    def __init__(self, member: ReceiverProcess, number: int, sock: socket.socket, host: str) -> None:
        self._member = member
        self._number = number
        self._has_left = False
        self.sock = sock
        self.host = host

    def replace_socket(self, sock: socket.socket) -> None:
        """The connection goes on under another object: TLS has taken over."""
        self.sock = sock

    def mark_requested(self) -> None:
        """Its request is there."""
        self._member.report({"asked": self._number})

    def release(self) -> None:
        """The connection is over; harmless a second time."""
        if not self._has_left:
            self._has_left = True
            self._member.report({"left": self._number}, with_counts=True)


class ReceiverProcess:
    """This process."""

    def __init__(self, channel: DescriptorChannel, start: dict[str, Any], settings: ListenerSettings) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._told: dict[str, int] = {}
        self._lacks_settings = False
        self._counters = Counters()
        self._room = RelayedSpaceLevel()
        root = Path(start["spool"])
        self._key = key_of(root)
        self._terms: AcceptorConfig = acceptor_config(settings.listener, self._key)
        spool = Spool.open(root, settings=settings.spool, mark=start["mark"])
        commitment = settings.listener.commitment
        commitments = CommitmentQueue(root, commitment, start["mark"]) if commitment.enabled else None
        surroundings = Surroundings(spool, self._room, self._counters, Path(start["state"]))
        self._serving = Serving(ProcessContext(surroundings, commitments, self._stopping.is_set, start["number"]))

    def run(self) -> None:
        """Serve until the parent stops this process.

        Raises:
            ChannelClosed: The listener's process is gone.
        """
        self.report({"ready": 1})
        next_sign = 0.0
        while True:
            received = self._channel.receive(TICK_S)
            if time.monotonic() >= next_sign:
                next_sign = time.monotonic() + TICK_S
                self.report({"lacks_settings": 1} if self._lacks_settings else {"alive": 1}, with_counts=True)
            if received is None:
                continue
            message, descriptor = received
            if "stop" in message:
                self._stop(float(message["stop"]))
                return
            self._obey(message, descriptor)

    def report(self, message: dict[str, Any], *, with_counts: bool = False) -> None:
        """Tell the listener's process something, and what was counted since the last time."""
        with self._lock:
            if with_counts:
                message["counts"] = self._new_counts()
            self._channel.send(message)

    def _obey(self, message: dict[str, Any], descriptor: int | None) -> None:
        if "room" in message:
            self._room.state = SpaceLevel(message["room"])
            self._room.queue_full = bool(message["queue_full"])
        elif "use" in message:
            self._lacks_settings = descriptor is None  # there were no descriptors left to receive one
            if descriptor is not None:
                self._use(read_settings(descriptor))
        elif "take" in message and not self._takes(message, descriptor):
            self.report({"declined": message["take"]})

    def _takes(self, message: dict[str, Any], descriptor: int | None) -> bool:
        """Serve a connection; False where it could not be received, or cannot be served by the settings of now."""
        if descriptor is None:
            return False
        place = RemoteSlot(self, message["take"], socket.socket(fileno=descriptor), message["host"])
        if self._lacks_settings or not self._serving.serve_on_thread(place, self._terms):
            place.sock.close()
            return False
        return True

    def _use(self, settings: ListenerSettings) -> None:
        try:
            self._terms = acceptor_config(settings.listener, self._key)
        except SourceUnusable as error:  # files that the listener's process could read a moment ago: told again soon
            self._lacks_settings = True
            log.error("settings cannot be used, no connection is taken", problem=str(error))  # noqa: TRY400 - no traceback

    def _stop(self, within_s: float) -> None:
        self._stopping.set()
        cut_off = self._serving.join(within_s)
        self.report({"stopped": cut_off}, with_counts=True)

    def _new_counts(self) -> dict[str, int]:
        """What was counted since the last time; the lock is held."""
        counts = self._counters.all()
        new = {name: count - self._told.get(name, 0) for name, count in counts.items()}
        self._told = counts
        return {name: count for name, count in new.items() if count}


def read_settings(descriptor: int) -> ListenerSettings:
    """The settings in a file that is open under this descriptor; closes it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return ListenerSettings.model_validate_json(file.read())


def main(descriptor: int) -> int:
    """Be one receiving process; its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    channel = DescriptorChannel(socket.socket(fileno=descriptor))
    try:
        start, settings = channel.receive(), channel.receive()
        if start is None or settings is None or settings[1] is None:
            return 1
        configured = read_settings(settings[1])
        logs.configure(configured.log.level, configured.log.format)
        logs.catch_uncaught()
        ReceiverProcess(channel, start[0]["start"], configured).run()
    except ChannelClosed:
        os._exit(0)  # at once: nobody who counts on us is left, and threads may wait for peers
    except (SpoolUnusable, SourceUnusable) as error:
        log.error("a receiving process cannot work", problem=str(error))  # noqa: TRY400 - no traceback
        return 1
    return 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # threads that were cut off are not waited for
