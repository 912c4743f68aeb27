"""The interface of an engine: it decides who runs a batch, and nothing else.

Contract: an engine starts ``exporter batch run OUT N`` for every batch that is submitted, in any order and anywhere
that sees OUT. The truth is in OUT: an engine knows only what waits or runs.

Must never: wait in `submit` for a batch, or leave one running after `cancel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Sequence


class EngineUnusable(Unusable):
    """An engine cannot run batches: what it needs is missing or refuses."""


class BatchEngine(Protocol):
    """Runs batches somewhere."""

    def submit(self, batches: Sequence[int]) -> None:
        """Have each of these batches started once.

        Raises:
            EngineUnusable: It refuses; then none of them is started.
        """
        ...

    def alive(self) -> frozenset[int]:
        """Numbers of submitted batches that wait or run; called again and again, at least once a second.

        Raises:
            EngineUnusable: It cannot be asked.
        """
        ...

    def cancel(self) -> None:
        """Ask batches that run to end, start no other, and return when none is alive.

        Raises:
            EngineUnusable: It cannot be asked.
        """
        ...
