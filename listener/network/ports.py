"""Listening on a TCP port, and the sentence for the operator where that cannot be done."""

from __future__ import annotations

import errno
import socket
from typing import Final

from listener.foundation.errors import SourceUnusable

BACKLOG: Final = 1024


def listen(host: str, port: int, section: str) -> socket.socket:
    """A listening socket.

    Args:
        host: Address or name of this machine.
        port: 0 takes a free one.
        section: Section of the configuration that holds both, for the sentence.

    Raises:
        SourceUnusable: It cannot be had, and why.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise SourceUnusable(_why_not(host, port, error, section)) from error


def _why_not(host: str, port: int, error: OSError, section: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or set another `{section}.port`"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges: use one above 1023, or give the service CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is not an address of this machine: set another `{section}.host`"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
