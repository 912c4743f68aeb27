"""The DIMSE source: a port, a thread per association, and a bound on both (PS3.4 Annex B as SCP).

Contract: the accepting thread does nothing that a peer can prolong: no read, no handshake, no name lookup. Connections
beyond the limits are answered by one thread for all of them, and never get one of their own. Whether an association is
served by this process or by one of its crew makes no difference that a peer could see.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.errors import SourceUnusable
from listener.network.connection_slots import ConnectionSlot, ConnectionSlots
from listener.network.ports import listen
from listener.network.tls import days_left
from listener.sources.dimse.acceptor.association import ProcessContext
from listener.sources.dimse.acceptor.config import acceptor_config
from listener.sources.dimse.acceptor.overload import OverloadRejecter
from listener.sources.dimse.acceptor.serving import Serving
from listener.sources.dimse.commitment.queue import CommitmentQueue
from listener.sources.dimse.commitment.reporting import CommitmentReporter
from listener.sources.dimse.processes.pool import ReceiverPool
from listener.sources.dimse.upper_layer.peer_pseudonyms import key_of

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSection, ListenerSettings
    from listener.sources.contract import Surroundings

log = structlog.get_logger()

TICK_S: Final = 0.5
CREW_READY_S: Final = 5.0
"""How long the port stays closed while further processes start: they take less than a second."""


class DimseSource:
    """A C-STORE and C-ECHO service on one port."""

    def __init__(self, settings: ListenerSettings, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._key = key_of(surroundings.spool.root)
        self._started_with = settings
        self._terms = acceptor_config(settings.listener, self._key)
        self._stopping = threading.Event()
        self._socket: socket.socket | None = None
        self._acceptor = threading.Thread(target=self._accept_all, name="accept", daemon=True)
        self._turned_away = OverloadRejecter(surroundings.counters)
        self._places = ConnectionSlots()
        commitment = settings.listener.commitment
        spool = surroundings.spool
        self._commitments = CommitmentQueue(spool.root, commitment, spool.mark) if commitment.enabled else None
        self._reporting: CommitmentReporter | None = None
        if self._commitments is not None:
            self._reporting = CommitmentReporter(
                self._commitments, settings.listener, surroundings.counters, self._terms.names
            )
        self._serving = Serving(ProcessContext(surroundings, self._commitments, self._stopping.is_set), self._left)
        others = settings.listener.receiving_processes - 1
        self._crew = ReceiverPool(
            others, surroundings, on_leave=self._left, on_declined=self._serve_here, on_ended=self._process_ended
        )
        self._last_tick = 0.0
        self._spare_fd = -1
        self._next_look_at_certificate = 0.0

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def start(self) -> str:
        """Bind the port and accept; raises `SourceUnusable` where that cannot be done."""
        settings = self._terms.settings
        if self._commitments is not None:
            self._commitments.recover()
        self._crew.start(self._started_with)
        self._crew.wait(CREW_READY_S)
        try:
            self._socket = listen(settings.host, settings.port, "listener")
        except SourceUnusable:
            self.stop(0.0)
            raise
        self._spare_fd = _reserve()
        self._last_tick = time.monotonic()
        self._turned_away.start()
        if self._reporting is not None:
            self._reporting.start()
        self._acceptor.start()
        kind = "DICOM over TLS" if self._terms.tls else "DICOM"
        return f"{kind} on {settings.host}:{self.port}, AE title {settings.ae_title}"

    def is_alive(self) -> bool:
        """Whether the accepting thread and the supervisor of the processes are running."""
        accepts = self._acceptor.is_alive() and time.monotonic() - self._last_tick < 10 * TICK_S
        return accepts and self._crew.is_alive()

    def reload(self, settings: ListenerSettings) -> None:
        """Give new settings and certificates to new associations; log a change that needs a restart instead."""
        try:
            terms = acceptor_config(settings.listener, self._key)
        except SourceUnusable as error:
            log.error("reload refused, the old settings stay", problem=str(error))  # noqa: TRY400 - no traceback
            return
        for setting in _fixed(self._started_with.listener, settings.listener):
            log.warning("needs a restart", setting=f"listener.{setting}")
        self._terms = terms
        self._next_look_at_certificate = 0.0
        self._crew.apply_settings(settings)
        if self._reporting is not None:
            self._reporting.apply_settings(settings.listener, terms.names)

    def stop(self, within_s: float) -> int:
        """Close the port, let messages under way finish, abort idle associations."""
        if self._stopping.is_set():
            return 0
        self._stopping.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            self._acceptor.join(2 * TICK_S + 1)
            self._socket.close()
        if self._spare_fd >= 0:
            os.close(self._spare_fd)
            self._spare_fd = -1
        self._turned_away.stop()
        until = time.monotonic() + within_s
        if self._reporting is not None:
            self._reporting.begin_to_stop()
        self._crew.tell_to_stop(within_s)
        cut_off = self._serving.join(within_s) + self._crew.join(until)
        is_over = self._reporting is None or self._reporting.stop(until - time.monotonic())
        if self._commitments is not None and is_over and not cut_off:
            self._commitments.close()
        return cut_off

    def _accept_all(self) -> None:
        listening = self._socket
        assert listening is not None  # noqa: S101 - `start` made it
        listening.settimeout(TICK_S)
        while not self._stopping.is_set():
            self._last_tick = time.monotonic()
            self._look_at_certificate()
            try:
                sock, address = listening.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopping.is_set():
                    self._accept_failed(listening, error)
                continue
            self._admit(sock, str(address[0]))

    def _look_at_certificate(self) -> None:
        """Warn of its expiry, at start and once a day."""
        settings = self._terms.settings.tls
        if settings is None or time.monotonic() < self._next_look_at_certificate:
            return
        self._next_look_at_certificate = time.monotonic() + 86_400
        try:
            days = days_left(settings)
        except SourceUnusable as error:
            log.warning("certificate cannot be read", problem=str(error))
            return
        self._surroundings.counters.gauge("certificate_days_left", int(days))
        if days < settings.warn_days:
            log.warning("certificate expires soon" if days >= 0 else "certificate has expired", days=round(days, 1))

    def _accept_failed(self, listening: socket.socket, error: OSError) -> None:
        """Out of descriptors: use the spare one to take the connection and close it, so that it need not wait."""
        self._surroundings.counters.add("accept_failed")
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._spare_fd >= 0:
            os.close(self._spare_fd)
            with suppress(OSError):
                listening.accept()[0].close()
            self._spare_fd = _reserve()
        log.error("cannot accept a connection", problem=error.strerror)
        self._stopping.wait(0.05)

    def _admit(self, sock: socket.socket, host: str) -> None:
        """Give a connection its thread, or turn it away."""
        terms = self._terms
        limits = terms.settings.limits
        if not terms.policy.addresses.knows_address(host):
            self._surroundings.counters.add("connections_from_unknown_address")
            self._turned_away.reject(sock, host, "address_not_allowed", encrypted=terms.tls is not None)
            return
        if self._places.is_tight(host, limits):
            self._crew.catch_up()  # who has asked is not displaced, who has left takes no place
        place = self._places.admit(sock, host, limits)
        if place is None:
            self._turned_away.reject(sock, host, "too_many_associations", encrypted=terms.tls is not None)
            return
        if not self._crew.hand_over(place, self._serving.count):
            self._serve_here(place)

    def _serve_here(self, place: ConnectionSlot) -> None:
        terms = self._terms
        if not self._serving.serve_on_thread(place, terms):
            place.release()
            self._turned_away.reject(place.sock, place.host, "too_many_threads", encrypted=terms.tls is not None)

    def _process_ended(self, mark: int) -> None:
        """A receiving process ended by itself: the reports it held are delivered on new associations."""
        if self._commitments is not None:
            self._commitments.recover(mark)

    def _left(self) -> None:
        """Associations are over, here or in another process: what they leave to be reported is reported."""
        if self._commitments is not None:
            self._commitments.wake.set()
        self._surroundings.counters.gauge("associations", self._places.count)
        self._surroundings.counters.gauge("connections_displaced", self._places.displaced)


def _fixed(before: ListenerSection, now: ListenerSection) -> list[str]:
    """What is set differently now and cannot change while the port is open."""
    found = [name for name in ("host", "port", "processes") if getattr(before, name) != getattr(now, name)]
    return found + (["commitment.enabled"] if before.commitment.enabled != now.commitment.enabled else [])


def _reserve() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
