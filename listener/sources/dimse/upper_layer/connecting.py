"""Connections that we open, TLS included: every wait has a deadline and ends soon after an order to stop.

Contract: `connect` returns a connected socket that does not block, or raises; nothing is left open. The name lookup
alone takes as long as the system's resolver takes (resolv.conf(5)).
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from listener.sources.dimse.upper_layer.wire import AssociationStopped

if TYPE_CHECKING:
    from collections.abc import Callable

TICK_S: Final = 0.2
"""Longest time in the kernel before deadlines and the order to stop are looked at."""


class NoConnection(Exception):
    """There is no connection: TCP or TLS; the text is in our words."""

    def __init__(self, problem: str, *, may_pass: bool) -> None:
        super().__init__(problem)
        self.may_pass = may_pass


def connect(
    host: str, port: int, tls: ssl.SSLContext | None, until: float, stopping: Callable[[], bool]
) -> socket.socket:
    """A connection, encrypted where wanted.

    Raises:
        NoConnection: No connection was made.
        Stopped: We are to stop.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoConnection(getattr(error, "strerror", None) or "its name cannot be resolved", may_pass=True) from error
    for at, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            share = time.monotonic() + (until - time.monotonic()) / (len(addresses) - at + 1)
            _connect_to(sock, address, share, stopping)
            return sock if tls is None else _encrypt(sock, tls, host, until, stopping)
        except ssl.SSLError as error:
            sock.close()
            reason = getattr(error, "verify_message", "") or error.reason or "no handshake"
            raise NoConnection(f"TLS fails ({reason})", may_pass=False) from error
        except OSError as error:
            sock.close()
            if at == len(addresses):
                raise NoConnection(error.strerror or "no answer", may_pass=True) from error
        except BaseException:
            sock.close()
            raise
    raise NoConnection("it has no address", may_pass=True)


def _connect_to(sock: socket.socket, address: Any, until: float, stopping: Callable[[], bool]) -> None:
    try:
        sock.connect(address)
    except BlockingIOError:
        _await(sock, select.POLLOUT, until, stopping)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code)) from None


def _encrypt(
    sock: socket.socket, tls: ssl.SSLContext, host: str, until: float, stopping: Callable[[], bool]
) -> ssl.SSLSocket:
    encrypted = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                encrypted.do_handshake()
            except ssl.SSLWantReadError:
                _await(encrypted, select.POLLIN, until, stopping)
            except ssl.SSLWantWriteError:
                _await(encrypted, select.POLLOUT, until, stopping)
            else:
                return encrypted
    except BaseException:
        encrypted.close()
        raise


def _await(sock: socket.socket, event: int, until: float, stopping: Callable[[], bool]) -> None:
    """Wait until a socket is ready.

    Raises:
        TimeoutError: It is not in time.
        Stopped: We are to stop.
    """
    ready = select.poll()  # not select(2), which knows no descriptors above 1023
    ready.register(sock.fileno(), event)
    while True:
        if stopping():
            raise AssociationStopped
        if time.monotonic() > until:
            raise TimeoutError
        if ready.poll(max(0.0, min(TICK_S, until - time.monotonic())) * 1000):
            return
