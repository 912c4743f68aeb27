"""The associations that one process serves: each has a thread of its own; they are counted, and ended together.

Contract: `begin` gives a connection its thread or says that there are no more; whatever happens to an association, its
connection is closed and its place given back. `join` waits for all of them, for a while.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import structlog

from listener.sources.dimse.acceptor.association import Association, Connection, ProcessContext, SlotHandle

if TYPE_CHECKING:
    from collections.abc import Callable

    from listener.sources.dimse.acceptor.config import AcceptorConfig
    from listener.sources.dimse.acceptor.pynetdicom_engine import PynetdicomAssociation

log = structlog.get_logger()

STACK_BYTES: Final = 512 << 10


class Serving:
    """The threads of one process."""

    def __init__(self, common: ProcessContext, on_leave: Callable[[], None] | None = None) -> None:
        """Nothing is served yet.

        Args:
            common: What the associations share.
            on_leave: Called after each that is over.
        """
        self._common = common
        self._on_leave = on_leave
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        threading.stack_size(STACK_BYTES)

    @property
    def count(self) -> int:
        """Associations that are served now."""
        return len(self._threads)

    def serve_on_thread(self, place: SlotHandle, terms: AcceptorConfig) -> bool:
        """Serve a connection on a thread of its own; False where the system gives no more threads."""
        thread = threading.Thread(target=self._serve, args=(place, terms), daemon=True, name="association")
        with self._lock:
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            self._forget(thread)
            return False
        return True

    def join(self, within_s: float) -> int:
        """Wait until all associations are over, at most so long.

        Returns:
            The number of those that are not.
        """
        until = time.monotonic() + within_s
        for thread in self._running():
            thread.join(max(0.0, until - time.monotonic()))
        return len(self._running())

    def _serve(self, place: SlotHandle, terms: AcceptorConfig) -> None:
        try:
            own = place.sock.getsockname()
            connection = Connection(place, str(own[0]), int(own[1]))
            _engine(terms)(connection, terms, self._common).run()
        except Exception:  # around the replies of one association: a defect of ours must not leave its peer waiting
            log.exception("association failed inside")
            self._common.surroundings.counters.add("associations_failed_inside")
        finally:
            place.sock.close()
            self._forget(threading.current_thread())
            place.release()
            if self._on_leave is not None:
                self._on_leave()

    def _running(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._threads)

    def _forget(self, thread: threading.Thread) -> None:
        with self._lock:
            self._threads.discard(thread)


def _engine(terms: AcceptorConfig) -> type[Association | PynetdicomAssociation]:
    """The upper layer that serves new associations; pynetdicom is imported only where it is asked for."""
    if terms.settings.engine == "native":
        return Association
    from listener.sources.dimse.acceptor.pynetdicom_engine import PynetdicomAssociation

    return PynetdicomAssociation
