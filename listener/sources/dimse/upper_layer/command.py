"""Command sets of DIMSE messages, as bytes and as values (PS3.7 6.3, 9.3, 10.3, Annex E).

Contract: a command set is always implicit VR little endian. `parse_command` takes the bytes of one and returns it as
values, or raises `InvalidCommand`; the encoders return the bytes of whole command sets.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

_ELEMENT: Final = struct.Struct("<HHI")
_ANSWER: Final = struct.Struct("<HHIHHHIHHHIHHHIH")
"""Command Field, Message ID Being Responded To, Command Data Set Type and Status: four elements of a number each."""
NO_DATA_SET: Final = 0x0101
"""(0000,0800) Command Data Set Type: no data set follows (PS3.7 E.1); any other value says that one does."""


class Field(IntEnum):
    """(0000,0100) Command Field of the messages we know (PS3.7 E.1); a response has bit 15 set."""

    C_STORE_RQ = 0x0001
    C_GET_RQ = 0x0010
    C_FIND_RQ = 0x0020
    C_MOVE_RQ = 0x0021
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF
    N_EVENT_REPORT_RQ = 0x0100
    N_ACTION_RQ = 0x0130
    N_EVENT_REPORT_RSP = 0x8100


RESPONSE: Final = 0x8000


class InvalidCommand(Exception):
    """The command set cannot be read, or lacks what every message must have."""


class Command(NamedTuple):
    """One command set; a tuple, because one is made for every instance that comes."""

    field: int
    message_id: int
    """(0000,0110) Message ID of a request, (0000,0120) Message ID Being Responded To of a response."""
    has_data_set: bool
    sop_class_uid: bytes
    """(0000,0002) Affected or (0000,0003) Requested SOP Class UID, without padding."""
    sop_instance_uid: bytes
    """(0000,1000) Affected or (0000,1001) Requested SOP Instance UID, without padding."""
    type_id: int | None
    """(0000,1008) Action Type ID or (0000,1002) Event Type ID."""
    status: int | None
    """(0000,0900) Status of a response."""

    @property
    def is_response(self) -> bool:
        """Whether the message answers one of ours."""
        return bool(self.field & RESPONSE)


def parse_command(content: bytes | bytearray) -> Command:
    """The command set in `content`.

    Raises:
        InvalidCommand: It is cut off, has elements outside group 0000, or lacks the field or the message ID.
    """
    return _command(_elements(bytes(content)))


class Suboperations(NamedTuple):
    """How far a C-MOVE or C-GET is, by the peer's own account (PS3.7 9.1.3, 9.1.4); 0 where it does not say so."""

    remaining: int
    completed: int
    failed: int
    warning: int


def parse_response(content: bytes | bytearray) -> tuple[Command, Suboperations]:
    """The command set in `content`, and its numbers of sub-operations, (0000,1020) to (0000,1023).

    Raises:
        InvalidCommand: As `parse_command`.
    """
    elements = _elements(bytes(content))
    return _command(elements), Suboperations(*(_number(elements, tag) or 0 for tag in range(0x1020, 0x1024)))


def _elements(content: bytes) -> dict[int, bytes]:
    """Values by element number.

    Raises:
        InvalidCommand: It is cut off, or has elements outside group 0000.
    """
    elements: dict[int, bytes] = {}
    offset, end = 0, len(content)
    while offset + 8 <= end:
        group, element, length = _ELEMENT.unpack_from(content, offset)
        value = offset + 8
        offset = value + length
        if group or offset > end:
            raise InvalidCommand("command set is cut off or leaves group 0000")
        elements[element] = content[value:offset]
    if offset != end:
        raise InvalidCommand("command set is cut off or has no Command Field")
    return elements


def _command(elements: dict[int, bytes]) -> Command:
    field = _number(elements, 0x0100)
    if field is None:
        raise InvalidCommand("command set is cut off or has no Command Field")
    message_id = _number(elements, 0x0120 if field & RESPONSE or field == Field.C_CANCEL_RQ else 0x0110)
    if message_id is None:
        raise InvalidCommand("command set has no message ID")
    get = elements.get
    return Command(
        field=field,
        message_id=message_id,
        has_data_set=_number(elements, 0x0800) != NO_DATA_SET,
        sop_class_uid=(get(0x0002) or get(0x0003) or b"").rstrip(b"\0 "),
        sop_instance_uid=(get(0x1000) or get(0x1001) or b"").rstrip(b"\0 "),
        type_id=_number(elements, 0x1008) if 0x1008 in elements else _number(elements, 0x1002),
        status=_number(elements, 0x0900),
    )


def response(request: Command, status: int, *, comment: str = "") -> bytes:
    """The command set that answers a request (PS3.7 9.3.1.2 C-STORE-RSP, 9.3.5.2 C-ECHO-RSP, 10.3 for DIMSE-N).

    Args:
        request: What is answered.
        status: (0000,0900) Status.
        comment: (0000,0902) Error Comment: up to 64 characters, in our own words.
    """
    elements = [
        _uid(0x0002, request.sop_class_uid),
        _ANSWER.pack(
            *(0, 0x0100, 2, request.field | RESPONSE),
            *(0, 0x0120, 2, request.message_id),
            *(0, 0x0800, 2, NO_DATA_SET),
            *(0, 0x0900, 2, status),
        ),
    ]
    if comment:
        text = comment.encode("ascii", "replace")[:64]
        elements.append(_element(0x0902, text + b" " * (len(text) & 1)))
    if request.sop_instance_uid:
        elements.append(_uid(0x1000, request.sop_instance_uid))
    if request.field == Field.N_ACTION_RQ and request.type_id is not None:
        elements.append(_us(0x1008, request.type_id))
    return _with_group_length(elements)


def request(
    field: Field,
    message_id: int,
    sop_class_uid: str,
    *,
    has_data_set: bool = True,
    sop_instance_uid: str = "",
    move_destination: str = "",
) -> bytes:
    """The command set of a DIMSE-C request of medium priority (PS3.7 9.3.1.1 to 9.3.5.1).

    Args:
        field: Which request.
        message_id: Of the request, 1 to 65535.
        sop_class_uid: (0000,0002) Affected SOP Class UID.
        has_data_set: Whether a data set follows.
        sop_instance_uid: (0000,1000) Affected SOP Instance UID of a C-STORE.
        move_destination: (0000,0600) AE title that a C-MOVE sends to.
    """
    elements = [_uid(0x0002, sop_class_uid.encode("ascii")), _us(0x0100, field), _us(0x0110, message_id)]
    if move_destination:
        title = move_destination.encode("ascii")
        elements.append(_element(0x0600, title + b" " * (len(title) & 1)))
    if field != Field.C_ECHO_RQ:
        elements.append(_us(0x0700, 0))
    elements.append(_us(0x0800, 0x0102 if has_data_set else NO_DATA_SET))
    if sop_instance_uid:
        elements.append(_uid(0x1000, sop_instance_uid.encode("ascii")))
    return _with_group_length(elements)


def cancel_request(message_id: int) -> bytes:
    """A C-CANCEL-RQ for the operation of that message ID (PS3.7 9.3.2.3)."""
    return _with_group_length([_us(0x0100, Field.C_CANCEL_RQ), _us(0x0120, message_id), _us(0x0800, NO_DATA_SET)])


def event_report_request(message_id: int, sop_class_uid: bytes, sop_instance_uid: bytes, type_id: int) -> bytes:
    """An N-EVENT-REPORT-RQ that a data set follows (PS3.7 10.3.1.1)."""
    return _with_group_length(
        [
            _uid(0x0002, sop_class_uid),
            _us(0x0100, Field.N_EVENT_REPORT_RQ),
            _us(0x0110, message_id),
            _us(0x0800, 0x0102),
            _uid(0x1000, sop_instance_uid),
            _us(0x1002, type_id),
        ]
    )


def _with_group_length(elements: list[bytes]) -> bytes:
    """(0000,0000) Command Group Length in front of the elements."""
    body = b"".join(elements)
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _us(element: int, value: int) -> bytes:
    return _element(element, value.to_bytes(2, "little"))


def _uid(element: int, value: bytes) -> bytes:
    return _element(element, value + b"\0" if len(value) & 1 else value)


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element)
    return int.from_bytes(value, "little") if value is not None and len(value) == 2 else None
