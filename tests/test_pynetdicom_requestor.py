"""The thread that pynetdicom runs beside an association takes no answer of ours, however the two are scheduled."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider

from tests.pynetdicom_requestor import Gate, associate, release

if TYPE_CHECKING:
    from collections.abc import Iterator

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
ANSWERS = 5
LATE_S = 1.0
SOON_S = 10.0


@pytest.fixture
def peer() -> Iterator[int]:
    """A peer with as many answers as `ANSWERS` to each C-FIND; its port."""

    def answer(_: evt.Event) -> Iterator[tuple[int, Dataset]]:
        for number in range(ANSWERS):
            found = Dataset()
            found.PatientID = str(number)
            yield 0xFF00, found

    entity = AE("PEER")
    entity.add_supported_context(FIND)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    yield server.server_address[1]
    server.shutdown()


@pytest.fixture
def entity() -> AE:
    made = AE("OURS")
    made.dimse_timeout = made.acse_timeout = made.network_timeout = SOON_S
    made.add_requested_context(FIND)
    return made


@pytest.fixture
def preempted(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Both threads lose the processor: the reactor between leaving its pause and saying so, until there is an answer
    for it to take; the other one between its request and the answers. Set while the reactor is there."""
    there, asked = threading.Event(), threading.Event()
    send_msg = DIMSEServiceProvider.send_msg

    def wait_for_answer(provider: DIMSEServiceProvider) -> None:
        until = time.monotonic() + SOON_S
        while provider.msg_queue.empty() and time.monotonic() < until:
            time.sleep(0.001)

    def send(provider: DIMSEServiceProvider, *arguments: Any) -> None:
        send_msg(provider, *arguments)
        if provider.assoc.is_requestor:
            asked.set()
            wait_for_answer(provider)
            time.sleep(LATE_S / 4)
            asked.clear()

    def set_paused(association: Association, value: bool) -> None:
        is_reactor = association.is_requestor and threading.current_thread() is association
        if is_reactor and not value:
            there.set()
            if asked.wait(LATE_S):
                wait_for_answer(association.dimse)
            there.clear()
        association.__dict__["_is_paused"] = value

    paused = property(lambda association: association.__dict__["_is_paused"], set_paused)
    monkeypatch.setattr(Association, "_is_paused", paused, raising=False)
    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", send)
    return there


def goes_round(association: Association, there: threading.Event) -> None:
    """Return when the reactor has just left its pause; the first time it says so before it ever paused."""
    until = time.monotonic() + SOON_S
    while not (there.is_set() and association._is_paused):
        assert time.monotonic() < until
        time.sleep(0.001)


def patients(association: Association) -> list[str]:
    asked = Dataset()
    asked.QueryRetrieveLevel = "STUDY"
    asked.PatientID = ""
    return [found.PatientID for _, found in association.send_c_find(asked, FIND) if found is not None]


def test_no_answer_is_lost_to_a_reactor_that_was_preempted(preempted: threading.Event, peer: int, entity: AE) -> None:
    association = associate(entity, "127.0.0.1", peer)
    for _ in range(2):
        goes_round(association, preempted)
        assert patients(association) == [*"01234"]
    release(association)
    assert association.is_released


def test_pynetdicom_alone_loses_one(preempted: threading.Event, peer: int, entity: AE) -> None:
    """What `Gate` is for; once this fails, it can go."""
    association = entity.associate("127.0.0.1", peer)
    goes_round(association, preempted)
    assert patients(association) == [*"1234"]
    release(association)


def test_an_association_that_ended_is_not_waited_for(peer: int, entity: AE) -> None:
    """pynetdicom would wait without end for a pause that does not come any more."""
    association = associate(entity, "127.0.0.1", peer)
    association.abort()
    association.join(SOON_S)
    association.is_established, association._is_paused = True, False
    with pytest.raises(RuntimeError, match="has ended"):
        patients(association)
    release(association)


def test_an_association_that_is_rejected_is_as_it_was_made(peer: int, entity: AE) -> None:
    entity.requested_contexts = []
    entity.add_requested_context("1.2.840.10008.1.1")
    association = associate(entity, "127.0.0.1", peer)
    assert not association.is_established


# -- the gate alone --------------------------------------------------------------------------------------------------


class Walker(threading.Thread):
    """Goes through a gate again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gate = Gate(self)
        self.goes_on = True
        self.is_outside = False
        self.walks = 0

    def run(self) -> None:
        while self.goes_on:
            self.gate.wait()
            self.is_outside = True
            time.sleep(0.002)
            self.walks += 1
            self.is_outside = False


@pytest.fixture
def walker() -> Iterator[Walker]:
    made = Walker()
    made.start()
    yield made
    made.goes_on = False
    made.gate.set()
    made.join(SOON_S)
    assert not made.is_alive()


def test_a_gate_that_was_cleared_holds_who_goes_through_it(walker: Walker) -> None:
    for _ in range(50):
        walker.gate.clear()
        assert not walker.gate.is_set()
        assert not walker.is_outside
        walks = walker.walks
        time.sleep(0.003)
        assert walker.walks == walks
        walker.gate.clear()  # twice is once
        walker.gate.set()
        assert walker.gate.is_set()
        walker.gate.clear()
        assert walker.walks == walks + 1, "closed at once: it went on all the same, and came back"
        walker.gate.set()


def test_a_gate_whose_thread_has_ended_cannot_be_cleared(walker: Walker) -> None:
    walker.goes_on = False
    walker.join(SOON_S)
    with pytest.raises(RuntimeError, match="has ended"):
        walker.gate.clear()


def test_a_thread_does_not_wait_for_itself() -> None:
    seen: list[bool] = []

    class Own(threading.Thread):
        def run(self) -> None:
            gate = Gate(self)
            gate.clear()
            seen.append(gate.is_set())

    own = Own(daemon=True)
    own.start()
    own.join(SOON_S)
    assert seen == [False]
