"""Storage commitment against a real requester (pynetdicom as SCU), also across a restart of ours."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF

from listener.settings import CommitmentSection
from listener.sources.dimse.commitment import Commitments, Journal, Reference
from listener.sources.dimse.requesting import associate, release
from tests.listener.requestor import CT, EXPLICIT, Receiver, eventually, proposed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

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
            assert self.got.wait(10)
            for thread in self.reporters:  # at its end it marks the reactor as running, whether or not it is
                thread.join(10)
            release(association)
        else:
            association.abort()
            # A thread of pynetdicom 3.0.4 that breaks over a report that comes meanwhile leaves its socket open.
            association.dul.join(10)
            left = association.dul.socket
            if left is not None and left.socket is not None:
                left.socket.close()
        return int(status.Status)


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
            assert requester.got.wait(10)
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
def commitments(tmp_path: Path) -> Commitments:
    return Commitments(tmp_path, CommitmentSection(enabled=True, retry_s=100, give_up_days=1))


def test_a_failed_report_waits_longer_and_longer_and_is_given_up_in_the_end(
    commitments: Commitments, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    report = commitments.accept("1.2", "A", "B", (Reference(CT, "1.2.3"),))
    assert list(commitments.due()) == []  # its association still lives
    commitments.let_go(report)
    pauses = []
    for _ in range(3):
        (due,) = commitments.due()
        commitments.failed(due)
        (path,) = commitments._folder.path.iterdir()
        pauses.append(json.loads(path.read_text())["not_before"] - now)
        now += pauses[-1]
    assert pauses == [100, 200, 400]
    now += 2 * 86_400
    (due,) = commitments.due()
    commitments.failed(due)
    assert list(commitments._folder.path.iterdir()) == []
    commitments.close()


def test_the_journal_survives_a_torn_last_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "received")
    journal.note(CT.encode(), b"1.2.3")
    journal.close()
    (path,) = (tmp_path / "received").iterdir()
    with path.open("ab") as file:
        file.write(b"1.2.840.10008.5.1.4.1.1.2 1.2.")
    assert [r.failure for r in journal.judge((Reference(CT, "1.2.3"), Reference(CT, "1.2.4")))] == [None, 0x0112]
