"""Sessions of real senders, recorded on their way to the listener, to be sent again with something changed."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.faults.instances import write_instances
from tests.faults.senders import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
HEADER: Final = struct.Struct(">BxI")
_LONGEST_ANSWER: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Session:
    """What one sender sent, PDU by PDU."""

    name: str
    pdus: tuple[bytes, ...]


class BadAnswer(Exception):
    """What came back is no PDU."""


def split(stream: bytes) -> Iterator[bytes]:
    """The PDUs of a stream that holds whole ones."""
    at = 0
    while at + HEADER.size <= len(stream):
        _, length = HEADER.unpack_from(stream, at)
        yield stream[at : at + HEADER.size + length]
        at += HEADER.size + length


def read_pdu(connection: socket.socket) -> bytes | None:
    """The next PDU; None at the end of the connection.

    Raises:
        TimeoutError: Nothing comes.
        BadAnswer: It is none that an acceptor may send.
    """
    header = _exactly(connection, HEADER.size)
    if header is None:
        return None
    kind, length = HEADER.unpack(header)
    if kind not in {ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RP, ABORT} or length > _LONGEST_ANSWER:
        raise BadAnswer(f"the listener sent a PDU of type {kind} and length {length}")
    body = _exactly(connection, length)
    if body is None:
        raise BadAnswer("the listener closed the connection within a PDU")
    return header + body


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    got = b""
    while len(got) < size:
        try:
            chunk = connection.recv(size - len(got))
        except ConnectionResetError:
            return None
        if not chunk:
            return None
        got += chunk
    return got


def status_in(pdu: bytes) -> int | None:
    """(0000,0900) Status of a response, where this is a P-DATA-TF with one."""
    if pdu[0] != P_DATA:
        return None
    at = pdu.find(b"\x00\x00\x00\x09\x02\x00\x00\x00")
    return struct.unpack_from("<H", pdu, at + 8)[0] if at >= 0 else None


def field_in(pdu: bytes) -> int | None:
    """(0000,0100) Command Field of a command, where this is a P-DATA-TF with one."""
    if pdu[0] != P_DATA:
        return None
    at = pdu.find(b"\x00\x00\x00\x01\x02\x00\x00\x00")
    return struct.unpack_from("<H", pdu, at + 8)[0] if at >= 0 else None


def record(port: int, name: str, command: list[str]) -> Session:
    """Run a sender against the listener through a proxy that keeps what the sender says."""
    stream = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as front:
        front.settimeout(20)
        through = threading.Thread(target=_pass_on, args=(front, port, stream))
        through.start()
        subprocess.run(
            [word.replace("{port}", str(front.getsockname()[1])) for word in command],
            check=True,
            capture_output=True,
            timeout=60,
        )
        through.join(20)
    return Session(name, tuple(split(bytes(stream))))


def _pass_on(front: socket.socket, port: int, stream: bytearray) -> None:
    sender, _ = front.accept()
    with sender, socket.create_connection(("127.0.0.1", port), timeout=20) as listener:
        other = {sender: listener, listener: sender}
        while True:
            for ready in select.select(list(other), [], [], 20)[0]:
                chunk = b""
                with contextlib.suppress(ConnectionResetError):
                    chunk = ready.recv(1 << 16)
                if not chunk:
                    return
                if ready is sender:
                    stream += chunk
                other[ready].sendall(chunk)


def sessions(port: int, scratch: Path) -> list[Session]:
    """Sessions of three real senders: echo, several instances, small PDUs, compressed instances, many contexts."""
    from pydicom.data import get_testdata_file

    small = list(write_instances(scratch / "recorded", 3, every_nth_is_cine=3))
    storescu = [program("storescu"), "-aec", "EXPORTER", "127.0.0.1", "{port}"]
    jpeg, ls, deflated, big = (
        str(get_testdata_file(name))
        for name in ("SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm")
    )
    return [
        record(port, "echo", [program("echoscu"), "-aec", "EXPORTER", "127.0.0.1", "{port}"]),
        record(port, "store three", [*storescu, *small]),
        record(port, "small PDUs", [storescu[0], "-pdu", "4096", *storescu[1:], *small]),
        record(port, "JPEG", [storescu[0], "-xy", *storescu[1:], jpeg]),
        record(port, "JPEG-LS", [storescu[0], "-xt", *storescu[1:], ls]),
        record(port, "deflated", [storescu[0], "-xd", *storescu[1:], deflated]),
        record(port, "big endian", [storescu[0], "-xb", *storescu[1:], big]),
        record(
            port,
            "dcmsend",
            [program("dcmsend"), "-aec", "EXPORTER", "127.0.0.1", "{port}", *small, jpeg, big],
        ),
    ]
