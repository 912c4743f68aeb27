"""The second engine keeps what pynetdicom alone would not: our limits, our deadlines, our order to stop."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from listener.settings.listener import ListenerSettings
from tests.listener.requestor import (
    CT,
    IMPLICIT,
    command,
    data_set,
    eventually,
    item,
    pdu,
    pdv,
    proposed,
    user_information,
)
from tests.listener.sources.dimse.byte_identity import client_context

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.listener.requestor import Receiver, Requestor


@pytest.fixture
def engine() -> str:
    return "pynetdicom"


def test_the_spool_has_what_came_long_before_the_message_is_complete(receiver: Receiver) -> None:
    content = data_set(pixels=bytes(400_000))
    with receiver.requestor() as requestor:
        requestor.associate()
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        pieces = [content[start : start + 100_000] for start in range(0, len(content), 100_000)]
        for piece in pieces[:-1]:
            requestor.send(pdu(4, pdv(1, 0, piece)))
        # pynetdicom has the last PDU at most; every one before it is in the file
        held = sum(map(len, pieces[:-2]))
        eventually(
            lambda: sum(p.stat().st_size for p in (receiver.spool / "tmp").iterdir()) > held, "it is in the file"
        )
        requestor.send(pdu(4, pdv(1, 2, pieces[-1])))
        assert requestor.response().status == 0


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"deadlines": {"request_s": 0.3}}, "connect"),
        ({"deadlines": {"idle_s": 0.3}}, "associate"),
        ({"deadlines": {"pdu_s": 0.3}}, "message"),
        ({"deadlines": {"pdu_s": 0.3, "idle_s": 0.3}}, "pdu"),
    ],
)
def test_a_peer_that_falls_silent_is_cut_off_at_the_deadline(
    receive: Callable[..., Receiver], settings: dict[str, Any], word: str
) -> None:
    receiver = receive(listener=settings)
    with receiver.requestor() as requestor:
        if word != "connect":
            requestor.associate()
        if word == "message":
            requestor.send(pdu(4, pdv(1, 3, requestor.store_command())) + pdu(4, pdv(1, 0, data_set()[:500])))
        if word == "pdu":
            requestor.send(pdu(4, pdv(1, 3, requestor.store_command()))[:20])
        assert requestor.is_closed()
    receiver.wait_for("associations_deadline_missed")
    assert receiver.new() == list((receiver.spool / "tmp").iterdir()) == []


def test_a_length_beyond_our_limits_is_not_believed(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        requestor.send(struct.pack(">BxI", 4, 0xFFFFFFF0) + bytes(1000))
        assert requestor.is_closed()
    with receiver.requestor() as requestor:
        requestor.send(struct.pack(">BxI", 1, 0xFFFFFFF0) + bytes(1000))
        assert requestor.is_closed()


@pytest.mark.parametrize("control", [0, 1])
def test_a_message_without_end_is_cut_off(receive: Callable[..., Receiver], control: int) -> None:
    """Control 0 is a data set without a command before it, 1 a command set that is never complete."""
    receiver = receive()
    with receiver.requestor() as requestor:
        requestor.associate()
        sender = threading.Thread(target=_flood, args=(requestor, pdu(4, pdv(1, control, bytes(60_000)))))
        sender.start()
        assert requestor.is_closed()
        sender.join()
    receiver.wait_for("associations_protocol_error")


def _flood(requestor: Requestor, content: bytes) -> None:
    """Send until the connection is gone: how much is read and thrown away until then depends on the machine."""
    with suppress(OSError):
        while True:
            requestor.send(content)


def test_an_endless_instance_is_cut_off_and_nothing_of_it_stays(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"limits": {"max_instance_bytes": 100_000}})
    with receiver.requestor() as requestor:
        requestor.associate()
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())))
        sender = threading.Thread(target=_flood, args=(requestor, pdu(4, pdv(1, 0, bytes(60_000)))))
        sender.start()
        assert requestor.is_closed()
        sender.join()
    receiver.wait_for("instances_incomplete")
    assert receiver.new() == list((receiver.spool / "tmp").iterdir()) == []


def test_a_stop_lets_the_message_under_way_be_answered_and_ends_idle_associations(
    receive: Callable[..., Receiver],
) -> None:
    receiver = receive()
    idle = receiver.requestor()
    idle.associate()
    busy = receiver.requestor()
    busy.associate()
    content = data_set(pixels=bytes(200_000))
    busy.send(pdu(4, pdv(1, 3, busy.store_command())))
    busy.send(pdu(4, pdv(1, 0, content[:100_000])) + pdu(4, pdv(1, 0, content[100_000:150_000])))
    eventually(lambda: any((receiver.spool / "tmp").iterdir()), "the instance is under way")
    stopping = threading.Thread(target=receiver.daemon.stop)
    stopping.start()
    assert idle.receive()[0] == 7
    receiver.wait_for("associations_stopped")  # the busy one is looked at as often, and goes on
    busy.send(pdu(4, pdv(1, 2, content[150_000:])))
    assert busy.response().status == 0
    assert busy.is_closed()
    stopping.join()
    assert receiver.count("associations_stopped") == 2
    assert len(receiver.new()) == 1
    idle.sock.close()
    busy.sock.close()


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"called": "NOBODY"}, (1, 1, 7)),
        ({"calling": "STRANGER"}, (1, 1, 3)),
        ({"application_context": b"1.2.3"}, (1, 1, 2)),
        ({"version": 2}, (1, 2, 2)),
    ],
)
def test_a_request_is_rejected_for_the_same_reasons_as_by_the_native_engine(
    receive: Callable[..., Receiver], options: dict[str, Any], answer: tuple[int, int, int]
) -> None:
    for engine in ("native", "pynetdicom"):
        receiver = receive(listener={"engine": engine, "peers": [{"ae_title": "TESTER"}]})
        with receiver.requestor() as requestor:
            kind, body = requestor.associate(**options)
            assert (kind, tuple(body[1:])) == (3, answer), engine


def test_low_space_rejects_associations(receive: Callable[..., Receiver]) -> None:
    marks = {"reject_below_bytes": 1 << 60, "refuse_below_bytes": 1 << 60, "resume_above_bytes": 1 << 60}
    receiver = receive(spool=marks)
    with receiver.requestor() as requestor:
        assert requestor.associate() == (3, bytes((0, 2, 3, 1)))


def test_an_operation_that_is_none_of_ours_is_refused_on_a_storage_context(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate(proposed(1, CT, IMPLICIT))
        elements: dict[int, bytes | int] = {3: CT.encode(), 0x100: 0x130, 0x110: 1, 0x800: 0x101, 0x1001: b"1.2.3"}
        requestor.send(pdu(4, pdv(1, 3, command(elements | {0x1008: 1}))))
        assert requestor.response().status == 0x0211


def test_a_class_is_answered_what_we_are_as_storage_scp(receiver: Receiver) -> None:
    asked = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes(6))
    with receiver.requestor() as requestor:
        kind, body = requestor.associate(user=user_information(asked))
    assert kind == 2
    assert item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes((2, 0, 0, 0, 0, 0))) in body


def test_a_user_is_let_in_over_tls_without_the_positive_response_that_native_gives(
    receive: Callable[..., Receiver], certificate: Path, tmp_path: Path
) -> None:
    """PS3.7 D.3.3.7.2 has a server response for it; pynetdicom gives one for tickets alone."""
    (tmp_path / "passcode").write_text("secret\n")
    users = [{"name": "anna", "passcode_file": str(tmp_path / "passcode")}]
    receiver = receive(listener={"users": users, "tls": {"certificate": str(certificate)}})
    for passcode, answer in ((b"secret", 2), (b"wrong!", 3)):
        identity = item(0x58, b"\2\1\0\4anna\0\6" + passcode)
        with receiver.requestor() as requestor:
            requestor.sock = client_context().wrap_socket(requestor.sock)
            kind, body = requestor.associate(user=user_information(identity))
            assert kind == answer
            assert item(0x59, b"\0\0") not in body
            if kind == 2:
                assert requestor.store("1.2.3").status == 0
    assert len(receiver.new()) == 1


def test_further_processes_receive_on_it_too(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"processes": 2})
    requestors = [receiver.requestor() for _ in range(4)]
    for number, requestor in enumerate(requestors):
        assert requestor.associate()[0] == 2
        assert requestor.store(f"1.2.{number}").status == 0
    for requestor in requestors:
        assert requestor.release() == 6
        requestor.sock.close()
    assert len(receiver.new()) == 4
    receiver.wait_for("instances_stored", 4)


def test_a_reload_changes_the_engine_for_new_associations(receiver: Receiver) -> None:
    with receiver.requestor() as before, receiver.requestor() as after:
        before.associate()
        receiver.daemon.reload(ListenerSettings.model_validate({"listener": {"port": 0, "engine": "native"}}))
        assert b"PYNETDICOM" not in after.associate()[1]
        assert before.store("1.2.1").status == after.store("1.2.2").status == 0


@pytest.mark.parametrize(
    ("listener", "sentence"),
    [
        ({"commitment": {"enabled": True}}, "`engine: pynetdicom` offers no storage commitment"),
        ({"limits": {"max_associations": 401}}, "`engine: pynetdicom` serves at most 400 connections at once"),
    ],
)
def test_what_it_does_not_offer_is_refused_with_the_configuration(listener: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        ListenerSettings.model_validate({"listener": {"engine": "pynetdicom"} | listener})
    ListenerSettings.model_validate({"listener": {"engine": "native"} | listener})


def test_without_the_package_the_listener_says_so_and_ends_with_1(tmp_path: Path, free_port: int) -> None:
    config = tmp_path / "config.yml"
    config.write_text(f"listener: {{engine: pynetdicom, port: {free_port}}}\n")
    hidden = tmp_path / "without.py"
    hidden.write_text(
        "import importlib.machinery as m, sys\n"
        "found = m.PathFinder.find_spec\n"
        "m.PathFinder.find_spec = classmethod(\n"
        "    lambda cls, name, *more: None if name.startswith('pynetdicom') else found(name, *more))\n"
        "from listener.__main__ import main\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, str(hidden), "--config", str(config), "--data", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "listener: listener.engine: the package pynetdicom is not installed; install it, or set `engine: native`"
    )
