"""DICOMweb sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.listener.certificates import make_certificate
from tests.listener.sources.dicomweb.store import Store, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Starts sources over one spool; every one is stopped at the end."""
    with stores(tmp_path) as start:
        yield start


@pytest.fixture
def store(serve: Callable[..., Store]) -> Store:
    """A source with every default."""
    return serve()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost, its key in the same file."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "server")
