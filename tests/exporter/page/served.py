"""A page that is served in this process, and questions to it over HTTP."""

from __future__ import annotations

import re
import socket
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from exporter.page.server import PageServer
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Served:
    """A page and where it is."""

    address: str

    @property
    def port(self) -> int:
        found = urlsplit(self.address).port
        assert found is not None
        return found

    def ask(self, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request; underscores in names of headers stand for hyphens."""
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            said = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, said, answer.read().decode("utf-8", "replace"))

    def submit(self, fields: dict[str, str], **headers: str) -> Answer:
        """The form of `/retry` as a browser sends it."""
        sent = {"content_type": "application/x-www-form-urlencoded", "origin": self.address.rstrip("/")} | headers
        return self.ask("/retry", method="POST", body=urlencode(fields).encode(), **sent)

    def csrf(self, path: str = "/retry?reason=timeout") -> str:
        """Our token in a form."""
        found = re.search(r'name="csrf" value="([^"]+)"', self.ask(path).text)
        assert found is not None
        return found[1]

    def raw(self, content: bytes) -> bytes:
        """What is answered to these bytes until the connection ends."""
        with closing(socket.create_connection(("127.0.0.1", self.port), 60)) as sock:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)
            received = b""
            while piece := sock.recv(65536):
                received += piece
            return received


@contextmanager
def serving(data: Path, settings: str = "{}") -> Iterator[Served]:
    """The page of a data folder, with these settings (JSON), on a free port."""
    found = Settings.model_validate_json(settings)
    found = found.model_copy(update={"page": found.page.model_copy(update={"port": 0})})
    server = PageServer(found, DataFolder(data))
    server.start()
    try:
        yield Served(server.address)
    finally:
        server.stop()
