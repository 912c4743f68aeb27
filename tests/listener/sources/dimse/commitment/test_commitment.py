"""Storage commitment against a real requester (pynetdicom as SCU), also across a restart of ours."""

from __future__ import annotations

import json
import os
import struct
import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import P_DATA_TF

from listener.settings.listener import CommitmentSection
from listener.sources.dimse import DimseSource
from listener.sources.dimse.acceptor.services import Services
from listener.sources.dimse.commitment import queue
from listener.sources.dimse.commitment.messages import InvalidRequest, encode_report, parse_request
from listener.sources.dimse.commitment.queue import AcknowledgedLog, CommitmentQueue, CommitmentReport, Reference
from tests.listener.requestor import (
    CT,
    EXPLICIT,
    Receiver,
    Requestor,
    command,
    data_set,
    eventually,
    explicit,
    pdu,
    pdv,
    proposed,
)
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Callable

PUSH = "1.2.840.10008.1.20.1"
WELL_KNOWN = "1.2.840.10008.1.20.1.1"
ON = {"enabled": True, "retry_s": 0.2}


class Requester:
    """An SCU of storage commitment that remembers the reports it gets."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, Dataset]] = []
        self.reporters: list[threading.Thread] = []
        self.got = threading.Event()
        self.answer = 0x0000
        self.ae = AE("REQUESTER")
        self.ae.acse_timeout = self.ae.dimse_timeout = self.ae.network_timeout = 10
        self.ae.add_requested_context(PUSH, EXPLICIT)
        self.ae.add_supported_context(PUSH, scu_role=False, scp_role=True)

    def handlers(self) -> list[Any]:
        def report(event: Any) -> tuple[int, None]:
            self.reporters.append(threading.current_thread())
            self.reports.append((event.event_type, event.event_information))
            return self.answer, None

        def sent(event: Any) -> None:
            # Not when the report is there: pynetdicom breaks over an answer that is still to be sent after a release.
            if self.reports and isinstance(event.pdu, P_DATA_TF):
                self.got.set()

        return [(evt.EVT_N_EVENT_REPORT, report), (evt.EVT_PDU_SENT, sent)]

    def ask(self, port: int, *references: tuple[str, str], wait: bool = True) -> int:
        """One N-ACTION; its status. Without `wait`, the association is aborted at once."""
        association = associate(
            self.ae, "127.0.0.1", port, ae_title="EXPORTER", evt_handlers=self.handlers() if wait else []
        )
        assert association.is_established
        data_set = Dataset()
        data_set.TransactionUID = "1.2.3.4.5"
        data_set.ReferencedSOPSequence = []
        for sop_class, uid in references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            data_set.ReferencedSOPSequence.append(item)
        status, _ = association.send_n_action(data_set, 1, PUSH, WELL_KNOWN)
        if wait:
            assert self.got.wait(100)
            for thread in self.reporters:  # at its end it marks the reactor as running, whether or not it is
                thread.join(100)
            release(association)
        else:
            association.abort()
            # A thread of pynetdicom 3.0.4 that breaks over a report that comes meanwhile leaves its socket open.
            association.dul.join(100)
            left = association.dul.socket
            if left is not None and left.socket is not None:
                left.socket.close()
        return int(status.Status)


class ScriptedRequester:
    """An SCU of storage commitment that answers the reports of one association when, and as, a test says."""

    def __init__(self, requestor: Requestor) -> None:
        self._requestor = requestor
        requestor.associate(proposed(1, PUSH, EXPLICIT))

    def begin(self, content: bytes) -> None:
        """The beginning of an N-ACTION, whose data set is not complete."""
        self._requestor.send(pdu(4, pdv(1, 3, self._command())) + pdu(4, pdv(1, 0, content)))

    def ask(self, uid: str = "1.2.3") -> int:
        """One N-ACTION; its status."""
        reference = explicit(0x00081150, b"UI", CT.encode()) + explicit(0x00081155, b"UI", uid.encode())
        items = struct.pack("<HHI", 0xFFFE, 0xE000, len(reference)) + reference
        content = explicit(0x00081195, b"UI", b"1.2.3.4") + explicit(0x00081199, b"SQ", items)
        self._requestor.send(pdu(4, pdv(1, 3, self._command())) + pdu(4, pdv(1, 2, content)))
        return self._requestor.response().status

    def _command(self) -> bytes:
        elements: dict[int, bytes | int] = {
            0x0003: PUSH.encode(),
            0x0100: 0x0130,
            0x0110: 1,
            0x0800: 1,
            0x1001: WELL_KNOWN.encode(),
            0x1008: 1,
        }
        return command(elements)

    def report(self) -> tuple[int, bytes]:
        """Message ID and data set of the next report."""
        elements = self._requestor.response().elements
        assert elements[0x0100] == b"\0\1"
        kind, body = self._requestor.receive()
        assert kind == 4
        return int.from_bytes(elements[0x0110], "little"), body[6:]

    def answer(self, message_id: int, status: int = 0) -> None:
        """The response to a report."""
        elements: dict[int, bytes | int] = {0x0002: PUSH.encode(), 0x0100: 0x8100, 0x0120: message_id, 0x0800: 0x0101}
        self._requestor.send(pdu(4, pdv(1, 3, command(elements | {0x0900: status, 0x1000: WELL_KNOWN.encode()}))))


def queued(receiver: Receiver, end: str = "*") -> list[str]:
    """Names of the reports that were not confirmed, in the order they were asked for."""
    return sorted(path.name for path in (receiver.spool / "commitment").glob(end))


def memory_of(receiver: Receiver) -> queue.RequestMemory:
    """Memory for the requests that are being received."""
    source: Any = next(one for one in receiver.daemon._sources if isinstance(one, DimseSource))
    found: queue.RequestMemory = source._commitments.memory
    return found


def store(receiver: Receiver, *uids: str) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        assert [requestor.store(uid).status for uid in uids] == [0] * len(uids)
        requestor.release()


def test_all_that_is_held_is_reported_as_committed_on_the_same_association(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    store(receiver, "1.2.3", "1.2.4")
    requester = Requester()
    assert requester.ask(receiver.port, (CT, "1.2.3"), (CT, "1.2.4")) == 0
    ((event_type, report),) = requester.reports
    assert event_type == 1
    assert report.TransactionUID == "1.2.3.4.5"
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == ["1.2.3", "1.2.4"]
    assert "FailedSOPSequence" not in report
    eventually(lambda: not list((receiver.spool / "commitment").iterdir()), "the report left the queue")


def test_what_is_not_held_is_reported_with_its_reason(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    store(receiver, "1.2.3")
    requester = Requester()
    other = "1.2.840.10008.5.1.4.1.1.4"
    assert requester.ask(receiver.port, (CT, "1.2.3"), (CT, "1.2.99"), (other, "1.2.3")) == 0
    ((event_type, report),) = requester.reports
    assert event_type == 2
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == ["1.2.3"]
    failed = {(i.ReferencedSOPInstanceUID, i.ReferencedSOPClassUID, i.FailureReason) for i in report.FailedSOPSequence}
    assert failed == {("1.2.99", CT, 0x0112), ("1.2.3", other, 0x0119)}


def test_what_was_refused_is_not_committed(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store("1.2.3", b"\x08\0\x16\0UI\x08\0").status == 0xC000
    requester = Requester()
    requester.ask(receiver.port, (CT, "1.2.3"))
    assert requester.reports[0][0] == 2


# pynetdicom 3.0.4 leaves the socket of a refused connection to the garbage collector (transport.py, _shutdown_socket),
# and breaks over a report that comes while its association is aborted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_report_is_delivered_on_a_new_association_after_a_restart(tmp_path: Path, free_port: int) -> None:
    receiver = Receiver(tmp_path / "data", {"listener": {"commitment": ON}})
    requester = Requester()
    try:
        store(receiver, "1.2.3")
        assert requester.ask(receiver.port, (CT, "1.2.3"), (CT, "1.2.99"), wait=False) == 0
    finally:
        receiver.daemon.stop()
    assert len(list((receiver.spool / "commitment").glob("*.json"))) == 1
    targets = [{"ae_title": "REQUESTER", "host": "127.0.0.1", "port": free_port}]
    again = Receiver(tmp_path / "data", {"listener": {"commitment": ON | {"targets": targets}}})
    try:
        again.wait_for("commitment_report_failed")  # nobody listens yet
        server = requester.ae.start_server(("127.0.0.1", free_port), block=False, evt_handlers=requester.handlers())
        assert server is not None
        try:
            assert requester.got.wait(100)
            again.wait_for("commitment_reports_delivered")
        finally:
            server.shutdown()
        event_type, report = requester.reports[0]
        assert event_type == 2
        assert [i.ReferencedSOPInstanceUID for i in report.ReferencedSOPSequence] == ["1.2.3"]
        assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence] == [("1.2.99", 0x0112)]
        assert list((again.spool / "commitment").iterdir()) == []
    finally:
        again.daemon.stop()


def test_it_is_not_offered_unless_enabled(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        kind, body = requestor.associate(proposed(1, PUSH, EXPLICIT))
        assert kind == 2
        answer = body.index(b"\x21\0")
        assert body[answer + 6] == 3  # abstract syntax not supported


@pytest.fixture
def commitments(tmp_path: Path) -> CommitmentQueue:
    return CommitmentQueue(tmp_path, CommitmentSection(enabled=True, retry_s=100, give_up_days=1))


def test_a_failed_report_waits_longer_and_longer_and_is_given_up_in_the_end(
    commitments: CommitmentQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    report = commitments.accept("1.2", "A", "B", (Reference(CT, "1.2.3"),))
    assert list(commitments.due()) == []  # its association still lives
    commitments.release_association(report.name)
    pauses = []
    for _ in range(3):
        (due,) = commitments.due()
        again = commitments.read(due.name)
        assert again is not None
        commitments.failed(again)
        (path,) = commitments._folder.path.iterdir()
        pauses.append(json.loads(path.read_text())["not_before"] - now)
        now += pauses[-1]
    assert pauses == [100, 200, 400]
    now += 2 * 86_400
    (due,) = commitments.due()
    assert commitments.give_up(due)
    assert list(commitments._folder.path.iterdir()) == []
    commitments.close()


def test_a_late_confirmation_counts_for_its_own_report_only(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as requestor:
        requester = ScriptedRequester(requestor)
        numbers = []
        for _ in range(2):
            assert requester.ask() == 0
            numbers.append(requester.report()[0])
        _, second = queued(receiver)
        requester.answer(numbers[0])
        eventually(lambda: queued(receiver) == [second], "the first report left the queue")
        assert requester.ask() == 0
        numbers.append(requester.report()[0])
        assert len(set(numbers)) == 3
        (third,) = set(queued(receiver)) - {second}
        requester.answer(numbers[1])
        eventually(lambda: queued(receiver) == [third], "the second report left the queue, the third did not")
    name = third.partition(".")[0]
    eventually(lambda: queued(receiver) == [f"{name}.json"], "the third is for a new association")


def test_message_ids_begin_anew_without_meeting_a_report_that_is_not_confirmed(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Services.__init__

    def begin_late(self: Services, *arguments: Any) -> None:
        begin(self, *arguments)
        self._last_message_id = 0xFFFE

    monkeypatch.setattr(Services, "__init__", begin_late)
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as requestor:
        requester = ScriptedRequester(requestor)
        numbers = []
        for _ in range(3):
            requester.ask()
            numbers.append(requester.report()[0])
        assert numbers == [0xFFFF, 1, 2]


def test_reports_that_nobody_confirms_hold_no_descriptor(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})

    def descriptors() -> int:
        links = list(Path("/proc/self/fd").iterdir())
        return sum(str(receiver.spool) in os.readlink(link) for link in links if os.path.lexists(link))  # noqa: PTH115 - may be gone

    with receiver.requestor() as requestor:
        requester = ScriptedRequester(requestor)
        requester.ask()
        requester.report()
        before = descriptors()
        for _ in range(30):
            requester.ask()
            requester.report()
        assert len(queued(receiver, "*.held")) == 31
        assert descriptors() == before
    eventually(lambda: len(queued(receiver, "*.json")) == 31, "all wait for a new association")


def test_a_report_that_is_refused_waits_for_a_new_association_at_once(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as requestor:
        requester = ScriptedRequester(requestor)
        requester.ask()
        requester.answer(requester.report()[0], 0x0110)
        eventually(lambda: len(queued(receiver, "*.json")) == 1, "released by its association")
        assert requester.ask() == 0


def test_a_request_too_many_is_refused_and_the_others_stay(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_REPORTS_OF_ONE", 2)
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as requestor:
        requester = ScriptedRequester(requestor)
        number = 0
        for _ in range(2):
            assert requester.ask() == 0
            number = requester.report()[0]
        assert requester.ask() == 0x0213
        assert len(queued(receiver)) == 2
        requester.answer(number)
        eventually(lambda: len(queued(receiver)) == 1, "one is confirmed")
        assert requester.ask() == 0


def test_requests_that_are_being_received_take_bounded_memory_together(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_COLLECTED_BYTES", 20_000)
    receiver = receive(listener={"commitment": ON})
    with receiver.requestor() as greedy, receiver.requestor() as modest:
        first, other = ScriptedRequester(greedy), ScriptedRequester(modest)
        first.begin(bytes(16_000))
        greedy.send(pdu(4, pdv(1, 0, bytes(3_990))))  # a part of a data set, whose end does not come
        memory = memory_of(receiver)
        eventually(lambda: memory._left_bytes == 10, "it is held")
        assert other.ask() == 0x0213
    with receiver.requestor() as modest:
        other = ScriptedRequester(modest)
        eventually(lambda: memory._left_bytes == 20_000, "what was held is given back")
        assert other.ask() == 0


def test_what_a_process_that_ended_held_is_released_and_nothing_else(tmp_path: Path) -> None:
    settings = CommitmentSection(enabled=True)
    dead, living = (CommitmentQueue(tmp_path, settings, mark) for mark in (7, 8))
    reports = [c.accept("1.2", "A", "B", (Reference(CT, "1.2.3"),)) for c in (dead, living)]
    (tmp_path / "commitment" / f".{reports[0].name}.part").touch()
    living.recover(7)
    names = sorted(path.name for path in (tmp_path / "commitment").iterdir())
    assert names == sorted([f"{reports[0].name}.json", f"{reports[1].name}.held"])
    assert [report.name for report in living.due()] == [reports[0].name]
    for c in (dead, living):
        c.close()


def test_the_journal_survives_a_torn_last_line(tmp_path: Path) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    journal.record(CT.encode(), b"1.2.3")
    journal.close()
    (path,) = (tmp_path / "received").iterdir()
    with path.open("ab") as file:
        file.write(b"1.2.840.10008.5.1.4.1.1.2 1.2.")
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.3"), Reference(CT, "1.2.4")))] == [None, 0x0112]


def test_an_instance_is_found_again_without_its_day_being_read_again(tmp_path: Path) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    journal.record(CT.encode(), b"1.2.3")
    asked = (Reference(CT, "1.2.3"), Reference(CT, "1.2.4"))
    assert [r.failure for r in journal.judge(asked)] == [None, 0x0112]
    (path,) = (tmp_path / "received").glob("*.log")
    path.write_bytes(b"x" * (path.stat().st_size - 1) + b"\n")
    journal.record(CT.encode(), b"1.2.4")
    assert [r.failure for r in journal.judge(asked)] == [None, None]
    journal.close()


def test_processes_find_what_the_others_have_acknowledged(tmp_path: Path) -> None:
    one, other = AcknowledgedLog(tmp_path / "received"), AcknowledgedLog(tmp_path / "received")
    asked = (Reference(CT, "1.2.3"), Reference(CT, "1.2.4"))
    one.record(CT.encode(), b"1.2.3")
    assert [r.failure for r in other.judge(asked)] == [None, 0x0112]
    other.record(CT.encode(), b"1.2.4")
    assert [r.failure for r in one.judge(asked)] == [None, None]
    one.close()
    other.close()


@pytest.mark.parametrize("damage", [b"this is no data base" * 400, b""])
def test_an_index_that_is_damaged_or_gone_is_built_again(tmp_path: Path, damage: bytes) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    journal.record(CT.encode(), b"1.2.3")
    journal.judge((Reference(CT, "1.2.3"),))
    journal.close()
    (tmp_path / "received" / "index.db").write_bytes(damage)
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.3"),))] == [None]
    journal.close()


def test_a_day_that_is_forgotten_proves_nothing_any_more(tmp_path: Path) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    old = tmp_path / "received" / "20200101.log"
    old.write_text(f"{CT} 1.2.3\n")
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.3"),))] == [None]
    old.unlink()
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.3"),))] == [0x0112]
    journal.close()


def test_a_day_that_lost_its_end_is_read_from_its_beginning(tmp_path: Path) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    day = tmp_path / "received" / "20200101.log"
    day.write_text(f"{CT} 1.2.3\n{CT} 1.2.4\n")
    journal.judge((Reference(CT, "1.2.3"),))
    day.write_text(f"{CT} 1.2.5\n")
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.5"),))] == [None]
    journal.close()


def test_a_line_that_a_power_cut_tore_proves_nothing_and_costs_no_other(tmp_path: Path) -> None:
    journal = AcknowledgedLog(tmp_path / "received")
    journal.record(CT.encode(), b"1.2.3")
    journal.close()
    (path,) = (tmp_path / "received").glob("*.log")
    path.write_bytes(f"{CT} 1.2.3\n{CT} 1.2.34".encode())  # of 1.2.345
    journal = AcknowledgedLog(tmp_path / "received")
    journal.record(CT.encode(), b"1.2.5")
    uids = ("1.2.3", "1.2.34", "1.2.345", "1.2.5")
    judged = journal.judge(tuple(Reference(CT, uid) for uid in uids))
    assert [r.failure for r in judged] == [None, 0x0112, 0x0112, None]
    journal.close()


def test_a_sop_instance_uid_with_a_line_break_proves_nothing(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"commitment": ON})
    forged = f"1.2.3\n{CT} 1.2.99"
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store(forged, data_set(forged)).status == 0xB007
    requester = Requester()
    requester.ask(receiver.port, (CT, "1.2.99"))
    assert requester.reports[0][0] == 2


REFERENCES = (Reference(CT, "1.2.3"), Reference(CT, "1.2.34"), Reference(CT, "1.2.345"))
SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")


def as_bytes(content: Dataset, syntax: str) -> bytes:
    encoded = encode(content, syntax == SYNTAXES[0], syntax != SYNTAXES[2])
    assert encoded is not None
    return encoded


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_request_is_read_in_every_encoding(syntax: str, *, undefined: bool) -> None:
    content = Dataset()
    content.TransactionUID = "1.2.3.4"
    content.ReferencedSOPSequence = []
    content.RequestAttributesSequence = [Dataset()]
    content.RequestAttributesSequence[0].ScheduledProtocolCodeSequence = [Dataset()]
    for reference in REFERENCES:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference.sop_class_uid, reference.sop_instance_uid
        item.PurposeOfReferenceCodeSequence = [Dataset()]
        item.is_undefined_length_sequence_item = undefined
        content.ReferencedSOPSequence.append(item)
    for element in content:
        element.is_undefined_length = undefined and element.VR == "SQ"
    assert parse_request(as_bytes(content, syntax), syntax) == ("1.2.3.4", REFERENCES)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_report_is_what_another_library_reads(syntax: str) -> None:
    references = (*REFERENCES, Reference(CT, "1.2.5", 0x0112))
    report = CommitmentReport("name", "1.2.3.4", "A", "B", references, 0.0)
    found = decode(BytesIO(encode_report(report, syntax)), syntax == SYNTAXES[0], syntax != SYNTAXES[2])
    assert found.TransactionUID == "1.2.3.4"
    assert [i.ReferencedSOPInstanceUID for i in found.ReferencedSOPSequence] == ["1.2.3", "1.2.34", "1.2.345"]
    assert [(i.ReferencedSOPClassUID, i.FailureReason) for i in found.FailedSOPSequence] == [(CT, 0x0112)]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        explicit(0x00081195, b"UI", b"1.2.3"),
        explicit(0x00081195, b"UI", b"1.2.3")[:-1],
        explicit(0x00081195, b"UI", b"1.2.3") + explicit(0x00081199, b"SQ", b""),
        explicit(0x00081195, b"UI", b"none") + explicit(0x00081199, b"SQ", b""),
        b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff" * 100_000,
        b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff" * 100_000,
        b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff"
        + (b"\xfe\xff\0\xe0\xff\xff\xff\xff" + b"\x08\0\x99\x11SQ\0\0\xff\xff\xff\xff") * 100_000,
    ],
)
def test_what_is_no_request_is_invalid_however_deep_it_is(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_request(content, SYNTAXES[1])
