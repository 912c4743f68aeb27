"""An acceptor that does what a script says, byte for byte: to show what requestors survive."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer import pdu

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER = struct.Struct(">BxI")
PDV = struct.Struct(">IBB")


class Gone(Exception):
    """The requestor closed the connection, or the test is over."""


class Line:
    """One connection, from the acceptor's side."""

    def __init__(self, sock: socket.socket, over: threading.Event) -> None:
        self.sock = sock
        self.over = over
        self.request: pdu.AssociateRequest

    def read(self, length: int) -> bytes:
        content = b""
        while len(content) < length:
            try:
                piece = self.sock.recv(length - len(content))
            except TimeoutError:
                if self.over.is_set():
                    raise Gone from None
                continue
            except OSError as error:
                raise Gone from error
            if not piece:
                raise Gone
            content += piece
        return content

    def send(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except TimeoutError:
                if self.over.is_set():
                    raise Gone from None
            except OSError as error:
                raise Gone from error

    def read_pdu(self) -> tuple[int, bytes]:
        kind, length = HEADER.unpack(self.read(6))
        return kind, self.read(length)

    def read_request(self) -> pdu.AssociateRequest:
        kind, body = self.read_pdu()
        assert kind == 1
        self.request = pdu.parse_associate_request(body)
        return self.request

    def answer(self, refuse: tuple[str, ...] = (), max_pdu_bytes: int = 16_384) -> bytes:
        """The A-ASSOCIATE-AC to the request: every context but those of these classes, first transfer syntax."""
        contexts = tuple(
            pdu.ContextAnswer(one.context_id, pdu.ContextResult(3 if one.abstract_syntax in refuse else 0), syntax)
            for one in self.request.contexts
            for syntax in one.transfer_syntaxes[:1]
        )
        accept = pdu.AssociateAccept(contexts, max_pdu_bytes, "1.2.3", "SCRIPTED", roles=self.request.roles)
        return pdu.associate_accept(self.request, accept)

    def accept(self) -> None:
        self.read_request()
        self.send(self.answer())

    def context_of(self, abstract_syntax: str) -> int:
        return next(one.context_id for one in self.request.contexts if one.abstract_syntax == abstract_syntax)

    def read_message(self) -> tuple[int, dimse.Command, bytes]:
        """Context, command and data set of one message."""
        parts = {True: b"", False: b""}
        command: dimse.Command | None = None
        while True:
            kind, body = self.read_pdu()
            if kind == 5:
                self.send(pdu.release_response())
            if kind != 4:
                raise Gone
            while body:
                length, context_id, control = PDV.unpack_from(body)
                parts[bool(control & 1)] += body[6 : 4 + length]
                body = body[4 + length :]
                if control == 3:
                    command = dimse.parse_command(parts[True])
                if control & 2 and command is not None and (control == 2 or not command.has_data_set):
                    return context_id, command, parts[False]

    def respond(self, context_id: int, command: bytes, data: bytes | None = None) -> None:
        self.send(message(context_id, command, data))

    def hold(self) -> None:
        """Say nothing until the requestor goes."""
        with suppress(Gone):
            while True:
                self.read(1)

    def serve_release(self) -> None:
        while True:
            kind, _ = self.read_pdu()
            if kind == 5:
                self.send(pdu.release_response())
            if kind in (5, 7):
                return


class ScriptedPeer:
    """Runs a script for each connection."""

    def __init__(self, script: Callable[[Line], None]) -> None:
        self.script = script
        self.connections = 0
        self._over = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self.port: int = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._run, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        self._server.close()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._server.accept()
            except TimeoutError:
                continue
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.settimeout(0.1)
            with suppress(Gone):
                self.script(Line(sock, self._over))


def p_data(context_id: int, control: int, content: bytes) -> bytes:
    """A P-DATA-TF of one fragment."""
    return HEADER.pack(4, len(content) + 6) + PDV.pack(len(content) + 2, context_id, control) + content


def message(context_id: int, command: bytes, data: bytes | None = None) -> bytes:
    """A message; its data set in fragments of 16 KB."""
    content = p_data(context_id, 3, command)
    if data is None:
        return content
    parts = [data[at : at + 16_000] for at in range(0, len(data), 16_000)] or [b""]
    return content + b"".join(p_data(context_id, 2 * (part is parts[-1]), part) for part in parts)


def element(tag: int, value: bytes) -> bytes:
    """An element of a command set, or of a data set in implicit VR little endian."""
    value += b" " * (len(value) & 1)
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def response(
    field: int, message_id: int, status: int, *, has_data: bool = False, counts: tuple[int, ...] = ()
) -> bytes:
    """The command set of a response; counts are remaining, completed, failed and warning sub-operations."""
    us = struct.Struct("<H").pack
    body = (
        element(0x0100, us(field | 0x8000))
        + element(0x0120, us(message_id))
        + element(0x0800, us(0x0102 if has_data else 0x0101))
        + element(0x0900, us(status))
        + b"".join(element(0x1020 + at, us(count)) for at, count in enumerate(counts))
    )
    return element(0x0000, struct.pack("<I", len(body))) + body
