"""The well-behaved sender that every attack has beside it: it must not notice, and says how long it waited at worst."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from tests.listener.requestor import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.requestor import Requestor

PATIENCE_S = 2.0
"""The worst latency that is let pass; it is printed, and far lower on an idle machine."""


class WellBehaved(threading.Thread):
    """Associates, echoes, stores and releases, again and again, and remembers how long the slowest round took."""

    def __init__(self, connect: Callable[[], Requestor], patience_s: float = PATIENCE_S) -> None:
        super().__init__(daemon=True)
        self._connect = connect
        self._patience_s = patience_s
        self._enough = threading.Event()
        self.rounds = 0
        self.worst_s = 0.0
        self.harm: str | None = None

    def run(self) -> None:
        while not self._enough.is_set():
            started = time.monotonic()
            try:
                self._round()
            except (OSError, AssertionError) as error:
                self.harm = f"round {self.rounds}: {error!r}"
                return
            self.worst_s = max(self.worst_s, time.monotonic() - started)
            self.rounds += 1
            self._enough.wait(0.02)

    def _round(self) -> None:
        with self._connect() as requestor:
            assert requestor.associate(calling="WELLBEHAVED")[0] == 2
            assert requestor.echo().status == 0
            assert requestor.store(f"1.2.{self.rounds + 1}").status == 0
            assert requestor.release() == 6

    def __enter__(self) -> Self:
        self.start()
        eventually(lambda: self.rounds > 0 or self.harm is not None, "first round")
        return self

    def __exit__(self, *_: object) -> None:
        seen = self.rounds
        eventually(lambda: self.rounds > seen or self.harm is not None, "one more round after the attack")
        self._enough.set()
        self.join(100)
        print(f"well-behaved sender: {self.rounds} rounds, worst {self.worst_s * 1000:.0f} ms")  # noqa: T201 - a figure
        assert self.harm is None
        assert self.worst_s < self._patience_s
