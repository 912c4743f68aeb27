"""The command `exporter pull` as its users run it, and what is then in the data folder."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from exporter.pull.cohort import read_cohort
from exporter.pull.request import PullRequest
from exporter.pull.run import pull
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.pull.outcome import Summary

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass
class Puller:
    """One data folder, one peer, one cohort."""

    folder: Path
    ae_title: str
    port: int
    peer: dict[str, Any] = field(default_factory=dict)
    listener: dict[str, Any] = field(default_factory=dict)
    listener_port: int = field(default_factory=free_port)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def cohort(self) -> Path:
        return self.folder / "cohort.csv"

    @property
    def report(self) -> Path:
        return self.data / "pull" / "report.csv"

    @property
    def journal(self) -> Path:
        return self.data / "pull" / "journal.db"

    def write(self, lines: Iterable[str]) -> None:
        """The cohort, header first."""
        self.cohort.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @property
    def configuration(self) -> dict[str, Any]:
        """What the configuration file says."""
        peer = {"name": "archive", "ae_title": self.ae_title, "host": "127.0.0.1", "port": self.port} | self.peer
        return {"listener": {"port": self.listener_port} | self.listener, "pull": [peer]}

    def pull(self, **changes: Any) -> Summary:
        """The same in this process, without the command around it."""
        return pull(self.request(**changes), threading.Event(), self.report)

    def request(self, **changes: Any) -> PullRequest:
        """What is asked for, as the command makes it."""
        settings = Settings.model_validate_json(json.dumps(self.configuration), strict=True)
        peer = settings.pull[0]
        return PullRequest(read_cohort(self.cohort), settings, peer, peer.level, DataFolder(self.data), **changes)

    def start(self, *options: str) -> subprocess.Popen[str]:
        """The command, running."""
        config = self.folder / "exporter.yml"
        config.write_text(yaml.safe_dump(self.configuration))
        places = ["--from", "archive", "--config", str(config), "--data", str(self.data)]
        return subprocess.Popen(
            [sys.executable, "-m", "exporter", "pull", str(self.cohort), *places, *options],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        process = self.start(*options)
        try:
            out, err = process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"not ended within {within_s} s: {process.communicate()}") from None
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def new(self) -> list[Path]:
        """Files that wait in the spool."""
        return sorted((self.data / "spool" / "new").glob("*.dcm"))

    def complete(self) -> set[str]:
        """Study Instance UIDs of the targets that the journal has as complete."""
        return {row[0] for row in self._ask("SELECT study FROM target WHERE state = 'complete'")}

    def questions(self) -> int:
        """Questions that the journal has answers to."""
        return len(self._ask("SELECT id FROM question"))

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        if not self.journal.is_file():
            return []
        with closing(sqlite3.connect(self.journal, timeout=10)) as db:
            try:
                return db.execute(statement).fetchall()
            except sqlite3.OperationalError:  # the tables are not there yet
                return []
