"""Free ports for what the tests start."""

from __future__ import annotations

import random
import socket
from typing import Final

BELOW_THE_SYSTEMS_OWN: Final = range(10_240, 32_000)
"""Ports that no outgoing connection of another test is given in the meantime (ip(7), `ip_local_port_range`)."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    while True:
        port = random.SystemRandom().choice(BELOW_THE_SYSTEMS_OWN)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
