"""Kinds of values that more than one section of the configuration has."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from pydantic import Field, StringConstraints

from listener.foundation.configuration import Spelling

PositiveInt = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AETitle = Annotated[
    str,
    StringConstraints(strip_whitespace=True),
    Spelling(r"^[ -\[\]-~]{1,16}$", "1 to 16 printable ASCII characters without backslash"),
]
"""The value representation AE (PS3.5 6.2), without leading and trailing spaces."""
Port = Annotated[int, Field(ge=1, le=65535)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
