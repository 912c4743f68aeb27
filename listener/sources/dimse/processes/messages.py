"""Typed messages between the receiving processes of one listener, some with an open descriptor beside them.

Contract: a message is a frozen dataclass, sent as its name and its fields in JSON, and received whole (a Unix socket of
kind SEQPACKET, unix(7)); several threads may send. What is not exactly one of these messages is refused: after an
upgrade of a running listener, a process that starts is newer than its parent. The end of the other process is the end
of the channel. Nothing of a data set goes through here.
"""

import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Final, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from listener.spool.space import SpaceLevel

LONGEST_BYTES: Final = 64 << 10


class ChannelClosed(Exception):
    """The other process is gone."""


class MessageRefused(ChannelClosed):
    """The other process sent what is no message, or not one for this end: nothing further is taken from it."""


class PoolMessage:
    """What one receiving process says to another."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )


# -- to a process of the pool ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StartReceiving(PoolMessage):
    """The first message: what the process is started with."""

    spool: bytes
    """Folder of the spool, as the file system has its name."""
    state: bytes
    number: int
    mark: int


@dataclass(frozen=True)
class UseSettings(PoolMessage):
    """Settings for the connections from now on, in the file whose descriptor comes with this."""


@dataclass(frozen=True)
class ServeConnection(PoolMessage):
    """The connection whose descriptor comes with this is to be served."""

    slot: int
    host: str


@dataclass(frozen=True)
class SpaceChanged(PoolMessage):
    """How much room there is from now on."""

    level: SpaceLevel
    queue_full: bool


@dataclass(frozen=True)
class StopReceiving(PoolMessage):
    """Finish the associations within this time, then end."""

    within_s: float


# -- from a process of the pool ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceiverAlive(PoolMessage):
    """Connections can be served: sent at the start and from then on as a sign of life."""

    lacks_settings: bool
    """Whether the present settings could not be received or used, and are to be sent again."""


@dataclass(frozen=True)
class ReceiverCounted(PoolMessage):
    """What was counted since the last time, by counter."""

    counts: dict[str, int]


@dataclass(frozen=True)
class ConnectionRequested(PoolMessage):
    """The request of a connection has arrived."""

    slot: int


@dataclass(frozen=True)
class ConnectionReleased(PoolMessage):
    """A connection is over."""

    slot: int


@dataclass(frozen=True)
class ConnectionDeclined(PoolMessage):
    """A connection cannot be served here and goes back."""

    slot: int


@dataclass(frozen=True)
class ReceiverStopped(PoolMessage):
    """The last message: how many associations were cut off."""

    cut_off: int


_KINDS: Final = {kind.__name__: kind for kind in PoolMessage.__subclasses__()}


@cache
def _adapter(name: str) -> TypeAdapter[PoolMessage]:
    """The encoder and decoder of one kind; made when it is needed, for a process starts with few of them."""
    return TypeAdapter(_KINDS[name])


def encode(message: PoolMessage) -> bytes:
    """The name of a message and its fields as a JSON object."""
    name = type(message).__name__
    return b"%s %s" % (name.encode("ascii"), _adapter(name).dump_json(message))


def decode(content: bytes) -> PoolMessage:
    """The message that was encoded.

    Raises:
        MessageRefused: There is no such message, or it lacks a field, has one too many or one of another type.
    """
    word, _, fields = content.partition(b" ")
    name = word.decode("ascii", "replace")
    if name not in _KINDS:
        raise MessageRefused(f"unknown message {name[:40]!r} between receiving processes")
    try:
        return _adapter(name).validate_json(fields)
    except ValidationError as error:
        raise MessageRefused(f"malformed message {name[:40]!r} between receiving processes") from error


class DescriptorChannel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Our end, and the socket for the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """Descriptor of the socket, to wait for."""
        return self._sock.fileno()

    def send(self, message: PoolMessage, descriptor: int | None = None, *, wait: bool = True) -> bool:
        """Send one message.

        Args:
            message: What to send.
            descriptor: Goes with it; the other process gets one of its own for the same open file.
            wait: Whether to wait while the other process is behind.

        Returns:
            False where the message does not go out at once and we do not wait, or never will.
        """
        content = encode(message)
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            if descriptor is None:
                self._sock.send(content, flags)
            else:
                socket.send_fds(self._sock, [content], [descriptor], flags)
        except OSError:
            return False
        return True

    def receive(self, within_s: float | None = None) -> tuple[PoolMessage, int | None] | None:
        """The next message and the descriptor that came with it; None where none came within that time.

        Raises:
            ChannelClosed: The other process is gone.
            MessageRefused: What came is no message.
        """
        if within_s is not None:
            waiting = select.poll()  # not select(2), which knows no descriptors above 1023
            waiting.register(self._sock.fileno(), select.POLLIN)
            if not waiting.poll(within_s * 1000):
                return None
        try:
            content, descriptors, _, _ = socket.recv_fds(self._sock, LONGEST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ChannelClosed from error
        if not content:
            raise ChannelClosed
        return decode(content), descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close our end; harmless a second time."""
        with suppress(OSError):
            self._sock.close()
