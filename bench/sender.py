"""One requestor at full speed: waits for a line on standard input, associates, sends instances, says how long it took.

It builds every byte before it starts and does next to nothing while it sends, so that the receiver is what is measured.
Usage: python sender.py PORT BYTES COUNT NUMBER PDU_BYTES
"""

from __future__ import annotations

import socket
import struct
import sys
import time

CT = b"1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = b"1.2.840.10008.1.2.1"
UID = b"1.2.826.0.1.3680043.8.1055.%04d.%08d"
PDU_BYTES = 131072


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def request() -> bytes:
    context = item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CT + b"\0" * 0) + item(0x40, EXPLICIT))
    user = item(0x50, item(0x51, struct.pack(">I", PDU_BYTES)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">HH", 1, 0) + b"EXPORTER".ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BxI", 1, len(body)) + body


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr in (b"UI", b"OW") else b" ") * (len(value) & 1)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HI", 0, len(value)) if vr in (b"OW", b"SQ") else struct.pack("<H", len(value))) + value


def data_set(uid: bytes, size: int) -> bytes:
    """A CT of about `size` bytes with the usual hundred elements."""
    head = [
        element(0x00080008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"),
        element(0x00080016, b"UI", CT),
        element(0x00080018, b"UI", uid),
        element(0x00080020, b"DA", b"20240101"),
        element(0x00080060, b"CS", b"CT"),
        *(element(0x00090010 + n, b"LO", b"private %d" % n) for n in range(40)),
        element(0x00100010, b"PN", b"Bench^Mark"),
        element(0x00100020, b"LO", b"BENCH"),
        *(element(0x00180050 + n, b"DS", b"1.25") for n in range(30)),
        element(0x0020000D, b"UI", uid[:-9]),
        element(0x0020000E, b"UI", uid[:-9] + b".1"),
        element(0x00280002, b"US", b"\1\0"),
        element(0x00280010, b"US", b"\0\2"),
        element(0x00280011, b"US", b"\0\2"),
        element(0x00280100, b"US", b"\20\0"),
    ]
    header = b"".join(head)
    return header + element(0x7FE00010, b"OW", bytes(range(256)) * ((size - len(header)) // 256))


def command(uid: bytes, message: int) -> bytes:
    body = b""
    for tag, value in (
        (0x0002, CT + b"\0"),
        (0x0100, b"\1\0"),
        (0x0110, struct.pack("<H", message & 0xFFFF)),
        (0x0700, b"\0\0"),
        (0x0800, b"\2\1"),
        (0x1000, uid + b"\0" * (len(uid) & 1)),
    ):
        body += struct.pack("<HHI", 0, tag, len(value)) + value
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def message(uid: bytes, number: int, size: int, max_pdu: int) -> bytes:
    parts = []
    content = command(uid, number)
    parts.append(struct.pack(">BxIIBB", 4, len(content) + 6, len(content) + 2, 1, 3) + content)
    content = data_set(uid, size)
    step = max_pdu - 6
    for start in range(0, len(content), step):
        piece = content[start : start + step]
        last = 2 if start + step >= len(content) else 0
        parts.append(struct.pack(">BxIIBB", 4, len(piece) + 6, len(piece) + 2, 1, last) + piece)
    return b"".join(parts)


def exactly(sock: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = sock.recv(length - len(content))
        if not piece:
            raise SystemExit("the receiver closed the connection")
        content += piece
    return content


def receive(sock: socket.socket) -> bytes:
    kind, length = struct.unpack(">BxI", exactly(sock, 6))
    body = exactly(sock, length)
    if kind not in (2, 4, 6):
        raise SystemExit(f"the receiver answered with PDU type {kind}")
    return body


def prepared(uids: list[bytes], size: int, max_pdu: int) -> tuple[bytearray, list[int]]:
    """One message and where its UID stands: instances differ in their UIDs only, and those have one length."""
    model = bytearray(message(uids[0], 0, size, max_pdu))
    places = []
    at = model.find(uids[0])
    while at >= 0:
        places.append(at)
        at = model.find(uids[0], at + 1)
    return model, places


def main(port: int, size: int, count: int, number: int, max_pdu: int) -> None:
    uids = [UID % (number, n) for n in range(count)]
    model, places = prepared(uids, size, max_pdu)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started = time.monotonic()
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request())
    accepted = receive(sock)
    (permitted,) = struct.unpack_from(">I", accepted, accepted.find(b"\x51\0\0\4") + 4)
    if permitted and permitted < max_pdu:
        raise SystemExit(f"the receiver takes PDUs of {permitted} bytes only")
    for uid in uids:
        for at in places:
            model[at : at + len(uid)] = uid
        sock.sendall(model)
        # A receiver that writes its answer in two pieces with Nagle's algorithm on must not wait for our timer.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        answer = receive(sock)
        at = answer.find(struct.pack("<HHI", 0, 0x0900, 2))
        if answer[at + 8 : at + 10] != b"\0\0":
            raise SystemExit("the receiver refused an instance")
    ended = time.monotonic()
    sock.sendall(struct.pack(">BxI4x", 5, 4))
    receive(sock)
    sys.stdout.write(f"{started} {ended}\n")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
