"""The main duty of both engines: what is acknowledged is in the spool, byte for byte."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from listener.foundation.durable import write_out
from listener.spool.errors import SpoolWriteFailed
from listener.spool.incoming import Incoming
from tests.listener.requestor import CT, EXPLICIT, IMPLICIT, data_set, explicit, pdu, pdv, proposed, stored_data_set

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.requestor import Receiver


@pytest.fixture(params=["native", "pynetdicom"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_echo_is_answered(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.echo().status == 0
        assert requestor.release() == 6


def test_the_data_set_is_kept_as_it_came(receiver: Receiver) -> None:
    content = data_set(pixels=os.urandom(300_000))
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store(content=content).status == 0
        (path,) = receiver.new()
    assert stored_data_set(path) == content


def test_the_file_meta_information_says_who_sent_what_to_whom(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate(calling="MODALITY", called="EXPORTER")
        requestor.store("1.2.3.77")
    meta = pydicom.dcmread(receiver.new()[0]).file_meta
    assert meta.MediaStorageSOPClassUID == CT
    assert meta.MediaStorageSOPInstanceUID == "1.2.3.77"
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SendingApplicationEntityTitle == "MODALITY"
    assert meta.ReceivingApplicationEntityTitle == "EXPORTER"
    assert meta.SendingPresentationAddress == "dicom://127.0.0.1"
    assert meta.ReceivingPresentationAddress == f"dicom://127.0.0.1:{receiver.port}"


def test_success_is_not_said_before_file_and_folder_are_synced(
    receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = receive(spool={"sync_folder": "always"})
    calls: list[str] = []

    def noting(word: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any, **more: Any) -> None:
            call(*arguments, **more)
            calls.append(word)

        return noted

    monkeypatch.setattr(os, "fdatasync", noting("file", os.fdatasync))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    monkeypatch.setattr(os, "fsync", noting("folder", os.fsync))
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store().status == 0
        assert calls == ["file", "rename", "folder"]


def test_success_is_not_said_before_a_small_file_is_written_out_renamed_and_synced(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noting(word: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: Any, **more: Any) -> None:
            call(*arguments, **more)
            calls.append(word)

        return noted

    monkeypatch.setattr(receiver.daemon._spool.commit_path, "names_follow_files", True)
    monkeypatch.setattr("listener.spool.incoming.write_out", noting("written out", write_out))
    monkeypatch.setattr(os, "rename", noting("rename", os.rename))
    monkeypatch.setattr(os, "fsync", noting("sync", os.fsync))
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store().status == 0
        assert calls == ["written out", "rename", "sync"]


@pytest.mark.parametrize("uid", ["1.2.840.10008.5.1.4.1.1.999999", "1.3.12.2.1107.5.9.1", "2.25.123456789"])
def test_private_unknown_and_future_classes_are_stored(receiver: Receiver, uid: str) -> None:
    with receiver.requestor() as requestor:
        requestor.associate(proposed(1, uid, EXPLICIT))
        assert requestor.store(sop_class=uid).status == 0
    assert len(receiver.new()) == 1


def test_many_messages_on_many_associations_at_once_all_arrive(receiver: Receiver) -> None:
    def send(number: int) -> None:
        with receiver.requestor() as requestor:
            requestor.associate()
            statuses.extend(requestor.store(f"1.2.{number}.{n}").status for n in range(25))
            requestor.release()

    statuses: list[int] = []
    threads = [threading.Thread(target=send, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 200
    uids = {pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in receiver.new()}
    assert len(uids) == 200


def test_the_same_instance_twice_is_kept_twice(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        assert [requestor.store().status for _ in range(2)] == [0, 0]
    assert len(receiver.new()) == 2


def test_a_message_in_pdus_of_any_size_is_the_same_message(receiver: Receiver) -> None:
    content = data_set(pixels=os.urandom(5000))
    with receiver.requestor() as requestor:
        requestor.associate()
        stream = b""
        cmd = requestor.store_command()
        for start in range(0, len(cmd), 7):
            stream += pdu(4, pdv(1, 3 if start + 7 >= len(cmd) else 1, cmd[start : start + 7]))
        for start in range(0, len(content), 11):  # several values in one PDU, each of a few bytes
            part = content[start : start + 11]
            last = 2 if start + 11 >= len(content) else 0
            stream += pdu(4, pdv(1, 0, part[:5]) + pdv(1, 0, b"") + pdv(1, last, part[5:]))
        requestor.send(stream)
        assert requestor.response().status == 0
    assert stored_data_set(receiver.new()[0]) == content


def test_two_messages_in_one_packet_are_two_messages(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        both = b""
        for uid in ("1.2.3", "1.2.4"):
            both += pdu(4, pdv(1, 3, requestor.store_command(uid))) + pdu(4, pdv(1, 2, data_set(uid)))
        requestor.send(both)
        assert [requestor.response().status for _ in range(2)] == [0, 0]
    assert len(receiver.new()) == 2


def test_a_data_set_without_end_of_transfer_is_never_seen(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command())) + pdu(4, pdv(1, 0, data_set())))
    receiver.wait_for("instances_incomplete")
    assert receiver.new() == []
    receiver.wait_for("associations_connection_lost")
    assert list((receiver.spool / "tmp").iterdir()) == []


def test_a_truncated_data_set_is_refused_and_a_copy_kept(receiver: Receiver) -> None:
    content = data_set()[:-100]
    with receiver.requestor() as requestor:
        requestor.associate()
        response = requestor.store(content=content)
        assert response.status == 0xC000
        assert "cut off" in response.comment
        assert requestor.store("1.2.4").status == 0
    assert len(receiver.new()) == 1
    (kept,) = receiver.quarantined()
    assert kept.parent.name == "unreadable"
    assert stored_data_set(kept) == content


def test_the_same_refused_data_set_is_kept_once(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        assert {requestor.store(content=data_set()[:-100]).status for _ in range(3)} == {0xC000}
    assert len(receiver.quarantined()) == 1


@pytest.mark.parametrize(
    "content", [data_set("9.9.9"), data_set(sop_class="1.2.840.10008.5.1.4.1.1.4"), explicit(0x00100010, b"PN", b"A")]
)
def test_a_data_set_that_is_not_what_its_command_says_is_refused(receiver: Receiver, content: bytes) -> None:
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store("1.2.3", content).status == 0xA900
    assert receiver.new() == []
    assert [path.parent.name for path in receiver.quarantined()] == ["identity_mismatch"]


def test_what_is_refused_by_default_can_be_accepted_with_a_warning(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"mismatch": "accept", "damaged": "accept"})
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store("1.2.3", data_set("9.9.9")).status == 0xB007
        assert requestor.store("1.2.3", data_set()[:-9]).status == 0xB007
    assert len(receiver.new()) == 2


def test_a_class_other_than_the_contexts_is_refused(receiver: Receiver) -> None:
    other = "1.2.840.10008.5.1.4.1.1.4"
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store("1.2.3", sop_class=other).status == 0x0122
        assert requestor.store("1.2.4").status == 0


@pytest.mark.parametrize("fails", ["receive", "write", "commit"])
def test_a_spool_that_fails_is_answered_a700_and_the_association_goes_on(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def broken(*_: object) -> None:
        raise SpoolWriteFailed("test", OSError(28, "No space left on device"))

    with receiver.requestor() as requestor:
        requestor.associate()
        with monkeypatch.context() as patch:
            patch.setattr(type(receiver.daemon._spool) if fails == "receive" else Incoming, fails, broken)
            response = requestor.store()
            assert response.status == 0xA700
            assert "Out of resources" in response.comment
        assert requestor.store("1.2.4").status == 0
    assert len(receiver.new()) == 1


def test_low_space_refuses_instances_and_lower_space_rejects_associations(receive: Callable[..., Receiver]) -> None:
    much = 1 << 60
    receiver = receive(
        spool={"reject_below_bytes": 0, "refuse_below_bytes": much, "resume_above_bytes": much},
    )
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0xA700
    rejecting = receive(
        spool={"reject_below_bytes": much, "refuse_below_bytes": much, "resume_above_bytes": much},
    )
    with rejecting.requestor() as requestor:
        assert requestor.associate() == (3, bytes((0, 2, 3, 1)))


def test_an_instance_over_the_limit_is_read_away_and_refused(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"limits": {"max_instance_bytes": 50_000}})
    with receiver.requestor() as requestor:
        requestor.associate()
        assert requestor.store(content=data_set(pixels=bytes(60_000))).status == 0xA700
        assert requestor.store("1.2.4").status == 0
    assert len(receiver.new()) == 1


@pytest.mark.parametrize("transfer_syntax", [EXPLICIT, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.102"])
def test_every_transfer_syntax_that_is_offered_alone_is_taken(receiver: Receiver, transfer_syntax: str) -> None:
    with receiver.requestor() as requestor:
        kind, body = requestor.associate(proposed(1, CT, transfer_syntax))
        assert kind == 2
        assert transfer_syntax.encode() in body
        assert requestor.store().status == 0
    assert pydicom.dcmread(receiver.new()[0], stop_before_pixels=True).file_meta.TransferSyntaxUID == transfer_syntax


def test_implicit_vr_is_walked_too(receiver: Receiver) -> None:
    content = b"".join(
        struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
        for tag, value in ((0x00080016, CT.encode() + b"\0"), (0x00080018, b"1.2.3\0"), (0x7FE00010, bytes(100)))
    )
    with receiver.requestor() as requestor:
        requestor.associate(proposed(1, CT, IMPLICIT))
        assert requestor.store("1.2.3", content).status == 0
        assert requestor.store("1.2.3", content[:-2]).status == 0xC000
