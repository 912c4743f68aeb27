"""The input order, in which relations and output names are decided, whatever the number of workers.

Contract: relations (duplicate, conflict) are decided one after the other in the order of `enter`, each as soon as the
identity of the instance and those of all before it are known; pixels may be processed in any order meanwhile. A
finished instance is `ready` when its relation is decided and no earlier instance that may want the same output name is
under way. Others do not wait for an instance that fails before its identity is known, or that is put off. After
`patience_s` they no longer wait for a missing identity either: its relation is then decided after theirs.

Must never: wait for the pixels of an instance whose output name cannot collide with that of the waiting one.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.results.ledger.transitions import output_key
from exporter.results.ledger.types import DuplicateCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporter.outcome import InstanceIdentity
    from exporter.results.ledger import Ledger
    from exporter.results.ledger.types import WorkItem

_NUMBERED: Final = re.compile(r"-(?:[2-9]|[0-9a-f]{16})$")
"""Suffix that `exporter.results.publish` adds to a name that is taken."""


@dataclass(slots=True, eq=False)
class InputTurn:
    """The place of one instance in the order."""

    work: WorkItem
    serial: int
    """Position among all instances of this process."""
    number: int
    """Number of the instance's row in the ledger, should it get a new one: rows are numbered in the same order."""
    identity: InstanceIdentity | None = None
    begun_at: float | None = None
    """Monotonic time when the attempt began."""
    is_known: bool = False
    """Whether `identity` is final; it stays None for an instance that failed before."""
    has_left: bool = False
    relation: DuplicateCheck | None = None
    """None until it is decided."""
    name_key: str | None = None
    """Wanted output name in a form for comparison; None without an identity."""


class InputOrder:
    """The instances under way, in the order of `enter`; thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        wanted_base: Callable[[WorkItem, InstanceIdentity], str],
        when_decided: Callable[[], None],
        patience_s: float = math.inf,
    ) -> None:
        """Begin with no instance under way.

        Args:
            ledger: Decides relations, in the order of the calls.
            wanted_base: Output base that an instance wants.
            when_decided: Called when a relation is decided or an output name is free that `ready` has waited for.
            patience_s: Longest time that others wait for an identity, from the beginning of the attempt.
        """
        self._ledger = ledger
        self._patience_s = patience_s
        self._wanted_base = wanted_base
        self._when_decided = when_decided
        self._lock = threading.Lock()
        self._serials = iter(range(1 << 62))
        self._undecided: deque[InputTurn] = deque()
        self._under_way: dict[int, InputTurn] = {}
        self._is_awaited = False

    def enter(self, work: WorkItem) -> InputTurn:
        """Give an instance the next place in the order."""
        with self._lock:
            turn = InputTurn(work, next(self._serials), self._ledger.reserve_number())
            self._undecided.append(turn)
            self._under_way[turn.serial] = turn
        return turn

    def pass_by(self, work: WorkItem) -> InputTurn:
        """Give a place to an instance without identity, media and relations, for which no other waits."""
        with self._lock:
            number = self._ledger.reserve_number()
            return InputTurn(work, next(self._serials), number, is_known=True, relation=DuplicateCheck())

    def identify(self, turn: InputTurn, identity: InstanceIdentity | None) -> None:
        """Set the identity of an instance; None if it failed before. Only the first call counts.

        Raises:
            LedgerUnusable: The ledger cannot be read.
        """
        with self._lock:
            if turn.is_known:
                return
            turn.identity, turn.is_known = identity, True
            self._decide()

    def leave(self, turn: InputTurn) -> None:
        """Remove an instance that is published, put off or given back.

        Raises:
            LedgerUnusable: The ledger cannot be read.
        """
        with self._lock:
            self._under_way.pop(turn.serial, None)
            turn.has_left = turn.is_known = True
            self._decide()
            self._wake()  # its output name is free

    def ready(self, turns: Iterable[InputTurn]) -> list[InputTurn]:
        """Select the finished instances that can be published now, as one batch in this order."""
        chosen: list[InputTurn] = []
        with self._lock:
            self._is_awaited = False
            self._pass_over()
            for turn in sorted(turns, key=lambda one: one.serial):
                if turn.relation is None or self._meets_earlier(turn, chosen):
                    self._is_awaited = True
                else:
                    chosen.append(turn)
        return chosen

    def _pass_over(self) -> None:
        """Move instances whose identity takes longer than `patience_s` behind the others."""
        latest = time.monotonic() - self._patience_s
        for _ in range(len(self._undecided)):
            turn = self._undecided[0]
            if turn.is_known or turn.begun_at is None or turn.begun_at > latest:
                break
            self._undecided.rotate(-1)
        self._decide()

    def _decide(self) -> None:
        """Decide the relations that can be decided, in order."""
        has_decided = False
        while self._undecided and self._undecided[0].is_known:
            turn = self._undecided[0]
            if turn.has_left:
                turn.relation = DuplicateCheck()
            else:
                turn.relation = self._ledger.identify(turn.work.name, turn.identity, turn.work.ae_title)
                if turn.identity is not None:
                    key = output_key(self._wanted_base(turn.work, turn.identity))
                    turn.name_key = _NUMBERED.sub("", key)
            self._undecided.popleft()
            has_decided = True
        if has_decided:
            self._wake()

    def _wake(self) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._when_decided()

    def _meets_earlier(self, turn: InputTurn, chosen: list[InputTurn]) -> bool:
        """Whether an earlier instance under way, and not chosen, may want the output name of this one."""
        if turn.name_key is None:
            return False
        for earlier in self._under_way.values():  # in the order of `enter`
            if earlier.serial >= turn.serial:
                return False
            if earlier.name_key is not None and earlier not in chosen and _may_meet(earlier.name_key, turn.name_key):
                return True
        return False


def _may_meet(one: str, other: str) -> bool:
    """Whether the outputs of two bases can collide: suffixes begin with a dot."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")
