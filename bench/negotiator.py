"""One requestor that does nothing but ask: associations with as many presentation contexts as there can be, released.

Usage: python negotiator.py PORT COUNT
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a script beside another: started without site packages

from sender import EXPLICIT, item, receive

IMPLICIT = b"1.2.840.10008.1.2"


def request() -> bytes:
    """128 storage classes with two transfer syntaxes each."""
    contexts = b"".join(
        item(
            0x20,
            bytes((number, 0, 0, 0))
            + item(0x30, b"1.2.840.10008.5.1.4.1.1.%d" % number)
            + item(0x40, EXPLICIT)
            + item(0x40, IMPLICIT),
        )
        for number in range(1, 256, 2)
    )
    user = item(0x50, item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3.4"))
    body = struct.pack(">HH", 1, 0) + b"EXPORTER".ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    return struct.pack(">BxI", 1, len(body)) + body


def main(port: int, count: int) -> None:
    asked = request()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started = time.monotonic()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(asked)
            receive(sock)
            sock.sendall(struct.pack(">BxI4x", 5, 4))
            receive(sock)
    sys.stdout.write(f"{started} {time.monotonic()}\n")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))
