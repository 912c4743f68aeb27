"""A receiver in this process, and a requestor that says exactly the bytes a test wants (never our own encoders)."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from listener.daemon import ListenerDaemon
from listener.settings.listener import DataFolder, ListenerSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def user_information(*extra: bytes, max_pdu_bytes: int = 16384) -> bytes:
    return item(0x50, item(0x51, struct.pack(">I", max_pdu_bytes)) + item(0x52, b"1.2.3.4") + b"".join(extra))


def proposed(context_id: int, abstract_syntax: str, *transfer_syntaxes: str) -> bytes:
    body = bytes((context_id, 0, 0, 0)) + item(0x30, abstract_syntax.encode())
    return item(0x20, body + b"".join(item(0x40, t.encode()) for t in transfer_syntaxes))


def request(
    *contexts: bytes,
    called: str = "EXPORTER",
    calling: str = "TESTER",
    version: int = 1,
    application_context: bytes = b"1.2.840.10008.3.1.1.1",
    user: bytes | None = None,
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    body = struct.pack(">HH", version, 0) + called.encode("latin-1").ljust(16) + calling.encode("latin-1").ljust(16)
    body += bytes(32) + item(0x10, application_context) + b"".join(contexts)
    body += user_information() if user is None else user
    return pdu(1, body)


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def pdv(context_id: int, control: int, content: bytes) -> bytes:
    return struct.pack(">IBB", len(content) + 2, context_id, control) + content


def command(elements: dict[int, bytes | int]) -> bytes:
    """A command set; numbers become US (PS3.7 6.3)."""
    body = b""
    for element, value in sorted(elements.items()):
        raw = struct.pack("<H", value) if isinstance(value, int) else value + b"\0" * (len(value) & 1)
        body += struct.pack("<HHI", 0, element, len(raw)) + raw
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) & 1)
    group, element = tag >> 16, tag & 0xFFFF
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def data_set(uid: str = "1.2.3", sop_class: str = CT, pixels: bytes = b"\1\2" * 500) -> bytes:
    """A small data set in explicit VR little endian."""
    return b"".join(
        (
            explicit(0x00080016, b"UI", sop_class.encode()),
            explicit(0x00080018, b"UI", uid.encode()),
            explicit(0x00100010, b"PN", b"Test^Patient"),
            explicit(0x7FE00010, b"OW", pixels),
        )
    )


@dataclass(frozen=True)
class Response:
    """A command set that came back."""

    elements: dict[int, bytes]

    @property
    def status(self) -> int:
        return int.from_bytes(self.elements[0x0900], "little")

    @property
    def comment(self) -> str:
        return self.elements.get(0x0902, b"").decode().strip()


class Requestor:
    """One connection of a requestor."""

    def __init__(self, port: int, source: str = "127.0.0.1", wait_s: float = 10.0) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=wait_s, source_address=(source, 0))
        self._messages = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: type and body; (0, b"") where the peer closed."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", header)
        return kind, self._exactly(length)

    def associate(self, *contexts: bytes, **options: Any) -> tuple[int, bytes]:
        """Ask for an association; the answer."""
        asked = contexts or (proposed(1, CT, EXPLICIT), proposed(3, VERIFICATION, IMPLICIT))
        self.send(request(*asked, **options))
        return self.receive()

    def store_command(self, uid: str = "1.2.3", sop_class: str = CT, **more: Any) -> bytes:
        self._messages += 1
        elements: dict[int, bytes | int] = {
            0x0002: sop_class.encode("latin-1"),
            0x0100: 0x0001,
            0x0110: self._messages,
            0x0700: 0,
            0x0800: 0x0102,
            0x1000: uid.encode("utf-8"),
        }
        return command(elements | {int(k, 16): v for k, v in more.items()})

    def store(
        self, uid: str = "1.2.3", content: bytes | None = None, *, sop_class: str = CT, context: int = 1
    ) -> Response:
        """One C-STORE, all in small PDUs; the response."""
        content = data_set(uid, sop_class) if content is None else content
        self.send(pdu(4, pdv(context, 3, self.store_command(uid, sop_class))))
        for start in range(0, len(content) or 1, 16000):
            last = start + 16000 >= len(content)
            self.send(pdu(4, pdv(context, 2 if last else 0, content[start : start + 16000])))
        return self.response()

    def echo(self, context: int = 3) -> Response:
        self._messages += 1
        elements: dict[int, bytes | int] = {2: VERIFICATION.encode(), 0x100: 0x30, 0x110: self._messages, 0x800: 0x101}
        self.send(pdu(4, pdv(context, 3, command(elements))))
        return self.response()

    def response(self) -> Response:
        kind, body = self.receive()
        assert kind == 4, f"PDU type {kind} instead of a response: {body!r}"
        content = body[6:]
        elements, offset = {}, 0
        while offset < len(content):
            _, element, length = struct.unpack_from("<HHI", content, offset)
            elements[element] = content[offset + 8 : offset + 8 + length]
            offset += 8 + length
        return Response(elements)

    def release(self) -> int:
        self.send(pdu(5, bytes(4)))
        return self.receive()[0]

    def is_closed(self) -> bool:
        """Whether the peer closes within the time-out, whatever it says before."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def _exactly(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            try:
                piece = self.sock.recv(length - len(content))
            except ConnectionResetError:
                break
            if not piece:
                break
            content += piece
        return content


class Receiver:
    """A running daemon over its own data folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        # One process, unless a test is about several: they are slow to start.
        listener = {"port": 0, "processes": 1} | settings.pop("listener", {})
        self.settings = ListenerSettings.model_validate({"listener": listener} | settings)
        self.daemon = ListenerDaemon(self.settings, DataFolder(folder))
        self.spool = folder / "spool"
        self.daemon.start()

    @property
    def port(self) -> int:
        return self.daemon.port

    def requestor(self, **options: Any) -> Requestor:
        return Requestor(self.port, **options)

    def new(self) -> list[Path]:
        return sorted((self.spool / "new").iterdir())

    def quarantined(self) -> list[Path]:
        return sorted(p for p in (self.spool / "quarantine").rglob("*.dcm"))

    def count(self, name: str) -> int:
        return self.daemon.counters.get(name)

    def wait_for(self, name: str, count: int = 1, within_s: float = 100.0) -> None:
        """Until something was counted so often."""
        eventually(lambda: self.count(name) >= count, f"{name} >= {count}, is {self.count(name)}", within_s)


def eventually(is_so: Callable[[], bool], what: str, within_s: float = 100.0) -> None:
    """Poll until a condition holds."""
    until = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < until, f"not within {within_s} s: {what}"
        time.sleep(0.005)


def stored_data_set(path: Path) -> bytes:
    """The bytes of a spooled file after its file meta information."""
    content = path.read_bytes()
    assert content[:128] == bytes(128)
    assert content[128:132] == b"DICM"
    (length,) = struct.unpack_from("<I", content, 140)
    return content[144 + length :]
