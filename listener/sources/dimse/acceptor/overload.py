"""Connections beyond the limits: rejected as transient by one thread for all, quickly and without cost.

Contract: takes a connection and is done with it within `PATIENCE_S`; holds at most `MOST` of them, more are closed at
once. Must never: give a peer more than one rejection, or wait for one of them alone.
"""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from listener.sources.dimse.upper_layer.negotiation import LOCAL_LIMIT_EXCEEDED

if TYPE_CHECKING:
    from listener.foundation.counters import Counters

log = structlog.get_logger()

PATIENCE_S: Final = 3.0
MOST: Final = 500
LOG_EVERY_S: Final = 10.0


class OverloadRejecter:
    """The one thread that says no."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._incoming: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="turned-away", daemon=True)
        self._taken = 0  # written by the accepting thread alone
        self._done = 0  # written by this one's thread alone
        self._logged_at: dict[str, float] = {}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Close everything."""
        self._incoming.put(None)
        self._wake()
        if self._thread.is_alive():
            self._thread.join(1)
        self._wake_reader.close()
        self._wake_writer.close()

    def reject(self, sock: socket.socket, host: str, why: str, *, encrypted: bool) -> None:
        """Be rid of a connection; under TLS there is no handshake to spend on it, so it is closed."""
        self._counters.add(f"connections_{why}")
        self._log(host, why)
        if encrypted or why == "address_not_allowed" or self._taken - self._done >= MOST:
            sock.close()
            return
        self._taken += 1
        self._incoming.put(sock)
        self._wake()

    def _log(self, host: str, why: str) -> None:
        """One line per reason and pause: a flood must not become a flood of lines."""
        now = time.monotonic()
        if now - self._logged_at.get(why, -LOG_EVERY_S) >= LOG_EVERY_S:
            self._logged_at[why] = now
            log.warning("connection turned away", peer=host, why=why, so_far=self._counters.get(f"connections_{why}"))

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_writer.send(b"!")

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            self._go_round(selector)

    def _go_round(self, selector: selectors.BaseSelector) -> None:
        selector.register(self._wake_reader, selectors.EVENT_READ)
        until: dict[socket.socket, float] = {}
        answered: set[socket.socket] = set()
        while True:
            for key, _ in selector.select(0.5 if until else None):
                if key.fileobj is self._wake_reader:
                    self._wake_reader.recv(4096)
                    continue
                sock = key.fileobj
                assert isinstance(sock, socket.socket)  # noqa: S101 - nothing else is registered
                if not _answer(sock, first=sock not in answered):
                    until[sock] = 0.0
                answered.add(sock)
            while not self._incoming.empty():
                arrival = self._incoming.get()
                if arrival is None:
                    for sock in until:
                        sock.close()
                    return
                arrival.setblocking(False)
                selector.register(arrival, selectors.EVENT_READ)
                until[arrival] = time.monotonic() + PATIENCE_S
            now = time.monotonic()
            for sock in [sock for sock, moment in until.items() if moment <= now]:
                selector.unregister(sock)
                sock.close()
                del until[sock]
                answered.discard(sock)
                self._done += 1


def _answer(sock: socket.socket, *, first: bool) -> bool:
    """Reject what has begun to ask, and read on until it closes; whether it is still open."""
    try:
        received = sock.recv(65536)
        if not received:
            return False
        if first:
            sock.send(LOCAL_LIMIT_EXCEEDED.encode())
            sock.shutdown(socket.SHUT_WR)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True
