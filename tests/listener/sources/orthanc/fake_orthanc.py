"""A small Orthanc that lies when it is told to: its REST interface as far as the poller asks, and bytes of any kind."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import ssl
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Lie = Callable[["Handler"], None]


def identifier(*parts: object) -> str:
    """An identifier as Orthanc makes them."""
    text = hashlib.sha1(repr(parts).encode(), usedforsecurity=False).hexdigest()
    return "-".join(text[start : start + 8] for start in range(0, 40, 8))


@dataclass
class Kept:
    """One instance on the server."""

    content: bytes
    series: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    md5: str = ""
    remote_ae_title: str = "MODALITY"

    def __post_init__(self) -> None:
        self.md5 = self.md5 or hashlib.md5(self.content, usedforsecurity=False).hexdigest()


class FakeOrthanc:
    """Instances, a log of changes, and lies by path."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.instances: dict[str, Kept] = {}
        self.series: dict[str, dict[str, Any]] = {}
        self.studies: dict[str, dict[str, Any]] = {}
        self.changes: list[dict[str, Any]] = []
        self.last = 0
        self.credentials: str | None = None
        self.version = "1.12.5"
        self.has_labels = True
        self.is_secure = True
        self.keeps_md5 = True
        self.lies: dict[str, Lie] = {}
        """Pattern of a path to what is done instead of answering."""
        self.requests: list[tuple[str, str]] = []
        self.deleted: list[str] = []
        self.longest_lie = 0
        """Most bytes that went out as one answer of such a kind."""
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        handler = type("BoundHandler", (Handler,), {"fake": self})
        self._server = Server(("127.0.0.1", 0), handler)
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def add(
        self, content: bytes, *, series: str = "series", modality: str = "US", date: str = "20240229", **more: Any
    ) -> str:
        """Store an instance, and log it; its identifier."""
        with self.lock:
            name = identifier(content[:64])
            parent, study = identifier("series", series), identifier("study", series)
            self.instances[name] = Kept(content, parent, **more)
            labels: dict[str, Any] = {"Labels": []} if self.has_labels else {}
            self.series.setdefault(
                parent, {"ID": parent, "ParentStudy": study, "MainDicomTags": {"Modality": modality}} | labels
            )
            self.studies.setdefault(study, {"ID": study, "MainDicomTags": {"StudyDate": date}} | labels)
            self.log(name)
            return name

    def log(self, name: str, kind: str = "NewInstance") -> None:
        with self.lock:
            self.last += 1
            self.changes.append(
                {
                    "ChangeType": kind,
                    "Date": "20261122T034421",
                    "ID": name,
                    "Path": "/../../../etc/passwd",
                    "ResourceType": "Instance",
                    "Seq": self.last,
                }
            )

    def remove(self, name: str) -> None:
        """Delete an instance, and with it its changes."""
        with self.lock:
            del self.instances[name]
            self.changes = [change for change in self.changes if change["ID"] != name]

    def wipe(self) -> None:
        """Another index under the same address."""
        with self.lock:
            self.instances.clear()
            self.changes.clear()
            self.last = 0

    def asked(self, pattern: str) -> int:
        """How many requests had such a path."""
        return sum(re.search(pattern, path) is not None for _, path in self.requests)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle is what the tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    fake: FakeOrthanc
    lied_bytes = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        fake = self.fake
        fake.requests.append((self.command, self.path))
        if fake.credentials is not None and self.headers.get("Authorization") != fake.credentials:
            self.answer(b"", 401)
            return
        for pattern, lie in list(fake.lies.items()):
            if re.search(pattern, self.path):
                lie(self)
                return
        with fake.lock:
            found = self.find()
        self.answer(b'{"HttpStatus":404}' if found is None else found, 404 if found is None else 200)

    do_DELETE = do_GET  # noqa: N815 - the name is that of http.server

    def answer(self, content: bytes, status: int = 200, /, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def raw(self, content: bytes) -> None:
        """Any bytes, counted."""
        self.wfile.write(content)
        self.wfile.flush()
        self.lied_bytes += len(content)
        self.fake.longest_lie = max(self.fake.longest_lie, self.lied_bytes)

    def find(self) -> bytes | None:  # noqa: PLR0911 - one per resource
        parts = urlsplit(self.path)
        path, query = parts.path.strip("/").split("/"), parse_qs(parts.query, keep_blank_values=True)
        fake = self.fake
        match path:
            case ["system"]:
                return as_json({"ApiVersion": 27, "Version": fake.version, "IsHttpServerSecure": fake.is_secure})
            case ["changes"]:
                return as_json(self.page_of_changes(query))
            case ["instances"]:
                since, limit = int(query["since"][0]), int(query["limit"][0])
                names = list(fake.instances)[since : since + limit]
                return as_json([self.described(name) for name in names] if "expand" in query else names)
            case ["series", name]:
                return as_json(fake.series[name]) if name in fake.series else None
            case ["studies", name]:
                return as_json(fake.studies[name]) if name in fake.studies else None
            case ["instances", name, *rest] if name in fake.instances:
                return self.of_instance(name, rest)
            case _:
                return None

    def of_instance(self, name: str, rest: list[str]) -> bytes | None:
        fake = self.fake
        kept = fake.instances[name]
        match rest:
            case [] if self.command == "DELETE":
                fake.remove(name)
                fake.deleted.append(name)
                return b"{}"
            case []:
                return as_json(self.described(name))
            case ["attachments", "dicom", "md5"] if fake.keeps_md5:
                return kept.md5.encode()
            case ["metadata", "RemoteAET"]:
                return kept.remote_ae_title.encode() or None
            case ["file"]:
                return kept.content
            case _:
                return None

    def described(self, name: str) -> dict[str, Any]:
        kept = self.fake.instances[name]
        labels: dict[str, Any] = {"Labels": []} if self.fake.has_labels else {}
        return {
            "ID": name,
            "Type": "Instance",
            "FileSize": len(kept.content),
            "FileUuid": kept.uuid,
            "ParentSeries": kept.series,
        } | labels

    def page_of_changes(self, query: dict[str, list[str]]) -> dict[str, Any]:
        since, limit = int(query["since"][0]), int(query["limit"][0])
        after = [change for change in self.fake.changes if change["Seq"] > since]
        page = after[:limit]
        done = len(page) == len(after)
        return {"Changes": page, "Done": done, "Last": page[-1]["Seq"] if page else self.fake.last}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
