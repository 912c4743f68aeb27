"""One further receiving process of a listener, started by `pool`: serves the connections that are handed over to it.

Contract: everything it does to the spool it does as the listener's own process does. It ends after the associations
under way where the listener's own process says so, and at once where that is gone. Signals are the listener's business.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

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
from listener.sources.dimse.processes import messages
from listener.sources.dimse.processes.messages import ChannelClosed, DescriptorChannel, PoolMessage
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

    def __init__(self, process: ReceiverProcess, message: messages.ServeConnection, sock: socket.socket) -> None:
        self._process = process
        self._number = message.slot
        self._is_released = False
        self.sock = sock
        self.host = message.host

    def replace_socket(self, sock: socket.socket) -> None:
        """The connection goes on under another object: TLS has taken over."""
        self.sock = sock

    def mark_requested(self) -> None:
        """Report that the request of the connection is there."""
        self._process.report(messages.ConnectionRequested(self._number))

    def release(self) -> None:
        """Report that the connection is over; harmless a second time."""
        if not self._is_released:
            self._is_released = True
            self._process.report(messages.ConnectionReleased(self._number), with_counts=True)


class ReceiverProcess:
    """This process."""

    def __init__(self, channel: DescriptorChannel, start: messages.StartReceiving, settings: ListenerSettings) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._reported: dict[str, int] = {}
        self._lacks_settings = False
        self._counters = Counters()
        self._room = RelayedSpaceLevel()
        root = Path(os.fsdecode(start.spool))
        self._key = key_of(root)
        self._terms: AcceptorConfig = acceptor_config(settings.listener, self._key)
        spool = Spool.open(root, settings=settings.spool, mark=start.mark)
        commitment = settings.listener.commitment
        commitments = CommitmentQueue(root, commitment, start.mark) if commitment.enabled else None
        surroundings = Surroundings(spool, self._room, self._counters, Path(os.fsdecode(start.state)))
        self._serving = Serving(ProcessContext(surroundings, commitments, self._stopping.is_set, start.number))

    def run(self) -> None:
        """Serve until the listener's own process says to stop.

        Raises:
            ChannelClosed: The listener's own process is gone.
            messages.MessageRefused: It sent what is no message to us.
        """
        next_sign = 0.0
        while not self._stopping.is_set():
            if time.monotonic() >= next_sign:
                next_sign = time.monotonic() + TICK_S
                self.report(messages.ReceiverAlive(self._lacks_settings), with_counts=True)
            received = self._channel.receive(TICK_S)
            if received is not None:
                self._obey(*received)

    def report(self, message: PoolMessage, *, with_counts: bool = False) -> None:
        """Send a message to the listener's own process, and before it what was counted since the last time."""
        with self._lock:
            if with_counts:
                counts = self._counters.all()
                new = {name: count - self._reported.get(name, 0) for name, count in counts.items()}
                self._reported = counts
                new |= self._counters.drain_arrivals()
                if new := {name: count for name, count in new.items() if count}:
                    self._channel.send(messages.ReceiverCounted(new))
            self._channel.send(message)

    def _obey(self, message: PoolMessage, descriptor: int | None) -> None:
        match message:
            case messages.SpaceChanged(level, queue_full):
                self._room.state, self._room.queue_full = level, queue_full
            case messages.UseSettings():
                self._lacks_settings = descriptor is None  # there were no descriptors left to receive one
                if descriptor is not None:
                    self._apply_settings(read_settings(descriptor))
            case messages.ServeConnection(slot):
                if not self._serves(message, descriptor):
                    self.report(messages.ConnectionDeclined(slot))
            case messages.StopReceiving(within_s):
                self._stopping.set()
                self.report(messages.ReceiverStopped(self._serving.join(within_s)), with_counts=True)
            case _:
                raise messages.MessageRefused(f"{type(message).__name__} is no message to a process of the pool")

    def _serves(self, message: messages.ServeConnection, descriptor: int | None) -> bool:
        """Serve a connection; False where it could not be received, or the present settings could not be used."""
        if descriptor is None:
            return False
        slot = RemoteSlot(self, message, socket.socket(fileno=descriptor))
        if self._lacks_settings or not self._serving.serve_on_thread(slot, self._terms):
            slot.sock.close()
            return False
        return True

    def _apply_settings(self, settings: ListenerSettings) -> None:
        try:
            self._terms = acceptor_config(settings.listener, self._key)
        except SourceUnusable as error:  # files that the listener's process could read a moment ago: sent again soon
            self._lacks_settings = True
            log.error("settings cannot be used, no connection is taken", problem=str(error))  # noqa: TRY400 - no traceback


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
        match channel.receive(), channel.receive():
            case (messages.StartReceiving() as start, _), (messages.UseSettings(), int(descriptor)):
                settings = read_settings(descriptor)
            case _:
                raise messages.MessageRefused(  # noqa: TRY301 - answered below like any other
                    "the first two messages are not a start and settings with a descriptor"
                )
        logs.configure(settings.log.level, settings.log.format)
        logs.catch_uncaught()
        ReceiverProcess(channel, start, settings).run()
    except messages.MessageRefused as refused:
        log.error("a receiving process was sent what it does not know", problem=str(refused))  # noqa: TRY400 - no traceback
        return 1
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
