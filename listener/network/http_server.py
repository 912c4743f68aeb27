"""An HTTP/1.1 server in a thread of its own, for an ASGI application, that no client can hold up (RFC 9112).

Contract: the protocol is uvicorn's on h11, which bounds headers and holds at most a few hundred KiB of a body; what it
leaves open is guarded here: connections are counted before a byte is read or a TLS handshake begun, a header must be
complete within its time, and an answer that nobody reads is given up. The application bounds the bodies.

Must never: write an access log, or let a silent connection keep a place that a speaking one needs.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from listener.foundation.errors import SourceUnusable
from listener.network.connection_slots import ConnectionSlot, ConnectionSlots
from listener.network.ports import listen

if TYPE_CHECKING:
    from collections.abc import Callable

    from listener.foundation.counters import Counters

log = structlog.get_logger()

LONGEST_HEADER: Final = 16_384
"""Longest request line and header together, and longest header of a chunk, in bytes."""
KEEP_ALIVE_S: Final = 5
UNREAD_ANSWER_S: Final = 30.0
"""Time for the client to read an answer."""
TICK_S: Final = 0.5
SILENT_S: Final = 1.0
"""A connection without a whole request header for so long may have to make room for a newcomer."""
TURNS_TO_READ: Final = 3
"""Rounds of the loop from a new connection to its first words: its task, its reader, the reading."""
STUCK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Guard:
    """What a connection may cost; a reload replaces it for new connections."""

    max_associations: int
    """Most connections; the name that `ConnectionSlots` asks for."""
    max_associations_per_peer: int
    header_s: float
    handshake_s: float
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection's place, what holds for it, and whom to tell that it has asked or is over."""

    place: ConnectionSlot
    guard: Guard
    heard: Callable[[ConnectionSlot], None]


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines for what comes before and after a request."""

    def __init__(self, config: Config, state: ServerState, visit: Visit, counters: Counters) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.access_log = False
        self._place = visit.place
        self._guard = visit.guard
        self._heard = visit.heard
        self._counters = counters
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as the base class has it
        """The handshake is over."""
        super().connection_made(transport)
        self.client = self.client or (self._place.host, 0)  # a connection that is over again tells no address
        self._counters.add("http_connections")
        self._expect(self._guard.header_s, "http_header_too_slow")

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """An answer is written, as far as the application is concerned."""
        self._forget()
        super().on_response_complete()
        if self.transport.is_closing():
            self._expect(UNREAD_ANSWER_S, "http_answer_not_read")
        else:
            self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._forget()
        super().connection_lost(exc)
        self._heard(self._place)
        self._place.release()

    def _look(self) -> None:
        """A request under way has the deadlines of its application; anything else has ours."""
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self._heard(self._place)
            self._place.mark_requested()
            self._forget()
        elif self._deadline is None:
            self._expect(self._guard.header_s, "http_header_too_slow")

    def _expect(self, within_s: float, otherwise: str) -> None:
        self._deadline = self.loop.call_later(within_s, self._too_slow, otherwise)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self, word: str) -> None:
        self._counters.add(word)
        self.transport.abort()


class HttpServer:
    """One listening address."""

    def __init__(self, app: Callable[..., Any], guard: Guard, counters: Counters, section: str = "status") -> None:
        self.guard = guard
        self._section = section
        """Section of the configuration with its address."""
        self._counters = counters
        self._config = Config(
            app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            h11_max_incomplete_event_size=LONGEST_HEADER,
        )
        self._state = ServerState()
        self._places = ConnectionSlots()
        self._silent: dict[ConnectionSlot, float] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._socket: socket.socket | None = None
        self._port = 0
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._stopping: asyncio.Event | None = None
        self._within_s = 0.0
        self._last_tick = 0.0
        self._cut_off = 0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._port

    def start(self, host: str, port: int) -> None:
        """Bind and serve; raises `SourceUnusable` where that cannot be done."""
        self._socket = listen(host, port, self._section)
        self._socket.setblocking(False)
        self._port = int(self._socket.getsockname()[1])
        self._config.load()
        self._last_tick = time.monotonic()
        self._thread.start()
        if not self._ready.wait(STUCK_S):
            raise SourceUnusable(f"the HTTP service on {host}:{port} did not begin to serve")

    def is_alive(self) -> bool:
        """Whether the loop goes round."""
        return self._thread.is_alive() and time.monotonic() - self._last_tick < 20 * TICK_S

    def stop(self, within_s: float) -> int:
        """Accept nothing new, and let requests under way be answered.

        Returns:
            The number of requests that were cut off.
        """
        if self._loop is None or self._stopping is None or not self._thread.is_alive():
            if self._socket is not None:
                self._socket.close()
            return 0
        self._within_s = within_s
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(within_s + STUCK_S)
        return self._cut_off + self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        listening = self._socket
        assert listening is not None  # noqa: S101 - `start` made it
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._ready.set()
        accepting = asyncio.create_task(self._accept_all(listening))
        while not self._stopping.is_set():
            self._last_tick = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S)
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        listening.close()
        await self._drain()

    async def _drain(self) -> None:
        """Close what is idle, wait for what is not, cut off the rest."""
        for task in self._opening:
            task.cancel()
        for protocol in list(self._state.connections):
            if isinstance(protocol, GuardedProtocol):
                protocol.shutdown()
        if self._state.tasks:
            _, pending = await asyncio.wait(self._state.tasks, timeout=self._within_s)
            self._cut_off = len(pending)
        # A last moment for answers to leave.
        until = time.monotonic() + min(self._within_s, 1.0)
        while self._state.connections and not self._cut_off and time.monotonic() < until:  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # a set that empties has no event
        for protocol in list(self._state.connections):
            if isinstance(protocol, GuardedProtocol):
                protocol.transport.abort()
        remaining = [*self._state.tasks, *self._opening]
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    async def _accept_all(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, or the peer is gone already
                self._counters.add("accept_failed")
                log.error("cannot accept a connection", problem=error.strerror)  # noqa: TRY400 - no traceback
                await asyncio.sleep(0.05)
                continue
            place = self._admit(sock, str(address[0]))
            self._counters.gauge("http_connections_open", self._places.count)
            if place is None:
                self._counters.add("http_connections_too_many")
                sock.close()
                continue
            task = loop.create_task(self._open(sock, place))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            # What it says at once is read before the next one asks for a place: whoever has words waiting to be read
            # counts as busy, and is not displaced.
            for _ in range(TURNS_TO_READ):
                await asyncio.sleep(0)

    def _admit(self, sock: socket.socket, host: str) -> ConnectionSlot | None:
        """A place for a newcomer, if need be that of the connection that has been silent for longest.

        Behind a proxy all have one address, so that here the addresses alone cannot decide who is in the way.
        """
        place = self._places.admit(sock, host, self.guard)
        if place is None:
            patience = time.monotonic() - SILENT_S
            silent = [one for one, since in self._silent.items() if since < patience]
            victim = next((one for one in silent if one.host == host), silent[0] if silent else None)
            if victim is None:
                return None
            self._heard(victim)
            victim.release()
            with suppress(OSError):
                victim.sock.shutdown(socket.SHUT_RDWR)
            self._counters.add("http_connections_displaced")
            place = self._places.admit(sock, host, self.guard)
        if place is not None:
            self._silent[place] = time.monotonic()
        return place

    def _heard(self, place: ConnectionSlot) -> None:
        """A connection has asked, or is over."""
        self._silent.pop(place, None)

    async def _open(self, sock: socket.socket, place: ConnectionSlot) -> None:
        """Do the handshake where there is one, and hand the connection to its protocol."""
        guard = self.guard
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: GuardedProtocol(self._config, self._state, Visit(place, guard, self._heard), self._counters),
                sock,
                ssl=guard.tls,
                ssl_handshake_timeout=guard.handshake_s if guard.tls else None,
                ssl_shutdown_timeout=STUCK_S if guard.tls else None,
            )
        except (OSError, ssl.SSLError, TimeoutError):
            self._counters.add("http_handshake_failed")
            self._turn_away(sock, place)
        except BaseException:  # above all being cancelled: the place must not stay taken
            self._turn_away(sock, place)
            raise

    def _turn_away(self, sock: socket.socket, place: ConnectionSlot) -> None:
        self._heard(place)
        place.release()
        sock.close()
