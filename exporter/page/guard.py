"""Who may ask the page, and what every answer says to browsers: an ASGI application around another one.

Contract: a request that is refused here changes nothing, and its body is not read. The token is compared in constant
time. A request for another host name is refused, so that a name that resolves to this machine does not open the page to
the scripts of its owner (DNS rebinding). What changes something is a POST with our CSRF token, from no foreign origin.

Source: RFC 9110, 9112; W3C Content Security Policy Level 3; Fetch (Origin); OWASP, "Cross-Site Request Forgery
Prevention".
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

from listener.network.token import challenge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from listener.network.token import Token

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BODY: Final = 65_536
"""Longest form, in bytes."""
BODY_S: Final = 10.0
"""Time for a form to arrive."""
SEND_S: Final = 30.0
"""Time for the client to take a piece of an answer."""
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""What is answered without a token and for every host name: words of our own, for probes."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
MEDIA_POLICY: Final = "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'"
"""Policy of media, which the browser shows in a document of its own making."""
DRAWING_POLICY: Final = f"{MEDIA_POLICY}; sandbox"
"""Policy of a drawing in SVG: it runs no script and reaches nothing. (Pictures and videos would not be shown so.)"""
HEADERS: Final = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
"""What every answer says, unless it says something else itself. (Under `no-referrer` a form would have no origin.)"""


class Refused(Exception):
    """A request that is answered with a status and a sentence, and nothing else."""

    def __init__(self, status: int, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(slots=True)
class PageGuard:
    """The application within, and who may ask it."""

    within: Application
    names: frozenset[str]
    """Host names that are ours, in lower case."""
    token: Token | None = None
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """What every form of ours holds."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        try:
            self._admit(scope, headers)
            body = await _body(headers, receive) if scope["method"] == "POST" else b""
            if scope["method"] == "POST":
                scope["form"] = self._form(body, headers)
        except Refused as refusal:
            await _refuse(refusal, _guarded(send))
            return
        scope["csrf"] = self.csrf
        await self.within(scope, _nothing_more(receive), _guarded(send))

    def _admit(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> None:
        if scope["method"] not in {"GET", "HEAD", "POST"}:
            raise Refused(405, "only GET, HEAD and POST are answered", allow="GET, HEAD, POST")
        if scope["path"] in OPEN_PATHS:
            return
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise Refused(421, "the page is not reached by this name: add it to `page.names`")
        if self.token is not None:
            shown = headers.get(b"authorization", [])
            if len(shown) != 1 or not self.token.is_shown_by(shown[0]):
                raise Refused(401, "the token is missing or wrong", www_authenticate=challenge("page"))

    def _is_ours(self, host: bytes) -> bool:
        """Whether a Host header names us: by a name of ours, or by an address, which no other owner can have."""
        try:
            name = urlsplit(f"//{host.decode('ascii')}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    def _form(self, body: bytes, headers: dict[bytes, list[bytes]]) -> dict[str, str]:
        """The fields of a form that is ours.

        Raises:
            Refused: It comes from elsewhere, or lacks our token.
        """
        origins = headers.get(b"origin", [])
        if any(urlsplit(one.decode("latin-1")).netloc.encode("latin-1") != headers[b"host"][0] for one in origins):
            raise Refused(403, "the form was sent from another site")
        if headers.get(b"sec-fetch-site", [b"same-origin"])[0] not in {b"same-origin", b"none"}:
            raise Refused(403, "the form was sent from another site")
        try:
            found = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise Refused(400, "the form cannot be read") from None
        form = {name: values[-1] for name, values in found.items()}
        if not hmac.compare_digest(form.get("csrf", "").encode(), self.csrf.encode()):
            raise Refused(403, "the form is out of date: reload the page and try again")
        return form


def host_names(host: str, more: tuple[str, ...]) -> frozenset[str]:
    """The names by which a page that listens on `host` is reached."""
    own = socket.gethostname()
    return frozenset(name.lower() for name in ("localhost", host, own, socket.getfqdn(own), *more))


async def _body(headers: dict[bytes, list[bytes]], receive: Receive) -> bytes:
    """A form, as far as it may be read.

    Raises:
        Refused: It is too long or too slow, or could be read in two ways (RFC 9112 6.1).
    """
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise Refused(400, "Content-Length and Transfer-Encoding exclude each other", connection="close")
    length = headers.get(b"content-length", [b"0"])[0]
    if not length.isdigit() or int(length) > MOST_BODY:
        raise Refused(413, "the form is too long", connection="close")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "the form is cut off", connection="close")
                body += message.get("body", b"")
                if len(body) > MOST_BODY:
                    raise Refused(413, "the form is too long", connection="close")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, "the form comes too slowly", connection="close") from None


def _nothing_more(receive: Receive) -> Receive:
    """What the application within receives: no body, then the end of the connection."""
    is_first = True

    async def next_message() -> MutableMapping[str, Any]:
        nonlocal is_first
        if is_first:
            is_first = False
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return next_message


def _guarded(send: Send) -> Send:
    """Send with our headers, and give up a client that does not read."""

    async def guarded(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            said = {name.lower() for name, _ in message["headers"]}
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in said]
            message = {**message, "headers": [*message["headers"], *ours]}
        async with asyncio.timeout(SEND_S):
            await send(message)

    return guarded


async def _refuse(refusal: Refused, send: Send) -> None:
    text = f"{refusal.sentence}\n".encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(text)), **refusal.headers}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
    await send({"type": "http.response.body", "body": text})
