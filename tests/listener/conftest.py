"""Receivers for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.listener.certificates import make_certificate
from tests.listener.requestor import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> str:
    """The engine of the receivers; a module whose rules hold for both has a fixture of this name with parameters."""
    return "native"


@pytest.fixture
def receive(tmp_path: Path, engine: str) -> Iterator[Callable[..., Receiver]]:
    """Starts receivers; every one is stopped at the end."""
    running: list[Receiver] = []

    def start(**settings: Any) -> Receiver:
        settings["listener"] = {"engine": engine} | settings.get("listener", {})
        receiver = Receiver(tmp_path / f"data{len(running)}", settings)
        running.append(receiver)
        return receiver

    yield start
    for receiver in running:
        receiver.daemon.stop()


@pytest.fixture
def receiver(receive: Callable[..., Receiver]) -> Receiver:
    """A receiver with every default but the port."""
    return receive()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, its key in the same file."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")
