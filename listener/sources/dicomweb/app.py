"""The store transaction as an ASGI application: `POST /dicom-web/studies[/{study}]` (PS3.18 10.5), nothing else.

Contract: a request is refused before its body is read wherever its header says enough. A body goes piece by piece to a
thread that may wait for disks; the client waits for the answer until everything is durable, and no client waits for
another. It may be mounted beside other applications: what is not below `/dicom-web` it answers 404.

Must never: write an address or a header of a request to the log (they hold UIDs and the token).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import structlog

from listener.intake.reception import is_valid_uid
from listener.network.token import Token, challenge
from listener.settings.dicomweb import SOURCE_NAME
from listener.sources.dicomweb import response
from listener.sources.dicomweb.intake import DICOM, Intake, TooManyInstances
from listener.sources.dicomweb.multipart import Malformed, media_type
from listener.sources.dicomweb.part10 import Answer, UploadTerms
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSettings
    from listener.sources.contract import Surroundings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger()

PATH: Final = re.compile(r"/dicom-web/studies(?:/([^/]{1,256}))?/?")
TURN_S: Final = 2.0
RETRY_BUSY_S: Final = 5
RETRY_ROOM_S: Final = 60
MOST_DRAINED: Final = 8 << 20
"""So much of a body that is not wanted is read, so that its sender gets to read why."""
DRAIN_S: Final = 5.0
LOG_EVERY_S: Final = 10.0


class Refusal(Exception):
    """An answer instead of the store transaction's own."""

    def __init__(
        self, status: int, words: str, more: tuple[tuple[str, str], ...] = (), *, expects_body: bool = True
    ) -> None:
        """With `expects_body`, a body that was not read is on its way."""
        super().__init__(words)
        self.status = status
        self.words = words
        self.more = more
        self.expects_body = expects_body


class ClientGone(Exception):
    """The client has closed the connection."""


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """What the settings say, with every file they name read."""

    settings: ListenerSettings
    token: Token


class StoreApp:
    """The application."""

    def __init__(self, policy: StorePolicy, surroundings: Surroundings) -> None:
        self.policy = policy
        """Replaced as a whole at a reload; requests under way keep theirs."""
        self._surroundings = surroundings
        self._counters = surroundings.counters
        self._free = asyncio.Semaphore(policy.settings.dicomweb.limits.max_requests)
        self._silent_until: dict[int, float] = {}
        self._pool = ThreadPoolExecutor(policy.settings.dicomweb.limits.max_requests, thread_name_prefix="dicom-web")

    def close(self) -> None:
        """Wait for what threads still do."""
        self._pool.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, send, self.policy)
        try:
            answers = await self._store(request)
            if answers is not None:
                await self._answer(request, answers)
        except Refusal as refusal:
            await self._refuse(request, refusal)
        except ClientGone:
            self._counters.add("http_broken_off")
            log.info("store request broken off", peer=request.peer, bytes=request.received)

    async def _store(self, request: _Request) -> list[Answer] | None:
        request.check_framing()
        study = request.study()
        request.authorize()
        boundary, request.media_type = request.negotiate()
        self._find_room()
        terms = UploadTerms(self._surroundings, request.policy.settings.listener, study)
        try:
            intake = Intake(boundary, terms, request.policy.settings.dicomweb.limits.max_instances)
        except Malformed as error:
            raise Refusal(400, str(error)) from error
        await self._wait_for_turn()
        loop = asyncio.get_running_loop()
        try:
            async for piece in request.body():
                await loop.run_in_executor(self._pool, intake.feed, piece)
            return await loop.run_in_executor(self._pool, intake.finish)
        except Malformed as error:
            raise Refusal(400, str(error)) from error
        except TooManyInstances:
            raise Refusal(413, "the request has more instances than are permitted") from None
        finally:
            self._free.release()
            self._count(intake.answers)
            # Also where this task is cancelled while a thread still writes: `discard` waits for it.
            self._pool.submit(intake.discard)

    def _find_room(self) -> None:
        """Refuse what cannot be taken now (PS3.18 8.5: 503 where out of resources)."""
        space = self._surroundings.space
        if space.state is not SpaceLevel.ENOUGH or space.queue_full:
            raise Refusal(503, "out of resources: storage", (("retry-after", str(RETRY_ROOM_S)),))

    async def _wait_for_turn(self) -> None:
        """Wait for a moment where too many requests are under way; the body waits with its client."""
        try:
            async with asyncio.timeout(TURN_S):
                await self._free.acquire()
        except TimeoutError:
            raise Refusal(503, "too many requests at once", (("retry-after", str(RETRY_BUSY_S)),)) from None

    def _count(self, answers: list[Answer]) -> None:
        for word, count in Counter(answer.situation.word for answer in answers).items():
            self._counters.add(f"instances_{word}", count)
        stored = [answer.size_bytes for answer in answers if answer.situation.is_success]
        self._counters.add("bytes_stored", sum(stored))
        if stored:
            self._counters.arrived(SOURCE_NAME, len(stored))

    async def _answer(self, request: _Request, answers: list[Answer]) -> None:
        status = response.http_status(answers)
        if status == 400:
            raise Refusal(400, "the request has no instances", expects_body=False)
        more = (("retry-after", str(RETRY_ROOM_S)),) if status == 503 else ()
        level = log.info if status == 200 else log.warning
        level(
            "store request",
            peer=request.peer,
            status=status,
            answers=dict(Counter(answer.situation.word for answer in answers)),
            bytes=request.received,
            seconds=round(time.monotonic() - request.started, 3),
        )
        self._counters.add(f"http_{status}")
        content = response.encoded(answers, request.media_type)
        await request.reply(status, request.media_type, content, more)

    async def _refuse(self, request: _Request, refusal: Refusal) -> None:
        self._counters.add(f"http_{refusal.status}")
        self._tell(request, refusal)
        more = refusal.more
        if refusal.expects_body:
            await request.drain()
            more = (*more, ("connection", "close"))
        await request.reply(refusal.status, "text/plain; charset=utf-8", refusal.words.encode() + b"\n", more)

    def _tell(self, request: _Request, refusal: Refusal) -> None:
        """One line per status and pause: a flood must not become a flood of lines."""
        now = time.monotonic()
        if refusal.status not in (404, 405) and now >= self._silent_until.get(refusal.status, 0.0):
            self._silent_until[refusal.status] = now + LOG_EVERY_S
            log.warning("store request refused", peer=request.peer, status=refusal.status, why=refusal.words)


class _Request:
    """One request: what its header says, its body within its deadlines, and the answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, policy: StorePolicy) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_complete = False
        self.policy = policy
        self.media_type = response.JSON
        self.peer = str((scope.get("client") or ("",))[0])
        self.received = 0
        self.started = time.monotonic()
        self._headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._headers.setdefault(name, []).append(value)

    def check_framing(self) -> None:
        """Refuse what two readers could see end at different places; the connection is closed after the answer.

        Source: RFC 9112 6.1: Transfer-Encoding together with Content-Length, or in a message of HTTP/1.0.
        """
        if b"transfer-encoding" not in self._headers:
            return
        if b"content-length" in self._headers:
            raise Refusal(400, "Content-Length and Transfer-Encoding exclude each other")
        if self._scope["http_version"] == "1.0":
            raise Refusal(400, "HTTP/1.0 has no Transfer-Encoding")

    def study(self) -> bytes | None:
        """The study that the address names."""
        found = PATH.fullmatch(self._scope["path"])
        if found is None:
            raise Refusal(404, "there is nothing here")
        if self._scope["method"] != "POST":
            raise Refusal(405, "only POST is served here", (("allow", "POST"),))
        if found[1] is None:
            return None
        study = found[1].encode("utf-8", "replace")
        if not is_valid_uid(study):
            raise Refusal(400, "the Study Instance UID of the address is no UID")
        return study

    def authorize(self) -> None:
        """Refuse who does not show the token."""
        shown = self._headers.get(b"authorization", [])
        if len(shown) != 1 or not self.policy.token.is_shown_by(shown[0]):
            raise Refusal(401, "the token is missing or wrong", (("www-authenticate", challenge("dicom-web")),))

    def negotiate(self) -> tuple[str, str]:
        """The boundary of the body, and the media type of the answer."""
        if self._all(b"content-encoding").strip().lower() not in ("", "identity"):
            raise Refusal(415, "a body with a Content-Encoding is not taken")
        try:
            body = media_type(self._all(b"content-type"))
        except Malformed:
            raise Refusal(415, f'the body must be multipart/related; type="{DICOM}"') from None
        if body.name != "multipart/related" or body.parameters.get("type", DICOM).lower() != DICOM:
            raise Refusal(415, f'the body must be multipart/related; type="{DICOM}"')
        if "boundary" not in body.parameters:
            raise Refusal(400, "the Content-Type names no boundary")
        wanted = response.acceptable(self._all(b"accept"))
        if wanted is None:
            raise Refusal(406, f"the answer is {response.JSON} or {response.XML}")
        length = self._all(b"content-length")
        if length.isdecimal() and int(length) > self.policy.settings.dicomweb.limits.max_request_bytes:
            raise Refusal(413, "the request is longer than is permitted")
        return body.parameters["boundary"], wanted

    async def body(self) -> AsyncIterator[bytes]:
        """The body in pieces, each within its time; see `HttpDeadlineSection`."""
        section = self.policy.settings.dicomweb
        idle_s, pace = section.deadlines.idle_s, section.deadlines.min_bytes_per_s
        # Time that the client may still take: what it sends adds to it, but never more than `idle_s`, so that a fast
        # beginning does not pay for a slow end.
        left_s = idle_s
        while not self._is_complete:
            began = time.monotonic()
            try:
                piece = await asyncio.wait_for(self._next(), left_s)
            except TimeoutError:
                words = "the body comes too slowly"
                raise Refusal(408, words, (("connection", "close"),), expects_body=False) from None
            left_s = min(idle_s, max(0.0, left_s - (time.monotonic() - began)) + len(piece) / pace)
            if self.received > section.limits.max_request_bytes:
                raise Refusal(413, "the request is longer than is permitted")
            if piece:
                yield piece

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] != "http.request":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self._is_complete = not message.get("more_body", False)
        self.received += len(piece)
        return piece

    async def drain(self) -> None:
        """Read on for a moment where a body is on its way that nobody wants; not where it waits for our word."""
        if b"expect" in self._headers:
            return
        try:
            async with asyncio.timeout(DRAIN_S):
                before = self.received
                while not self._is_complete and self.received - before < MOST_DRAINED:
                    await self._next()
        except (TimeoutError, ClientGone):
            pass

    async def reply(
        self, status: int, content_type: str, content: bytes, more: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """Answer, once."""
        headers = {
            "content-type": content_type,
            "content-length": str(len(content)),
            "date": formatdate(usegmt=True),
            "cache-control": "no-store",
            "x-content-type-options": "nosniff",
            **dict(more),
        }
        encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})
        await self._send({"type": "http.response.body", "body": content})

    def _all(self, name: bytes) -> str:
        return ", ".join(value.decode("latin-1") for value in self._headers.get(name, ()))
