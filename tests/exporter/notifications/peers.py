"""Mail servers and webhooks that do what those of others do: accept, refuse, hang, redirect, lie."""

from __future__ import annotations

import email
import email.policy
import json
import socket
import ssl
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from pathlib import Path


class Mailbox:
    """A mail server that keeps what it gets, and answers DATA with the next of `answers`, then 250."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.answers: list[str] = []
        self.logins: list[tuple[str, str, bool]] = []
        """User name, password, and whether TLS hid them."""
        self.port = 0

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        if self.answers:
            return self.answers.pop(0)
        self.raw.append(envelope.content)
        self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    def authenticate(self, _server: Any, session: Any, _envelope: Any, _how: str, data: Any) -> AuthResult:
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((user, password, session.ssl is not None))
        is_right = password == "open sesame"
        return AuthResult(success=is_right, handled=is_right)


@contextmanager
def mail_server(
    certificate: Path | None = None, *, security: str = "none", asks: bool = False, port: int = 0
) -> Iterator[Mailbox]:
    """A real mail server on loopback, in another thread."""
    box = Mailbox()
    box.port = port or free_port()
    options: dict[str, Any] = {}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        options = {"ssl_context": context} if security == "tls" else {"tls_context": context, "require_starttls": True}
    if asks:
        options |= {
            "authenticator": box.authenticate,
            "auth_required": True,
            "auth_require_tls": security == "starttls",
        }
    controller = Controller(box, hostname="127.0.0.1", port=box.port, ready_timeout=60, **options)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


@dataclass(slots=True)
class Request:
    """One request that a webhook got."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass(slots=True)
class Hook:
    """A web server that keeps what it gets, and answers with the next of `statuses`, then 204."""

    port: int = 0
    scheme: str = "http"
    requests: list[Request] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    """Whether an answer has a body of a gigabyte."""
    sent_bytes: int = 0
    came: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}/hook/secret-path"


@contextmanager
def webhook(certificate: Path | None = None, *, port: int = 0) -> Iterator[Hook]:
    """A real web server on loopback, in another thread."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            hook.requests.append(Request(self.path, headers, body))
            self.send_response(hook.statuses.pop(0) if hook.statuses else 204)
            for name, value in hook.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if hook.endless:
                piece = bytes(1 << 20)
                with suppress(OSError):
                    for _ in range(1024):
                        self.wfile.write(piece)
                        hook.sent_bytes += len(piece)
            hook.came.set()

        def log_message(self, *_: Any) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        hook.scheme = "https"
    hook.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def scripted(*answers: bytes, drips: bytes = b"") -> Iterator[int]:
    """A server that says one of these after each line it gets, then hangs up; with `drips`, goes on with those.

    An empty answer is silence. Gives its port.
    """
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        with suppress(OSError), listening.accept()[0] as sock:
            reader = sock.makefile("rb")
            for number, answer in enumerate(answers):
                if number:
                    reader.readline()
                sock.sendall(answer)
            while drips and not ended.wait(0.05):
                sock.sendall(drips)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        ended.set()
        listening.close()


def raw_silence() -> socket.socket:
    """A listening socket that nobody answers on."""
    return socket.create_server(("127.0.0.1", 0))
