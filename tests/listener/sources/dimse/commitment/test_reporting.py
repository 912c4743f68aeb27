"""Reports to requesters that stall, lie, flood or leave: each ends within its deadline, and no other waits for it."""

from __future__ import annotations

import json
import socket
import time
import tracemalloc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from listener.settings.listener import CommitmentSection
from listener.sources.dimse.commitment import messages
from listener.sources.dimse.commitment.queue import CommitmentQueue, Reference
from listener.sources.dimse.upper_layer import pdu
from tests.listener.process import listening
from tests.listener.requestor import CT, Receiver, eventually
from tests.listener.sources.dimse.scripted_peer import HEADER, Gone, Line, ScriptedPeer, message, p_data, response

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PUSH = "1.2.840.10008.1.20.1"
DEADLINE_S = 0.5
EVENT_REPORT = 0x0100


def confirm_all(line: Line) -> None:
    """Confirm every report of an association, until something else comes."""
    line.accept()
    with suppress(Gone):
        while True:
            context, command, _ = line.read_message()
            line.respond(context, response(EVENT_REPORT, command.message_id, 0))


def confirm(line: Line) -> None:
    confirm_all(line)
    line.send(pdu.release_response())


def stall_before_the_answer(line: Line) -> None:
    line.read_request()
    line.hold()


def stall_in_a_pdu(line: Line) -> None:
    line.accept()
    context, command, _ = line.read_message()
    line.send(message(context, response(EVENT_REPORT, command.message_id, 0))[:-3])
    line.hold()


def claim_four_gigabytes(line: Line) -> None:
    line.accept()
    line.read_message()
    line.send(HEADER.pack(4, 0xFFFFFFFF))
    while True:
        line.send(bytes(1 << 16))


def claim_four_gigabytes_in_the_answer(line: Line) -> None:
    line.read_request()
    line.send(HEADER.pack(2, 0xFFFFFFFF))
    while True:
        line.send(bytes(1 << 16))


def flood(line: Line) -> None:
    line.accept()
    context, command, _ = line.read_message()
    while True:
        line.send(message(context, response(EVENT_REPORT, command.message_id + 1, 0)) * 100)


def flood_without_an_end(line: Line) -> None:
    line.accept()
    context, _, _ = line.read_message()
    line.send(p_data(context, 3, response(EVENT_REPORT, 9, 0, has_data=True)))
    while True:
        line.send(p_data(context, 0, bytes(16_000)))


def answer_another_number(line: Line) -> None:
    line.accept()
    context, command, _ = line.read_message()
    line.respond(context, response(EVENT_REPORT, command.message_id + 1, 0))
    line.hold()


def accept_without_the_context(line: Line) -> None:
    line.read_request()
    line.send(line.answer(refuse=(PUSH,)))
    line.serve_release()


def refuse_the_report(line: Line) -> None:
    line.accept()
    context, command, _ = line.read_message()
    line.respond(context, response(EVENT_REPORT, command.message_id, 0x0110))
    line.hold()


def release_instead_of_an_answer(line: Line) -> None:
    line.accept()
    line.read_message()
    line.send(pdu.release_request())
    line.sock.shutdown(socket.SHUT_WR)
    line.hold()


BAD = [
    stall_before_the_answer,
    stall_in_a_pdu,
    claim_four_gigabytes,
    claim_four_gigabytes_in_the_answer,
    flood,
    flood_without_an_end,
    answer_another_number,
    release_instead_of_an_answer,
    accept_without_the_context,
    refuse_the_report,
]
modes = pytest.mark.parametrize("mode", BAD, ids=lambda mode: mode.__name__)


def queue_reports(spool: Path, *requesters: str) -> None:
    """Leave reports in a queue, as an earlier listener would."""
    spool.mkdir(parents=True, exist_ok=True)
    queue = CommitmentQueue(spool, CommitmentSection(enabled=True))
    for requester in requesters:
        queue.accept("1.2.3", requester, "EXPORTER", (Reference(CT, "1.2.3"),))
    queue.close()


def waiting(spool: Path) -> list[str]:
    """The AE titles that the queue has a report for."""
    found = []
    for path in sorted((spool / "commitment").glob("*.json")):
        try:
            found.append(json.loads(path.read_bytes())["requester"])
        except FileNotFoundError:  # delivered just now
            continue
    return found


def settings(bad: ScriptedPeer, good: ScriptedPeer) -> dict[str, Any]:
    ports = {"BAD": bad.port, "GOOD": good.port}
    targets = [{"ae_title": title, "host": "127.0.0.1", "port": port} for title, port in ports.items()]
    return {"enabled": True, "retry_s": 0.05, "targets": targets}


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", DEADLINE_S)


@modes
@pytest.mark.usefixtures("short_deadlines")
def test_a_bad_target_ends_within_its_deadline_and_others_are_served(
    mode: Callable[[Line], None], tmp_path: Path
) -> None:
    queue_reports(tmp_path / "data" / "spool", "BAD", "BAD", *["GOOD"] * 3)
    with ScriptedPeer(mode) as bad, ScriptedPeer(confirm) as good:
        tracemalloc.start()
        receiver = Receiver(tmp_path / "data", {"listener": {"commitment": settings(bad, good)}})
        try:
            eventually(lambda: "GOOD" not in waiting(receiver.spool), "the other target has its reports", 100)
            assert good.connections == 1
            eventually(lambda: bad.connections >= 3, "the bad one is tried again and again", 100)
            _, peak = tracemalloc.get_traced_memory()
            assert peak < 8 << 20
            assert waiting(receiver.spool) == ["BAD", "BAD"]
        finally:
            tracemalloc.stop()
            began = time.monotonic()
            receiver.daemon.stop()
        assert time.monotonic() - began < 4
        assert waiting(receiver.spool) == ["BAD", "BAD"]


def test_a_target_that_never_answers_the_release_has_confirmed_all_the_same(tmp_path: Path) -> None:
    def confirm_and_hold(line: Line) -> None:
        confirm_all(line)
        line.hold()

    queue_reports(tmp_path / "data" / "spool", "BAD", "GOOD")
    with ScriptedPeer(confirm_and_hold) as bad, ScriptedPeer(confirm) as good:
        receiver = Receiver(tmp_path / "data", {"listener": {"commitment": settings(bad, good)}})
        try:
            eventually(lambda: not waiting(receiver.spool), "all are confirmed")
        finally:
            began = time.monotonic()
            receiver.daemon.stop()
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("mode", [stall_before_the_answer, stall_in_a_pdu, flood_without_an_end])
def test_sigterm_ends_a_listener_whose_target_stalls(
    mode: Callable[[Line], None], tmp_path: Path, free_port: int
) -> None:
    queue_reports(tmp_path / "data" / "spool", "BAD", "GOOD")
    with ScriptedPeer(mode) as bad, ScriptedPeer(confirm) as good:
        with listening(tmp_path, free_port, commitment=settings(bad, good)) as process:
            eventually(lambda: bad.connections > 0 and waiting(process.spool) == ["BAD"], "one target stalls", 100)
            began = time.monotonic()
        assert time.monotonic() - began < 8
        assert waiting(process.spool) == ["BAD"]


def test_reports_of_one_requester_go_out_on_one_association(tmp_path: Path) -> None:
    queue_reports(tmp_path / "data" / "spool", *["GOOD"] * 20)
    with ScriptedPeer(confirm) as good:
        receiver = Receiver(tmp_path / "data", {"listener": {"commitment": settings(good, good)}})
        try:
            eventually(lambda: not waiting(receiver.spool), "all are confirmed")
        finally:
            receiver.daemon.stop()
        assert good.connections == 1
        assert receiver.count("commitment_reports_delivered") == 20


def test_a_requester_without_an_address_is_one_line_in_the_log_and_its_reports_stay(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    queue_reports(tmp_path / "data" / "spool", *["NOBODY"] * 20)
    receiver = Receiver(tmp_path / "data", {"listener": {"commitment": {"enabled": True, "retry_s": 100}}})
    try:
        receiver.wait_for("commitment_report_failed")
    finally:
        receiver.daemon.stop()
    assert receiver.count("commitment_report_failed") == 1
    assert capfd.readouterr().out.count("no address is configured") <= 1
    assert waiting(receiver.spool) == ["NOBODY"] * 20
