"""Fixtures every test may use: the shared corpus, pydicom's own files, and real peer programs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import structlog

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

REPOSITORY = Path(__file__).resolve().parents[1]
CORPUS = REPOSITORY.parent / "shared" / "corpus"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the markers `peer` and `corpus` to the tests that use those fixtures."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        for name in ("peer", "corpus"):
            if name in names:
                item.add_marker(name)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What one test sets up for logs must not reach the next."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Folder of the shared corpus of real DICOM files."""
    if not (CORPUS / "catalog.jsonl").is_file():
        pytest.skip("the shared corpus is not beside the repository")
    return CORPUS


@pytest.fixture(scope="session")
def corpus_catalog(corpus: Path) -> list[dict[str, Any]]:
    """What each file of the corpus is: one row per file."""
    return [json.loads(line) for line in (corpus / "catalog.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """Path of a real peer program from the system, never one of this virtual environment."""
    own = str(REPOSITORY / ".venv")
    path = os.pathsep.join(p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if not p.startswith(own))

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{path}{os.pathsep}/usr/bin{os.pathsep}/usr/sbin")
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


@pytest.fixture(name="free_port")
def _free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    return free_port()
