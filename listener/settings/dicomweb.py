"""The section `dicomweb`: instances over HTTP."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from listener.foundation.configuration import FilePath, Section
from listener.foundation.fields import PositiveInt, PositiveSeconds

SOURCE_NAME = "dicomweb"
"""Name of this source where arrivals are counted by source."""


class HttpDeadlineSection(Section):
    """How long a client may keep us waiting."""

    header_s: PositiveSeconds = 10.0
    """From the connection, or the end of the last answer, until a whole request header is there."""
    idle_s: PositiveSeconds = 30.0
    """For the next bytes of a body."""
    min_bytes_per_s: PositiveInt = 5000
    """Slowest pace of a body; a client that has fallen behind it by `idle_s` is cut off."""


class HttpLimitSection(Section):
    """What a client may cost. The longest instance is `listener.limits.max_instance_bytes`."""

    max_request_bytes: PositiveInt = 64 << 30
    """Longest request."""
    max_instances: Annotated[int, Field(gt=0, le=1_000_000)] = 10_000
    """Most instances of one request."""
    max_requests: Annotated[int, Field(gt=0, le=256)] = 8
    """Most requests at once; more wait for a moment and are then told to come again. Read at the start only."""
    max_connections: PositiveInt = 200
    """Most connections at once; more are closed."""
    max_connections_per_peer: PositiveInt = 150
    """Most connections at once from one address; behind a proxy all have the same."""


class DicomwebSection(Section):
    """STOW-RS (PS3.18 10.5), on the address that `status` gives."""

    enabled: bool = False
    """Whether instances are taken over HTTP."""
    token_file: FilePath | None = None
    """File whose first line is the token that clients must show: 16 printable ASCII characters or more."""
    deadlines: HttpDeadlineSection = HttpDeadlineSection()
    """How long a client may keep us waiting."""
    limits: HttpLimitSection = HttpLimitSection()
    """What a client may cost."""

    @model_validator(mode="after")
    def _has_a_token(self) -> Self:
        if self.enabled and self.token_file is None:
            raise ValueError("`enabled` needs `token_file`: nobody may store without showing a token")
        return self
