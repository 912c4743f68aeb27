"""Kinds of values that sections of the configuration share."""

from __future__ import annotations

import pytest

from listener.foundation.fields import is_loopback


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("192.0.2.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_only_an_address_of_this_machine_alone_is_a_loopback(host: str, is_ours: bool) -> None:
    assert is_loopback(host) is is_ours
