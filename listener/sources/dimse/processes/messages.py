"""Words between the receiving processes of one listener: small messages, some with an open descriptor beside them.

Contract: a message is a flat JSON object, sent and received whole (a Unix socket of kind SEQPACKET, unix(7)); several
threads may send. The end of the other process is the end of the channel. Nothing of a data set goes through here.
"""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

LONGEST_BYTES: Final = 64 << 10


class ChannelClosed(Exception):
    """The other process is gone."""


class DescriptorChannel:
    """One end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[DescriptorChannel, socket.socket]:
        """Our end, and the socket for the other process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """Of the socket, to wait for."""
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any], descriptor: int | None = None, *, wait: bool = True) -> bool:
        """Send one message; False where it does not go out at once and we do not wait, or never will.

        Args:
            message: Numbers, text, and mappings of them.
            descriptor: Goes with it; the other process gets one of its own for the same open file.
            wait: Whether to wait while the other process is behind.
        """
        content = json.dumps(message, separators=(",", ":")).encode("ascii")
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            if descriptor is None:
                self._sock.send(content, flags)
            else:
                socket.send_fds(self._sock, [content], [descriptor], flags)
        except OSError:
            return False
        return True

    def receive(self, within_s: float | None = None) -> tuple[dict[str, Any], int | None] | None:
        """The next message and the descriptor that came with it; None where none came within that time.

        Raises:
            ChannelClosed: The other process is gone.
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
        return json.loads(content), descriptors[0] if descriptors else None

    def close(self) -> None:
        """Close our end; harmless a second time."""
        with suppress(OSError):
            self._sock.close()
