"""Peers that lie, break off or never end: bounded, named, and nothing counts as here that is not."""

from __future__ import annotations

import time
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import Dataset

from exporter.pull import asking, fetching, pace
from exporter.pull.outcome import RowState
from exporter.pull.request import PullEnded
from tests.exporter.pull.odd_peer import OddPeer
from tests.exporter.pull.running import Puller

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.pull.outcome import RowOutcome
    from tests.exporter.pull.conftest import Made


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(fetching, "SHORT_SETTLE_S", 0.2)


@pytest.fixture
def odd(forty: Made, tmp_path: Path) -> Callable[..., tuple[OddPeer, Puller]]:
    """A peer with the first three studies, and who pulls from it."""

    def make(**changes: Any) -> tuple[OddPeer, Puller]:
        files = [file for study in forty.studies[:3] for file in study.files]
        puller = Puller(tmp_path, "ODD", 0, {"parallel": 1, "times": {"settle_s": 0.5, "connect_s": 5}} | changes)
        peer = OddPeer(files, puller.listener_port)
        puller.port = peer.port
        puller.write(["AccessionNumber", forty.studies[0].accession])
        return peer, puller

    return make


def only(puller: Puller) -> RowOutcome:
    (outcome,) = puller.pull().outcomes
    return outcome


@pytest.mark.parametrize("method", ["move", "get"])
def test_an_honest_peer(odd: Callable[..., tuple[OddPeer, Puller]], method: str) -> None:
    peer, puller = odd(method=method)
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert len(peer.moved) == 1
    assert len(puller.new()) == 3


# -- finding ---------------------------------------------------------------------------------------------------------


def test_a_peer_that_answers_with_everything_does_not_get_everything_fetched(
    odd: Callable[..., tuple[OddPeer, Puller]], forty: Made
) -> None:
    """It does not know the key: what it answers for that key is empty, or another value."""
    peer, puller = odd()

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        if asked.QueryRetrieveLevel == "STUDY" and asked.AccessionNumber:
            asked.AccessionNumber = None
            for at, answer in enumerate(peer.answers(asked)):
                if at == 1:
                    del answer.AccessionNumber
                yield 0xFF01, answer
        else:
            for answer in peer.answers(asked):
                yield 0xFF00, answer

    peer.find = find
    with peer:
        assert only(puller).state is RowState.COMPLETE
        puller.write(["AccessionNumber", "OTHER"])
        outcome = only(puller)
    assert outcome.state is RowState.NOT_FOUND
    assert "3 answers were not what was asked for" in outcome.problem
    assert {str(moved.StudyInstanceUID) for moved in peer.moved} == {forty.studies[0].uid}


def test_too_many_answers_are_cancelled_and_nothing_of_them_is_fetched(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    peer, puller = odd(max_matches=20)
    puller.write(["StudyDate", "2020-01-02"])

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(100_000):
            if event.is_cancelled:
                peer.cancelled.set()
                yield 0xFE00, None
                return
            answer = Dataset()
            answer.QueryRetrieveLevel = "STUDY"
            answer.StudyDate = "20200102"
            answer.StudyInstanceUID = f"1.2.3.{number}"
            yield 0xFF00, answer
            time.sleep(0.01)  # pynetdicom reads nothing, no C-CANCEL either, while it has something to send

    peer.find = find
    with peer:
        outcome = only(puller)
        assert peer.cancelled.wait(100)
    assert outcome.state is RowState.REFUSED
    assert "more than 20 matches" in outcome.problem
    assert not peer.moved


def test_a_find_that_never_ends_is_cancelled_in_time(odd: Callable[..., tuple[OddPeer, Puller]]) -> None:
    peer, puller = odd(times={"find_s": 1.0, "settle_s": 0.5})

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        answer = peer.answers(event.identifier)[0]
        until = time.monotonic() + 100
        while time.monotonic() < until and not event.is_cancelled:
            yield 0xFF00, answer
            time.sleep(0.05)
        peer.cancelled.set()
        yield 0xFE00, None

    peer.find = find
    started = time.monotonic()
    with peer:
        outcome = only(puller)
        assert peer.cancelled.wait(100)
    assert outcome.state is RowState.REFUSED
    assert "did not end within 1 s" in outcome.problem
    assert time.monotonic() - started < 15


def test_answers_without_their_unique_key_or_twice_are_left_out(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    peer, puller = odd()

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        for answer in peer.answers(event.identifier):
            yield 0xFF00, answer
            yield 0xFF00, answer
            nameless = deepcopy(answer)
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
                if keyword in nameless:
                    nameless[keyword].value = ""
            yield 0xFF00, nameless

    peer.find = find
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert len(peer.moved) == 1
    assert len(puller.new()) == 3


@pytest.mark.parametrize(("status", "asked"), [(0xA700, 3), (0xC001, 3), (0xA900, 1), (0x0122, 1)])
def test_a_refusal_that_may_pass_is_met_by_asking_again(
    odd: Callable[..., tuple[OddPeer, Puller]], status: int, asked: int
) -> None:
    peer, puller = odd()

    def find(_event: Any, _peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        yield status, None

    peer.find = find
    with peer:
        outcome = only(puller)
    assert outcome.state is RowState.REFUSED
    assert f"0x{status:04X}" in outcome.problem
    assert len(peer.asked) == asked


def test_keys_that_are_not_ascii_are_sent_in_the_character_set_of_the_peer(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    for character_set, raw in (("ISO_IR 100", b"T\xe4st^Nr1"), ("ISO_IR 192", "Täst^Nr1".encode())):
        peer, puller = odd(character_set=character_set)
        puller.write(["PatientName", "Täst^Nr1"])
        seen: list[bytes] = []

        def find(event: Any, peer: OddPeer, seen: list[bytes] = seen) -> Iterator[tuple[int, Dataset | None]]:
            seen.append(event.request.Identifier.getvalue())
            for answer in peer.answers(event.identifier):
                yield 0xFF00, answer

        peer.find = find
        with peer:
            assert puller.pull(again=True).is_all_well
        assert raw in seen[0]
        assert character_set.encode() in seen[0]


# -- fetching --------------------------------------------------------------------------------------------------------


def test_success_without_anything_sent_is_no_success(odd: Callable[..., tuple[OddPeer, Puller]]) -> None:
    peer, puller = odd(attempts=2)
    peer.sends = lambda _number, _wanted: []
    with peer:
        outcome = only(puller)
    assert outcome.state is RowState.INCOMPLETE
    assert "3 of 3 instances are missing: the peer says that it sent everything" in outcome.problem
    assert len(peer.moved) == 2
    assert puller.report.read_text().count(",missing,") == 3


def test_what_is_missing_is_asked_for_by_name(odd: Callable[..., tuple[OddPeer, Puller]], forty: Made) -> None:
    peer, puller = odd()
    peer.sends = lambda number, wanted: wanted[:2] if number == 1 else wanted
    peer.says = lambda _number, sent: len(sent) + 7
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert [str(moved.QueryRetrieveLevel) for moved in peer.moved] == ["STUDY", "IMAGE"]
    assert str(peer.moved[1].SOPInstanceUID) == forty.studies[0].instances[2]
    assert len(puller.new()) == 3


def test_what_stays_missing_is_named_and_asked_for_once_more_by_a_new_run(
    odd: Callable[..., tuple[OddPeer, Puller]], forty: Made
) -> None:
    peer, puller = odd(attempts=3)
    peer.sends = lambda _number, wanted: [one for one in wanted if one.InstanceNumber != 3]
    with peer:
        outcome = only(puller)
        assert outcome.state is RowState.INCOMPLETE
        assert outcome.problem.startswith("1 of 3 instances are missing")
        assert forty.studies[0].instances[2] in puller.report.read_text()
        assert len(peer.moved) == 3
        peer.sends = None
        assert only(puller).state is RowState.COMPLETE
    assert len(peer.moved) == 4


def test_a_warning_with_failed_sub_operations_is_not_waited_out_but_asked_again(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    peer, puller = odd(times={"settle_s": 60})
    calls: list[int] = []

    def move(event: Any, peer: OddPeer) -> Iterator[Any]:
        wanted = peer.matching(event.identifier)
        calls.append(len(wanted))
        yield peer.receiver
        yield len(wanted)
        if len(calls) == 1:
            yield 0xFF00, wanted[0]
            failed = Dataset()
            failed.FailedSOPInstanceUIDList = [one.SOPInstanceUID for one in wanted[1:]]
            yield 0xB000, failed
            return
        for one in wanted:
            yield 0xFF00, one

    peer.move = move
    started = time.monotonic()
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert calls == [3, 1, 1]  # what is missing, series by series
    assert time.monotonic() - started < 30


def test_an_association_that_is_aborted_midway_is_made_again(odd: Callable[..., tuple[OddPeer, Puller]]) -> None:
    peer, puller = odd()
    calls: list[int] = []

    def move(event: Any, peer: OddPeer) -> Iterator[Any]:
        wanted = peer.matching(event.identifier)
        calls.append(len(wanted))
        yield peer.receiver
        yield len(wanted)
        for one in wanted[:1] if len(calls) == 1 else wanted:
            yield 0xFF00, one
        if len(calls) == 1:
            event.assoc.abort()
            yield 0xFF00, wanted[1]

    peer.move = move
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert calls == [3, 1, 1]


def test_an_unknown_destination_ends_the_run_and_leaves_the_row_to_the_next(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    peer, puller = odd()

    def move(_event: Any, _peer: OddPeer) -> Iterator[Any]:
        yield None, None  # pynetdicom answers 0xA801

    peer.move = move
    with peer:
        with pytest.raises(PullEnded, match="0xA801"):
            puller.pull()
        peer.move = None
        assert only(puller).state is RowState.COMPLETE


@pytest.mark.parametrize("status", [0xA900, 0xC001, None])
def test_without_the_image_level_instances_are_counted(
    odd: Callable[..., tuple[OddPeer, Puller]], status: int | None
) -> None:
    """None: the peer answers at IMAGE level with nothing at all."""
    peer, puller = odd(attempts=2)

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        asked = event.identifier
        if asked.QueryRetrieveLevel == "IMAGE":
            if status is not None:
                yield status, None
            return
        for answer in peer.answers(asked):
            if asked.QueryRetrieveLevel == "STUDY":
                answer.NumberOfStudyRelatedInstances = "3"
            yield 0xFF00, answer

    peer.find = find
    peer.sends = lambda number, wanted: wanted[:2] if number == 1 else wanted
    with peer:
        assert only(puller).state is RowState.COMPLETE
    assert [str(moved.QueryRetrieveLevel) for moved in peer.moved] == ["STUDY", "STUDY"]


def test_where_nothing_shows_that_it_is_complete_it_is_not_called_so(
    odd: Callable[..., tuple[OddPeer, Puller]],
) -> None:
    peer, puller = odd()

    def find(event: Any, peer: OddPeer) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.QueryRetrieveLevel == "IMAGE":
            yield 0xA900, None
            return
        for answer in peer.answers(event.identifier):
            yield 0xFF00, answer

    peer.find = find
    with peer:
        outcome = only(puller)
    assert outcome.state is RowState.INCOMPLETE
    assert "neither the instances nor their number" in outcome.problem
    assert len(peer.moved) == 1
    assert len(puller.new()) == 3


@pytest.mark.parametrize("longest", [300_000, 900_000], ids=["far beyond the limit", "beyond the limit"])
def test_an_instance_that_is_longer_than_it_may_be_is_refused_and_the_limit_named(
    odd: Callable[..., tuple[OddPeer, Puller]], longest: int
) -> None:
    peer, puller = odd(method="get", max_get_bytes=longest, attempts=1)
    for data in peer.data[:2]:
        data.PixelData = bytes(1_000_000)
    with peer:
        outcome = only(puller)
    assert outcome.state is RowState.INCOMPLETE
    assert "longer than `max_get_bytes`" in outcome.problem
    # Far beyond it the association ends; else what comes after it is taken all the same.
    assert len(puller.new()) == (0 if longest == 300_000 else 1)
    assert not list((puller.data / "spool" / "tmp").iterdir())


def test_a_peer_that_is_not_there_ends_the_run_after_some_tries(
    odd: Callable[..., tuple[OddPeer, Puller]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TRIES", 3)
    _, puller = odd()
    with pytest.raises(PullEnded, match="cannot be reached: Connection refused"):
        puller.pull()


def test_a_peer_that_does_not_offer_the_model_is_told_at_once(odd: Callable[..., tuple[OddPeer, Puller]]) -> None:
    from pynetdicom import AE
    from pynetdicom.sop_class import Verification

    _, puller = odd()
    entity = AE(ae_title="ODD")
    entity.add_supported_context(Verification)
    server = entity.start_server(("127.0.0.1", puller.port), block=False)
    try:
        with pytest.raises(PullEnded, match=r"does not offer C-FIND|cannot be reached"):
            puller.pull()
    finally:
        server.shutdown()
