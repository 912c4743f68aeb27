"""Studies for archives, and what is needed to pull them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.exporter.pull.studies import Study, make_studies

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Made:
    """Studies and where their files are."""

    studies: list[Study]
    folder: Path

    @property
    def files(self) -> list[Path]:
        return [file for study in self.studies for file in study.files]


@pytest.fixture(scope="session")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """40 studies of 3 instances in 2 series."""
    folder = tmp_path_factory.mktemp("studies")
    return Made(make_studies(folder, 40), folder)
