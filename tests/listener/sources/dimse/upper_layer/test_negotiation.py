"""What is accepted of a proposal, and what the answer says."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary

from listener.intake.transfer_syntaxes import choose, is_storage
from listener.sources.dimse.upper_layer import pdu
from listener.sources.dimse.upper_layer.pdu import InvalidPDU, parse_associate_request
from tests.listener.requestor import CT, EXPLICIT, IMPLICIT, item, proposed, request, user_information

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.requestor import Receiver

JPEG, H264, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in (".4.50", ".4.102", ".1.99", ".2"))
JPIP = "1.2.840.10008.1.2.4.94"


def test_every_storage_class_of_the_standard_is_storage_and_no_other_class_is() -> None:
    for uid, (name, kind, *_) in UID_dictionary.items():
        if kind == "SOP Class" and name:
            is_one = "Storage" in name and "Commitment" not in name and "Media Storage" not in name
            assert is_storage(uid) == is_one, name


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ((IMPLICIT, EXPLICIT, JPEG), JPEG),
        ((H264, EXPLICIT), H264),
        ((IMPLICIT, EXPLICIT), EXPLICIT),
        ((BIG, DEFLATED, IMPLICIT), IMPLICIT),
        ((BIG, DEFLATED), DEFLATED),
        ((BIG,), BIG),
        (("1.2.3.4", BIG), BIG),
        (("1.2.3.4",), "1.2.3.4"),
        ((JPIP, EXPLICIT), EXPLICIT),
    ],
)
def test_the_transfer_syntax_that_changes_least_is_preferred(offered: tuple[str, ...], taken: str) -> None:
    assert choose(offered) == taken


def answers(body: bytes) -> dict[int, int]:
    """Result of each context in an A-ASSOCIATE-AC."""
    found, at = {}, 68
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21:
            found[body[at + 4]] = body[at + 6]
        at += 4 + length
    return found


def test_contexts_are_answered_one_by_one(receiver: Receiver) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    with receiver.requestor() as requestor:
        kind, body = requestor.associate(proposed(1, CT, EXPLICIT), proposed(3, find, IMPLICIT), proposed(5, CT, JPEG))
    assert kind == 2
    assert answers(body) == {1: 0, 3: 3, 5: 0}


def role(uid: str, *, scu: bool, scp: bool) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


@pytest.mark.parametrize(("scu", "scp", "result"), [(True, False, 0), (True, True, 0), (False, True, 1)])
def test_the_requestor_is_scu_or_has_nothing_to_do_here(receiver: Receiver, scu: bool, scp: bool, result: int) -> None:
    with receiver.requestor() as requestor:
        _, body = requestor.associate(proposed(1, CT, EXPLICIT), user=user_information(role(CT, scu=scu, scp=scp)))
    assert answers(body) == {1: result}
    assert role(CT, scu=scu, scp=False) in body


def test_extended_negotiation_of_storage_is_answered_with_full_storage_without_coercion(receiver: Receiver) -> None:
    asked = item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes((2, 0, 3, 0, 1, 0)))
    with receiver.requestor() as requestor:
        _, body = requestor.associate(proposed(1, CT, EXPLICIT), user=user_information(asked))
    assert item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes((2, 0, 0, 0, 0, 0))) in body


def test_without_a_window_item_there_is_none_in_the_answer(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        _, body = requestor.associate()
    assert item(0x53, b"\0\1\0\1") not in body


def test_the_titles_go_back_as_they_came(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        _, body = requestor.associate(called="ANY-SCP", calling="MODALITY 7")
    assert body[4:36] == b"ANY-SCP".ljust(16) + b"MODALITY 7".ljust(16)


def test_titles_padded_with_zeros_instead_of_spaces_are_the_same_titles(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"peers": [{"ae_title": "MODALITY"}]})  # pynetdicom2 sends them so
    with receiver.requestor() as requestor:
        assert requestor.associate(called="EXPORTER".ljust(16, "\0"), calling="MODALITY".ljust(16, "\0"))[0] == 2


def test_several_titles_share_one_port(receive: Callable[..., Receiver]) -> None:
    receiver = receive(listener={"more_ae_titles": ["RESEARCH"], "any_scp": False})
    for title, kind in (("EXPORTER", 2), ("RESEARCH", 2), ("ANY-SCP", 3)):
        with receiver.requestor() as requestor:
            assert requestor.associate(called=title)[0] == kind


def test_a_peer_that_receives_only_tiny_pdus_gets_tiny_pdus(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        requestor.associate(user=user_information(max_pdu_bytes=80))
        requestor.send(bytes.fromhex("04000000004a") + struct.pack(">IBB", 70, 3, 3) + _echo())
        kind, body = requestor.receive()
        assert kind == 4
        assert len(body) <= 80


def _echo() -> bytes:
    uid = b"1.2.840.10008.1.1\0"
    body = struct.pack("<HHI", 0, 2, len(uid)) + uid
    for element, value in ((0x100, 0x30), (0x110, 1), (0x800, 0x101)):
        body += struct.pack("<HHIH", 0, element, 2, value)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


@given(st.binary(max_size=400))
def test_any_bytes_at_all_are_a_request_or_an_invalid_pdu(noise: bytes) -> None:
    for body in (noise, request(proposed(1, CT, EXPLICIT))[6:74] + noise):
        with suppress(InvalidPDU):
            parse_associate_request(body)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_a_request_with_some_bytes_changed_is_a_request_or_an_invalid_pdu(at: int, change: bytes) -> None:
    whole = bytearray(
        request(proposed(1, CT, EXPLICIT, IMPLICIT), user=user_information(role(CT, scu=True, scp=True)))[6:]
    )
    at %= len(whole)
    whole[at : at + len(change)] = change
    try:
        parsed = parse_associate_request(bytes(whole))
    except InvalidPDU:
        return
    assert len(parsed.contexts) >= 1


@given(st.binary(min_size=1, max_size=5000), st.integers(70, 4000))
def test_what_is_cut_into_pdus_is_the_same_when_put_together(content: bytes, longest: int) -> None:
    stream = pdu.data_transfer(5, is_command=False, content=content, max_pdu_bytes=longest)
    joined, controls, at = b"", [], 0
    while at < len(stream):
        kind, length = pdu.HEADER.unpack_from(stream, at)
        assert (kind, length <= longest) == (4, True)
        size, context, control = pdu.PDV_HEADER.unpack_from(stream, at + 6)
        assert (size + 4, context) == (length, 5)
        joined += stream[at + 12 : at + 6 + length]
        controls.append(control)
        at += 6 + length
    assert joined == content
    assert controls == [0] * (len(controls) - 1) + [2]
