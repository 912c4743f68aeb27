"""How many connections there may be, in all and from one address, and who makes room for whom.

Contract: `admit` gives a connection its place or says why not. Silent connections must not shut out a sender: where
every place is taken, the oldest connection that has not asked for anything yet is closed, if its host holds more such
connections than the newcomer's.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import threading
from contextlib import suppress
from itertools import islice
from typing import Final, Protocol

MOST_LOOKED_AT: Final = 16
"""Where so many of a host's oldest silent connections have spoken meanwhile, it is busy rather than silent."""


class Bounds(Protocol):
    """How many connections there may be (`listener.settings.listener.ReceiveLimitSection`)."""

    @property
    def max_associations(self) -> int:
        """In all."""
        ...

    @property
    def max_associations_per_peer(self) -> int:
        """From one address."""
        ...


class ConnectionSlot:
    """The place of one connection."""

    __slots__ = ("_places", "host", "sock")

    def __init__(self, places: ConnectionSlots, sock: socket.socket, host: str) -> None:
        self._places = places
        self.sock = sock
        self.host = host

    def replace_socket(self, sock: socket.socket) -> None:
        """The connection goes on under another object: TLS has taken over."""
        self.sock = sock

    def mark_requested(self) -> None:
        """Its request is there: from now on it is not displaced."""
        self._places.mark_requested(self)

    def release(self) -> None:
        """The connection is over; harmless a second time."""
        self._places.free(self)


class ConnectionSlots:
    """All places; safe for use by many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, set[ConnectionSlot]] = {}
        self._silent: dict[str, dict[ConnectionSlot, None]] = {}
        self._count = 0
        self.displaced = 0

    @property
    def count(self) -> int:
        """Places taken now."""
        return self._count

    def is_tight(self, host: str, limits: Bounds) -> bool:
        """Whether a new connection from this address would not simply get a place."""
        with self._lock:
            taken = len(self._taken.get(host, ()))
            return self._count >= limits.max_associations or taken >= limits.max_associations_per_peer

    def admit(self, sock: socket.socket, host: str, limits: Bounds) -> ConnectionSlot | None:
        """A place for a new connection; None where it is one too many."""
        with self._lock:
            if len(self._taken.get(host, ())) >= limits.max_associations_per_peer:
                return None
            if self._count >= limits.max_associations and not self._make_room(host):
                return None
            place = ConnectionSlot(self, sock, host)
            self._taken.setdefault(host, set()).add(place)
            self._silent.setdefault(host, {})[place] = None
            self._count += 1
            return place

    def mark_requested(self, place: ConnectionSlot) -> None:
        """A connection has asked."""
        with self._lock:
            _remove(self._silent, place)

    def free(self, place: ConnectionSlot) -> None:
        """A connection is over."""
        with self._lock:
            self._free(place)

    def _make_room(self, newcomer: str) -> bool:
        """Displace the oldest silent connection of the host that has most of them; whether there was one."""
        host = max(self._silent, key=lambda name: len(self._silent[name]), default=None)
        if host is None or len(self._silent[host]) <= len(self._silent.get(newcomer, ())):
            return False
        oldest = islice(self._silent[host], MOST_LOOKED_AT)
        victim = next((place for place in oldest if not _has_spoken(place.sock)), None)
        if victim is None:
            return False
        self._free(victim)
        self.displaced += 1
        with suppress(OSError):
            # Its thread sees the end and leaves. Of the plain class: TLS would drop state that its thread is using.
            socket.socket.shutdown(victim.sock, socket.SHUT_RDWR)
        return True

    def _free(self, place: ConnectionSlot) -> None:
        _remove(self._silent, place)
        if place in self._taken.get(place.host, ()):
            self._taken[place.host].discard(place)
            if not self._taken[place.host]:
                del self._taken[place.host]
            self._count -= 1


def _has_spoken(sock: socket.socket) -> bool:
    """Whether the peer's words have arrived and only wait for their thread to read them."""
    try:
        # Not `recv` with MSG_DONTWAIT: on a socket with a time-out Python waits all the same.
        answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    except (OSError, ValueError):  # closed by its own thread meanwhile
        return False
    return int.from_bytes(answer, sys.byteorder) > 0


def _remove(silent: dict[str, dict[ConnectionSlot, None]], place: ConnectionSlot) -> None:
    places = silent.get(place.host)
    if places is not None:
        places.pop(place, None)
        if not places:
            del silent[place.host]
