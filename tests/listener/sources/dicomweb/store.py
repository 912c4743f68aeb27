"""A DICOMweb source over a spool of its own, and a client that says exactly the bytes a test wants."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import TYPE_CHECKING, Any

from listener.foundation.counters import Counters
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.dicomweb.source import DicomwebSource
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.listener.requestor import CT, EXPLICIT, data_set, explicit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

TOKEN = "0123456789abcdef0123456789abcdef"
BOUNDARY = "a-boundary"
STUDY = "1.2.826.0.1.3680043.8.498.1"


def meta(uid: str = "1.2.3", sop_class: str = CT, syntax: str = EXPLICIT, more: bytes = b"") -> bytes:
    """Preamble (not zero, to be kept), prefix and group 0002."""
    body = b"".join(
        (
            explicit(0x00020001, b"OB", b"\0\1"),
            explicit(0x00020002, b"UI", sop_class.encode()) if sop_class else b"",
            explicit(0x00020003, b"UI", uid.encode()) if uid else b"",
            explicit(0x00020010, b"UI", syntax.encode()) if syntax else b"",
            more,
        )
    )
    return b"II*\0".ljust(128, b"\7") + b"DICM" + explicit(0x00020000, b"UL", struct.pack("<I", len(body))) + body


def instance(uid: str = "1.2.3", study: str = STUDY, pixels: bytes = b"\1\2" * 500, sop_class: str = CT) -> bytes:
    """A small DICOM file with a Study Instance UID."""
    content = data_set(uid, sop_class, pixels)
    at = content.index(b"\xe0\x7f\x10\x00")
    return meta(uid, sop_class) + content[:at] + explicit(0x0020000D, b"UI", study.encode()) + content[at:]


def part(content: bytes, content_type: str = "application/dicom") -> bytes:
    return f"Content-Type: {content_type}\r\n\r\n".encode() + content


def multipart(parts: Iterable[bytes], boundary: str = BOUNDARY) -> bytes:
    return b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), p) for p in parts) + b"--%s--\r\n" % boundary.encode()


CONTENT_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def data_set(self) -> dict[str, Any]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def stored(self) -> list[str]:
        items = self.data_set.get("00081199", {}).get("Value", [])
        return [item["00081155"]["Value"][0] for item in items]

    def failed(self) -> dict[str, int]:
        items = self.data_set.get("00081198", {}).get("Value", [])
        return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in items}

    def others(self) -> list[int]:
        return [item["00081197"]["Value"][0] for item in self.data_set.get("0008119A", {}).get("Value", [])]


class Store:
    """A running source."""

    def __init__(self, folder: Path, spool: Spool, settings: dict[str, Any]) -> None:
        self.spool = spool
        self.space = SpaceGuard(spool.root, ListenerSettings().spool)
        self.counters = Counters()
        self.token_file = folder / "token"
        if not self.token_file.exists():
            self.token_file.write_text(TOKEN + "\n")
            self.token_file.chmod(0o600)
        self.settings = self.make_settings(settings)
        surroundings = Surroundings(spool, self.space, self.counters, folder / "sources")
        self.source = DicomwebSource(self.settings, surroundings)
        self.source.start()

    def make_settings(self, settings: dict[str, Any]) -> ListenerSettings:
        dicomweb = {"enabled": True, "token_file": str(self.token_file)} | settings.get("dicomweb", {})
        status = {"port": 0} | settings.get("status", {})
        return ListenerSettings.model_validate(settings | {"dicomweb": dicomweb, "status": status})

    @property
    def port(self) -> int:
        return self.source.port

    def contents(self) -> list[bytes]:
        return [item.path.read_bytes() for item in self.spool.pending()]

    def quarantined(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for reason, item in self.spool.quarantined():
            found.setdefault(reason, []).append(item.path.read_bytes())
        return found

    def partial(self) -> list[Path]:
        return list((self.spool.root / "tmp").iterdir())

    def post(
        self,
        body: Any,
        path: str = "/dicom-web/studies",
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        **options: Any,
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=100)
        given = {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {TOKEN}"} | dict(headers or {})
        try:
            connection.request(method, path, body, {k: v for k, v in given.items() if v}, **options)
            return answer_of(connection.getresponse())
        finally:
            connection.close()

    def store(self, *files: bytes, **options: Any) -> Answer:
        return self.post(multipart(part(file) for file in files), **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=100)


@contextmanager
def stores(folder: Path) -> Iterator[Callable[..., Store]]:
    """Starts sources over one spool; every one is stopped at the end."""
    with ExitStack() as stack:
        spool = stack.enter_context(Spool.open(folder / "spool"))

        def start(**settings: Any) -> Store:
            found = Store(folder, spool, settings)
            stack.callback(found.source.stop, 5.0)
            return found

        yield start


def header(length: int | None, extra: str = "", path: str = "/dicom-web/studies") -> bytes:
    """The header of a raw request."""
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n{size}{extra}\r\n"
    ).encode()


def read_answer(sock: socket.socket) -> Answer:
    response = HTTPResponse(sock)
    response.begin()
    return answer_of(response)


def answer_of(response: HTTPResponse) -> Answer:
    return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
