"""Associations that pynetdicom requests as a peer of ours, made so that none of their answers is lost.

Contract: a test requests one by `associate`, and lets go of it by `release`. It reaches into what pynetdicom keeps to
itself, of the version that is pinned; `tests/test_pynetdicom_requestor.py` shows what for.

pynetdicom 3.0.4 runs a thread beside each association, its reactor, which takes messages from the queue that
`send_c_find` and its like read their answers from. They have it pause meanwhile, by an event and a flag: it sets the
flag, goes through the event, and takes the flag back. Between the last two the flag says that it pauses while it does
not; an answer that comes then is dropped with a warning, and what was found looks like less than there is. Where the
reactor ends instead, the flag is waited for without end. `Gate` takes the event's place and knows where the thread is.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.association import Association

LOOK_EVERY_S: Final = 0.05
"""A thread that ends does not tell so."""


class Gate:
    """An event that one thread goes through, and that can be cleared only while that thread waits at it."""

    def __init__(self, owner: threading.Thread) -> None:
        """Open.

        Args:
            owner: The thread that goes through it.
        """
        self.owner = owner
        self._change = threading.Condition()
        self._is_open = True
        self._is_waited_at = False

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._is_open

    def set(self) -> None:
        """Open it: who waits at it goes on, even if it is closed again before."""
        with self._change:
            self._is_open = True
            self._is_waited_at = False
            self._change.notify_all()

    def clear(self) -> None:
        """Close it; when this returns, its owner waits at it.

        Raises:
            RuntimeError: The owner has ended.
        """
        with self._change:
            self._is_open = False
            while not self._is_waited_at and threading.current_thread() is not self.owner:
                if not self.owner.is_alive():
                    raise RuntimeError("the thread of the association has ended")
                self._change.wait(LOOK_EVERY_S)

    def wait(self) -> None:
        """Go through it, or wait until it is opened."""
        with self._change:
            self._is_waited_at = not self._is_open
            self._change.notify_all()
            while self._is_waited_at:
                self._change.wait()


def associate(entity: AE, host: str, port: int, **arguments: Any) -> Association:
    """What `AE.associate` makes, established or not; small PDUs are sent as they are made.

    Else each of these waits for the delayed acknowledgement of the last (RFC 896).

    Args:
        entity: Who requests it.
        host: Of the peer.
        port: Of the peer.
        arguments: Whatever else `AE.associate` takes.

    Raises:
        RuntimeError, TypeError, ValueError: Where `AE.associate` does.
    """
    association = entity.associate(host, port, **arguments)
    if association.is_established:
        association._reactor_checkpoint = Gate(association)  # type: ignore[assignment]
        transport = association.dul.socket
        if transport is not None and transport.socket is not None:
            with suppress(OSError):
                transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return association


def release(association: Association) -> None:
    """Release it, where it is still there."""
    if association.is_established:
        with suppress(RuntimeError):  # it ended just now
            association.release()
