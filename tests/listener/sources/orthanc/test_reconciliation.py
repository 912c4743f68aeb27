"""One pass over a list that changes while it is read by offsets."""

from __future__ import annotations

import random

import pytest

from listener.sources.orthanc.answers import ListedInstance
from listener.sources.orthanc.memory import InstanceState, KnownInstance
from listener.sources.orthanc.reconciliation import ReconciliationPass, is_settled


class ShrinkingList:
    """A server whose instances vanish between two pages, and to which others come."""

    def __init__(
        self, count: int, rng: random.Random, *, vanish: int, is_ordered: bool = True, grows: bool = True
    ) -> None:
        self._grows = grows
        self.entries = [number.to_bytes(20, "big") for number in range(count)]
        self._rng, self._vanish, self._ordered = rng, vanish, is_ordered
        self.pages = 0

    def listed(self, since: int, *, expanded: bool) -> tuple[ListedInstance, ...]:
        assert since >= 0
        self.pages += 1
        page = tuple(
            ListedInstance(entry, bytes(16) if expanded else None) for entry in self.entries[since : since + 7]
        )
        for _ in range(min(self._vanish, len(self.entries))):
            self.entries.remove(self._rng.choice(self.entries))
        if self._grows:
            self.entries.append(self._rng.randbytes(20))
        if not self._ordered:
            self._rng.shuffle(self.entries)
        return page


def run(server: ShrinkingList) -> set[bytes]:
    one, seen = ReconciliationPass(expanded=False), set()
    while not one.is_listed:
        seen |= {entry.instance for entry in one.next_page(server)}  # type: ignore[arg-type]  # all it asks of a server
        assert server.pages < 5000
    return seen


@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 8, 13, 14, 15, 50])
def test_a_list_that_does_not_change_is_listed_once_to_its_end(count: int) -> None:
    server = ShrinkingList(count, random.Random(1), vanish=0, grows=False)  # noqa: S311 - no secret
    assert run(server) == set(server.entries)
    assert server.pages <= count // 6 + 2


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("vanish", [0, 1, 2])
def test_whatever_stays_is_listed_although_others_vanish_meanwhile(seed: int, vanish: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - no secret
    server = ShrinkingList(120, rng, vanish=vanish)
    stays = set(server.entries)
    seen = run(server)
    assert stays & set(server.entries) <= seen


def test_a_list_without_an_order_ends_all_the_same() -> None:
    server = ShrinkingList(100, random.Random(1), vanish=1, is_ordered=False)  # noqa: S311 - no secret
    assert run(server)


@pytest.mark.parametrize(
    ("state", "why", "uuid", "settled"),
    [
        (InstanceState.TAKEN, None, b"u", True),
        (InstanceState.TAKEN, None, b"v", False),
        (InstanceState.GONE, None, b"u", False),
        (InstanceState.FAILED, "cut_off", b"v", True),
        (InstanceState.FILTERED, "modalities:now", b"u", True),
        (InstanceState.FILTERED, "modalities:before", b"u", False),
        (InstanceState.FILTERED, "labels:now", b"u", False),
    ],
)
def test_what_is_to_be_done_about_a_listed_instance(
    state: InstanceState, why: str | None, uuid: bytes, settled: bool
) -> None:
    noted = KnownInstance(bytes(20), state, 0, 1, b"u", None, why)
    assert is_settled(ListedInstance(bytes(20), uuid), noted, "now") is settled
    assert not is_settled(ListedInstance(bytes(20), uuid), None, "now")
