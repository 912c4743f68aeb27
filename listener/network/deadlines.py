"""Deadlines of whole requests: a peer that sends one byte now and then is cut off, whatever it is sending.

Contract: inside `Deadlines.within`, every connection that this thread opens or uses is shut down at the deadline: in
the TLS handshake, the status line, the headers or the body. A time-out of the socket bounds one read only. Whoever was
waiting gets the error of a broken connection, and finds `Limit.expired` set.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3

TICK_S: Final = 0.25


class Limit:
    """The deadline of one request; it may be moved while the request goes on."""

    def __init__(self, until: float) -> None:
        self.until = until
        """On the monotonic clock, in seconds."""
        self.expired = False
        self._handle: socket.socket | None = None
        self._lock = threading.Lock()

    def attach(self, fd: int) -> None:
        """Hold on to a connection, whichever side closes it first.

        A duplicate, since the connection's own descriptor may be closed, and its number given to another, while its
        body is still being read.
        """
        with self._lock:
            self._close()
            self._handle = socket.socket(fileno=os.dup(fd))
            if self.expired:
                self._shut()

    def expire(self) -> None:
        """Break the connection."""
        with self._lock:
            self.expired = True
            self._shut()

    def release(self) -> None:
        """Let go of the connection, which lives on."""
        with self._lock:
            self._close()

    def _shut(self) -> None:
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


class Deadlines:
    """All limits of one server's requests, and the thread that enforces them."""

    def __init__(self, name: str) -> None:
        """Enforce nothing yet; `name` is that of the thread."""
        self._own = threading.local()
        self._lock = threading.Lock()
        self._limits: set[Limit] = set()
        self._cut = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._enforce, name=name, daemon=True)

    def start(self) -> None:
        """Begin to enforce."""
        self._thread.start()

    def stop(self) -> None:
        """Break what is under way, and end."""
        self.cut_all()
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def is_alive(self) -> bool:
        """Whether deadlines are enforced."""
        return self._thread.is_alive()

    def cut_all(self) -> None:
        """Break every request, and every one that comes later."""
        with self._lock:
            self._cut = True
            limits = list(self._limits)
        for limit in limits:
            limit.expire()

    @contextmanager
    def within(self, seconds: float) -> Iterator[Limit]:
        """One request of this thread must be over in time, unless its limit is moved."""
        limit = Limit(time.monotonic() + seconds)
        with self._lock:
            self._limits.add(limit)
            limit.expired = self._cut
        self._own.limit = limit
        try:
            yield limit
        finally:
            self._own.limit = None
            with self._lock:
                self._limits.discard(limit)
            limit.release()

    def attach(self, fd: int) -> None:
        """This thread's request uses this connection."""
        limit: Limit | None = getattr(self._own, "limit", None)
        if limit is not None:
            limit.attach(fd)

    def _enforce(self) -> None:
        while not self._stop.wait(TICK_S):
            now = time.monotonic()
            with self._lock:
                late = [limit for limit in self._limits if limit.until < now]
            for limit in late:
                limit.expire()


class _Bounded:
    """What a connection must do to be bounded: tell its descriptor when it is made and when it is used again."""

    deadlines: Deadlines
    sock: Any

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]  # of the class it is mixed into
        self.deadlines.attach(sock.fileno())  # before the handshake of TLS, which takes the socket over
        return sock

    def request(self, *arguments: Any, **more: Any) -> None:
        if self.sock is not None:
            self.deadlines.attach(self.sock.fileno())
        super().request(*arguments, **more)  # type: ignore[misc]  # of the class it is mixed into


def bounded_pool(
    deadlines: Deadlines, pool: type[urllib3.HTTPConnectionPool], **options: Any
) -> urllib3.HTTPConnectionPool:
    """A pool of connections that keep the deadlines.

    Args:
        deadlines: Those.
        pool: The class of pool: plain or TLS.
        options: What the pool is made with.
    """
    kind = type("BoundedConnection", (_Bounded, pool.ConnectionCls), {"deadlines": deadlines})
    made = pool(**options)
    made.ConnectionCls = kind
    return made
