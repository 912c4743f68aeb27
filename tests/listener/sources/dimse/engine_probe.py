"""Both engines asked the same: every SOP class, transfer syntax and role in proposals, and messages of every kind.

Contract: nothing of the product is used to ask or to read the answer. Proposals come from the UIDs of PS3.6 as pydicom
has them, bytes from `requestor`. What is compared is what a peer sees: results, transfer syntaxes and roles of an
A-ASSOCIATE-AC; statuses, aborts and closed connections.

`NEGOTIATED` and `ANSWERED` list the differences, each with the clause that decides. `test_two_engines` fails where one
is not listed, or a listed one is gone, and holds the tables of docs/receiving.md:

    python -m tests.listener.sources.dimse.engine_probe       # rewrites them
"""

from __future__ import annotations

import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import sop_class

from tests.listener.requestor import (
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Requestor,
    Response,
    command,
    data_set,
    explicit,
    item,
    pdu,
    pdv,
    proposed,
    request,
    user_information,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.listener.requestor import Receiver

DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "receiving.md"
MARKS = ("<!-- engines: made by tests/listener/sources/dimse/engine_probe.py -->\n", "<!-- end of engines -->\n")
ENGINES: Final = ("native", "pynetdicom")
PRIVATE: Final = "2.25.1234"
FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
JPEG: Final = "1.2.840.10008.1.2.4.50"
CLASSES: Final = (
    *(uid for uid, entry in UID_dictionary.items() if entry[1] in {"SOP Class", "Meta SOP Class"}),
    *("1.2.840.10008.5.1.4.1.1.999999", "1.2.840.10008.9.9.9", "1.3.12.2.1107.5.9.1", PRIVATE),  # unknown, private
)
SYNTAXES: Final = (
    *(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"),
    "1.3.46.670589.33.1.4.1",  # private
)
ROLES: Final = (None, (1, 0), (0, 1), (1, 1))
"""SCU and SCP role that a requestor proposes for each class (PS3.7 D.3.3.4); neither is among `SITUATIONS`."""
MOST_CONTEXTS: Final = 128


# -- proposals -------------------------------------------------------------------------------------------------------


class Proposal(NamedTuple):
    """One presentation context."""

    sop_class: str
    syntaxes: tuple[str, ...]


class Answer(NamedTuple):
    """What one presentation context was answered."""

    result: int
    syntax: str
    """Empty where the context was not accepted: it is not significant then (PS3.8 9.3.3.2)."""
    role: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One presentation context, and what each engine answers."""

    proposal: Proposal
    role: tuple[int, int] | None
    native: Answer
    second: Answer

    @property
    def differ_in(self) -> list[str]:
        """Fields of the answer that differ; the transfer syntax only where both accept."""
        both = self.native.result == self.second.result == 0
        return [
            field
            for field in ("result", *(["syntax"] if both else []), "role")
            if getattr(self.native, field) != getattr(self.second, field)
        ]


def proposals(*, every: bool) -> list[Proposal]:
    """Some proposals that offer a choice, every class, every transfer syntax; with `every`, every pair of the two."""
    some = (CT, VERIFICATION, PRIVATE, FIND)
    choices = ((IMPLICIT, EXPLICIT), (IMPLICIT, JPEG), (EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.90", JPEG))
    found = [Proposal(uid, one) for uid in some for one in choices]
    if every:
        return found + [Proposal(uid, (syntax,)) for uid in CLASSES for syntax in SYNTAXES]
    found += [Proposal(uid, (SYNTAXES[number % len(SYNTAXES)],)) for number, uid in enumerate(CLASSES)]
    return found + [Proposal(uid, (syntax,)) for syntax in SYNTAXES for uid in some]


def compare(ports: dict[str, int], asked: list[Proposal]) -> Iterator[Compared]:
    """Propose everything to both engines, in each role, as many contexts on an association as there can be."""
    for role in ROLES:
        for start in range(0, len(asked), MOST_CONTEXTS):
            part = asked[start : start + MOST_CONTEXTS]
            answers = [propose(ports[engine], part, role) for engine in ENGINES]
            for proposal, native, second in zip(part, *answers, strict=True):
                yield Compared(proposal, role, native, second)


def propose(port: int, asked: list[Proposal], role: tuple[int, int] | None) -> list[Answer]:
    """Ask for one association, in one role for every class."""
    roles = [role_selection(uid, role) for uid in dict.fromkeys(one.sop_class for one in asked)] if role else []
    contexts = [proposed(2 * number + 1, one.sop_class, *one.syntaxes) for number, one in enumerate(asked)]
    with Requestor(port, wait_s=60) as requestor:
        kind, body = requestor.associate(*contexts, user=user_information(*roles))
        assert kind == 2, kind
        assert requestor.release() == 6
    results = {value[0]: value for kind, value in items(body[68:]) if kind == 0x21}
    user = next(value for kind, value in items(body[68:]) if kind == 0x50)
    answered = {value[2:-2].decode(): (value[-2], value[-1]) for kind, value in items(user) if kind == 0x54}
    assert len(results) == len(asked)
    return [
        Answer(value[2], value[8:].decode() if value[2] == 0 else "", answered.get(one.sop_class))
        for one, (_, value) in zip(asked, sorted(results.items()), strict=True)
    ]


def items(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Items and sub-items, with a length of two bytes (PS3.8 9.3.2)."""
    at = 0
    while at < len(content):
        kind, length = struct.unpack_from(">BxH", content, at)
        yield kind, content[at + 4 : at + 4 + length]
        at += 4 + length


def role_selection(uid: str, role: tuple[int, int]) -> bytes:
    return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes(role))


# -- differences in what is accepted ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Negotiated:
    """A difference in one field of the answer."""

    field: str
    situation: str
    native: str
    second: str
    clause: str
    applies: Callable[[Compared], bool]


STORAGE_UNKNOWN_TO_PYNETDICOM: Final = frozenset(
    "1.2.840.10008.5.1.4." + end
    for end in ("1.1.200.1", "1.1.200.3", "1.1.200.7", "1.1.201.1", "38.1", "39.1", "43.1", "44.1", "45.1")
)
UNCOMPRESSED: Final = (IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")


def _is_unknown_to_pynetdicom(uid: str) -> bool:
    return not hasattr(sop_class, UID(uid).keyword or "-")


NEGOTIATED: Final = (
    Negotiated(
        "result",
        "class of another service that pynetdicom has no name for: retired, trial, real-time, unknown outside storage",
        "3, abstract syntax not supported",
        "accepted as storage",
        "PS3.4 B.5: it is no Storage SOP Class; PS3.8 Table 9-18 has result 3 for it",
        lambda one: (
            (one.native.result, one.second.result) == (3, 0)
            and one.proposal.sop_class.startswith("1.2.840.10008.")
            and _is_unknown_to_pynetdicom(one.proposal.sop_class)
        ),
    ),
    Negotiated(
        "result",
        "storage of protocols, inventories, hanging protocols, colour palettes and implant templates",
        "accepted",
        "3, abstract syntax not supported",
        "PS3.4 GG.3: they are Non-Patient Object Storage SOP Classes",
        lambda one: (
            one.second.result == 3
            and one.native.result in {0, 1}
            and one.proposal.sop_class in STORAGE_UNKNOWN_TO_PYNETDICOM
        ),
    ),
    Negotiated(
        "result",
        "Verification in a transfer syntax that is compressed or private",
        "accepted",
        "4, transfer syntaxes not supported",
        "PS3.7 9.3.5: a C-ECHO has no data set, so that both may be said (PS3.8 9.3.3.2)",
        lambda one: (
            (one.native.result, one.second.result) == (0, 4)
            and one.proposal.sop_class == VERIFICATION
            and not set(one.proposal.syntaxes) & set(UNCOMPRESSED)
        ),
    ),
    Negotiated(
        "result",
        "requestor that proposes to be SCP alone",
        "1, user rejection",
        "accepted",
        "PS3.7 D.3.3.4: the acceptor would have to be SCU, which a receiver is not",
        lambda one: one.role == (0, 1) and (one.native.result, one.second.result) in {(1, 0), (1, 4)},
    ),
    Negotiated(
        "syntax",
        "Verification with a choice of transfer syntaxes",
        "compressed, then explicit VR",
        "implicit VR",
        "PS3.8 9.3.3.2: the acceptor takes one of those proposed",
        lambda one: one.proposal.sop_class == VERIFICATION,
    ),
    Negotiated(
        "role",
        "requestor that proposes to be SCP, or both",
        "SCP role refused",
        "SCP role accepted",
        "PS3.7 D.3.3.4: an acceptor agrees to what it does; no receiver sends C-STORE requests here",
        lambda one: (
            one.role is not None
            and one.role[1] == 1
            and one.second.role == one.role
            and one.native.role == (one.role[0], 0)
        ),
    ),
    Negotiated(
        "role",
        "role selection for a class whose context is rejected, or for Verification",
        "answered",
        "not answered",
        "PS3.7 D.3.3.4: without an answer the default roles hold, so that both mean the same",
        lambda one: (
            one.native.role is not None
            and one.second.role is None
            and (one.second.result != 0 or one.proposal.sop_class == VERIFICATION)
        ),
    ),
)


# -- situations ------------------------------------------------------------------------------------------------------


def established(requestor: Requestor, *contexts: bytes, **options: bytes) -> None:
    assert requestor.associate(*contexts, **options)[0] == 2


def what_comes(requestor: Requestor) -> list[str]:
    """What the peer says, until it has answered a C-ECHO that is sent now, or has closed."""
    with suppress(OSError):
        requestor.send(pdu(4, pdv(3, 3, echo_command(9999))))
    said = []
    while True:
        try:
            kind, body = requestor.receive()
        except ConnectionError:
            kind, body = 0, b""
        if kind == 4 and body[12:]:
            answer = response(body)
            if answer.elements.get(0x0120) == struct.pack("<H", 9999):
                return said
            said.append(f"0x{answer.status:04X}")
        elif kind in KINDS:
            said.append(KINDS[kind])
        if kind != 4:
            return said


KINDS: Final = {0: "closed", 2: "accepted", 3: "rejected", 6: "released", 7: "A-ABORT"}


def response(body: bytes) -> Response:
    elements, at, content = {}, 0, body[6:]
    while at < len(content):
        _, element, length = struct.unpack_from("<HHI", content, at)
        elements[element] = content[at + 8 : at + 8 + length]
        at += 8 + length
    return Response(elements)


def echo_command(message_id: int) -> bytes:
    return command({0x0002: VERIFICATION.encode(), 0x0100: 0x0030, 0x0110: message_id, 0x0800: 0x0101})


def asking(field: int, context: int = 1, **more: bytes | int) -> Callable[[Requestor], list[str]]:
    """An operation without data set."""

    def ask(requestor: Requestor) -> list[str]:
        established(requestor)
        elements: dict[int, bytes | int] = {0x0002: CT.encode(), 0x0100: field, 0x0110: 7, 0x0800: 0x0101}
        elements |= {int(key[1:], 16): value for key, value in more.items()}
        requestor.send(
            pdu(4, pdv(context, 3, command({key: value for key, value in elements.items() if value != b""})))
        )
        return what_comes(requestor)

    return ask


def storing(
    uid: str = "1.2.3", content: bytes | None = None, sop_class: str = CT, context: int = 1
) -> Callable[[Requestor], list[str]]:
    """One C-STORE."""

    def store(requestor: Requestor) -> list[str]:
        established(requestor)
        data = data_set(uid) if content is None else content
        said = requestor.store_command(uid, sop_class)
        requestor.send(pdu(4, pdv(context, 3, said)) + pdu(4, pdv(context, 2, data)))
        return what_comes(requestor)

    return store


def sending(*pdus: bytes) -> Callable[[Requestor], list[str]]:
    """Bytes on an association that is established."""

    def send(requestor: Requestor) -> list[str]:
        established(requestor)
        requestor.send(b"".join(pdus))
        return what_comes(requestor)

    return send


def requesting(content: bytes) -> Callable[[Requestor], list[str]]:
    """Bytes instead of a usual A-ASSOCIATE-RQ."""

    def send(requestor: Requestor) -> list[str]:
        requestor.send(content)
        requestor.sock.settimeout(30)
        try:
            kind, body = requestor.receive()
        except ConnectionError:
            kind, body = 0, b""
        said = [KINDS[kind]]
        if kind == 3:
            said.append(str(tuple(body[1:])))
        if kind == 2:
            user = next(value for what, value in items(body[68:]) if what == 0x50)
            said += [f"item {what:02X}" for what, _ in items(user) if what in {0x53, 0x54, 0x56, 0x59}]
        return said

    return send


def _store(uid: str = "1.2.3") -> bytes:
    elements: dict[int, bytes | int] = {
        2: CT.encode(),
        0x100: 1,
        0x110: 5,
        0x700: 0,
        0x800: 0x102,
        0x1000: uid.encode(),
    }
    return command(elements)


_ONE: Final = proposed(1, CT, EXPLICIT)
_IDENTITY: Final = item(0x58, bytes((2, 1)) + b"\0\4anna\0\6secret")

SITUATIONS: Final[dict[str, Callable[[Requestor], list[str]]]] = {
    "C-STORE": storing(),
    "C-STORE in one PDU with its command": sending(pdu(4, pdv(1, 3, _store()) + pdv(1, 2, data_set()))),
    "two C-STORE in one PDU": sending(pdu(4, (pdv(1, 3, _store()) + pdv(1, 2, data_set())) * 2)),
    "UID of letters": storing("not.a.uid"),
    "UID of 65 characters": storing("1." + "2" * 63),
    "no Affected SOP Instance UID": storing(uid="", content=data_set("1.2.3")),
    "other instance in the data set": storing("1.2.3", data_set("1.2.4")),
    "other class than the context's": storing(sop_class="1.2.840.10008.5.1.4.1.1.4"),
    "data set cut off": storing(content=data_set()[:-100]),
    "data set of nothing": storing(content=b""),
    "data set with a lying length": storing(content=explicit(0x00080018, b"UI", b"1.2.3")[:-1]),
    "C-STORE without data set": asking(0x0001, x1000=b"1.2.3"),
    "C-STORE on the Verification context": storing(context=3),
    "C-STORE on a context that was not accepted": storing(context=5),
    "data set on another context than its command": sending(pdu(4, pdv(1, 3, _store())), pdu(4, pdv(3, 2, data_set()))),
    "C-ECHO": asking(0x0030, context=3, x0002=VERIFICATION.encode()),
    "C-ECHO on a storage context": asking(0x0030, x0002=VERIFICATION.encode()),
    "C-ECHO of a storage class": asking(0x0030),
    "C-FIND": asking(0x0020, x0002=FIND.encode()),
    "C-MOVE": asking(0x0021, x0002=FIND.encode(), x0600=b"WHO"),
    "C-GET": asking(0x0010, x0002=FIND.encode()),
    "N-ACTION": asking(0x0130, x0002=b"", x0003=CT.encode(), x1001=b"1.2.3", x1008=1),
    "N-EVENT-REPORT": asking(0x0100, x1000=b"1.2.3", x1002=1),
    "operation that no one knows": asking(0x7777),
    "C-CANCEL of nothing": asking(0x0FFF, x0110=b"", x0120=1),
    "response to nothing": asking(0x8001, x0110=b"", x0120=1, x0900=0),
    "command set without field": sending(pdu(4, pdv(1, 3, command({0x0110: 1, 0x0800: 0x0101})))),
    "command set of nothing": sending(pdu(4, pdv(1, 3, b""))),
    "data set without command": sending(pdu(4, pdv(1, 2, data_set()))),
    "second command before the data set": sending(pdu(4, pdv(1, 3, _store())) * 2),
    "P-DATA-TF longer than we said": sending(pdu(4, pdv(1, 1, bytes(300_000)))),
    "P-DATA-TF of nothing": sending(pdu(4, b"")),
    "PDV longer than its PDU": sending(pdu(4, struct.pack(">IBB", 5000, 1, 3) + bytes(100))),
    "PDU of no type": sending(pdu(0x0C, bytes(4))),
    "second A-ASSOCIATE-RQ": sending(request(_ONE)),
    "A-ASSOCIATE-AC": sending(pdu(2, bytes(68))),
    "A-RELEASE-RQ": sending(pdu(5, bytes(4))),
    "A-ABORT": sending(pdu(7, bytes(4))),
    "plain request": requesting(request(_ONE)),
    "request without contexts": requesting(request()),
    "request without user information": requesting(request(_ONE, user=b"")),
    "context with an even ID": requesting(request(proposed(2, CT, EXPLICIT))),
    "context ID used twice": requesting(request(_ONE, _ONE)),
    "context without transfer syntax": requesting(request(proposed(1, CT))),
    "abstract syntax of letters": requesting(request(proposed(1, "no.uid", EXPLICIT))),
    "called AE title that is none of ours": requesting(request(_ONE, called="NOBODY")),
    "AE titles padded with zeros": requesting(request(_ONE, called="EXPORTER".ljust(16, "\0"))),
    "AE title with a letter outside ASCII": requesting(request(_ONE, calling="M\xfcLLER")),
    "application context that is not DICOM's": requesting(request(_ONE, application_context=b"1.2.3")),
    "protocol version 2": requesting(request(_ONE, version=2)),
    "protocol versions 1 and 2": requesting(request(_ONE, version=3)),
    "window of 5 operations": requesting(request(_ONE, user=user_information(item(0x53, b"\0\5\0\5")))),
    "unlimited window": requesting(request(_ONE, user=user_information(item(0x53, bytes(4))))),
    "neither role": requesting(request(_ONE, user=user_information(role_selection(CT, (0, 0))))),
    "extended negotiation of storage": requesting(
        request(_ONE, user=user_information(item(0x56, struct.pack(">H", len(CT)) + CT.encode() + bytes(6))))
    ),
    "user identity that no one asked for": requesting(request(_ONE, user=user_information(_IDENTITY))),
    "A-RELEASE-RQ first": requesting(pdu(5, bytes(4))),
    "PDU of no type first": requesting(b"GET / HTTP/1.0\r\n\r\n"),
    "A-ASSOCIATE-RQ of 4 GB": requesting(struct.pack(">BxI", 1, 0xFFFFFFF0) + bytes(100)),
}
"""What a requestor does, by what it is called in the tables."""


def observe(receiver: Receiver, situation: str) -> str:
    """What comes of one situation on an association of its own: answers, and files that are kept."""
    before = len(receiver.new()), len(receiver.quarantined())
    with receiver.requestor(wait_s=30) as requestor:
        said = SITUATIONS[situation](requestor) or ["no answer"]
    kept = len(receiver.new()) - before[0], len(receiver.quarantined()) - before[1]
    said += [f"{count} in {where}" for count, where in zip(kept, ("the spool", "quarantine"), strict=True) if count]
    return ", ".join(said)


class Answered(NamedTuple):
    """A difference in what comes of a situation, and the clause that decides."""

    native: str
    second: str
    clause: str


_NO_OPERATION: Final = "PS3.7 C.5.24: a request is answered that the operation is not recognized"
_BROKEN_COMMAND: Final = "PS3.7 E.1 requires the element; PS3.8 9.2.3 (AA-8) has an A-ABORT before the close"
_ONE_WINDOW: Final = "PS3.7 D.3.3.3: without an answer the window is (1,1), which is the native answer"

ANSWERED: Final = {
    "two C-STORE in one PDU": Answered(
        "0x0000, 0x0000, 2 in the spool",
        "0x0000, 1 in the spool",
        "PS3.8 9.3.5: a P-DATA-TF has one or more values, of any messages; the second is lost, never acknowledged",
    ),
    "UID of 65 characters": Answered(
        "0xB007, 1 in the spool", "A-ABORT", "PS3.5 9.1 permits 64; PS3.4 Table B.2-1 has a warning for it"
    ),
    "no Affected SOP Instance UID": Answered(
        "0xA900, 1 in quarantine", "no answer", "PS3.7 9.3.1.2: a C-STORE-RQ is answered, whatever is wrong with it"
    ),
    "data set on another context than its command": Answered(
        "A-ABORT", "0x0000, 1 in the spool", "PS3.8 E.1: fragments of one message have one presentation context"
    ),
    "C-ECHO of a storage class": Answered("0x0122", "A-ABORT", "PS3.7 C.5.6: the SOP Class is not supported"),
    "C-FIND": Answered("0x0211", "A-ABORT", _NO_OPERATION),
    "C-MOVE": Answered("0x0211", "A-ABORT", _NO_OPERATION),
    "C-GET": Answered("0x0211", "A-ABORT", _NO_OPERATION),
    "operation that no one knows": Answered("0x0211", "closed", _NO_OPERATION),
    "response to nothing": Answered(
        "A-ABORT", "no answer", "PS3.8 Table 9-26: an unexpected parameter may be answered with A-ABORT, or ignored"
    ),
    "command set without field": Answered("A-ABORT", "closed", _BROKEN_COMMAND),
    "command set of nothing": Answered("A-ABORT", "closed", _BROKEN_COMMAND),
    "second command before the data set": Answered(
        "A-ABORT", "no answer", "PS3.8 E.1: a message is sent as a whole before the next"
    ),
    "P-DATA-TF longer than we said": Answered(
        "A-ABORT", "closed", "PS3.8 D.1.1 forbids it; 9.2.3 (AA-8) has an A-ABORT before the close"
    ),
    "P-DATA-TF of nothing": Answered("A-ABORT", "no answer", "PS3.8 9.3.5: one or more presentation data values"),
    "request without contexts": Answered("A-ABORT", "accepted", "PS3.8 Table 9-11: one or more presentation contexts"),
    "request without user information": Answered("A-ABORT", "accepted", "PS3.8 Table 9-11: one user information item"),
    "context with an even ID": Answered(
        "A-ABORT", "closed", "PS3.8 Table 9-13: odd numbers; 9.2.3 (AA-1) has an A-ABORT before the close"
    ),
    "context ID used twice": Answered("A-ABORT", "accepted", "PS3.8 7.1.1.13: an ID names one presentation context"),
    "abstract syntax of letters": Answered("A-ABORT", "accepted", "PS3.8 Annex F: a UID has digits and points"),
    "AE titles padded with zeros": Answered(
        "accepted", "A-ABORT", "PS3.8 Table 9-11 pads with spaces; native lets zeros pass, for pynetdicom2"
    ),
    "AE title with a letter outside ASCII": Answered(
        "accepted", "A-ABORT", "PS3.5 6.2: AE is of the default repertoire; native lets it pass"
    ),
    "protocol versions 1 and 2": Answered(
        "accepted", "rejected, (1, 2, 2)", "PS3.8 Table 9-11: a receiver of version 1 tests bit 0 alone"
    ),
    "window of 5 operations": Answered("accepted, item 53", "accepted", _ONE_WINDOW),
    "unlimited window": Answered("accepted, item 53", "accepted", _ONE_WINDOW),
    "neither role": Answered("accepted, item 54", "closed", "PS3.7 D.3.3.4: a proposal of no role is answered"),
    "A-ASSOCIATE-RQ of 4 GB": Answered("A-ABORT", "closed", "PS3.8 9.2.3 (AA-1) has an A-ABORT before the close"),
}
"""Situations that end otherwise; all the others end alike."""


# -- the tables of the docs ------------------------------------------------------------------------------------------


def tables() -> str:
    """Both lists, as the docs show them."""
    lines = ["| Proposal | native | pynetdicom | What decides |", "|---|---|---|---|"]
    lines += [f"| {one.situation} | {one.native} | {one.second} | {one.clause} |" for one in NEGOTIATED]
    lines += ["", "| Message or request | native | pynetdicom | What decides |", "|---|---|---|---|"]
    lines += [f"| {name} | {one.native} | {one.second} | {one.clause} |" for name, one in ANSWERED.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite the tables."""
    head, mark, rest = DOCUMENT.read_text().partition(MARKS[0])
    assert mark, "the document has no place for the tables"
    DOCUMENT.write_text(head + mark + tables() + MARKS[1] + rest.partition(MARKS[1])[2])


if __name__ == "__main__":
    sys.exit(main())
