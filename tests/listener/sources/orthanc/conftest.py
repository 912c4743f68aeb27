"""A source over a spool of its own, polling quickly; what it took can be looked at."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from listener.foundation.counters import Counters
from listener.settings.listener import ListenerSettings
from listener.sources.contract import Surroundings
from listener.sources.orthanc.source import OrthancSource
from listener.spool.space import SpaceGuard
from listener.spool.spool import Spool
from tests.listener.requestor import eventually
from tests.listener.sources.orthanc.fake_orthanc import FakeOrthanc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

QUICK = {
    "name": "tested",
    "poll_s": 0.02,
    "reconcile_s": 0.1,
    "pause_s": 0.05,
    "max_pause_s": 0.1,
    "connect_s": 0.3,
    "answer_s": 0.4,
    "attempts": 2,
}


class Polling:
    """One source at a time over one data folder."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.spool = Spool.open(folder / "spool")
        self.counters = Counters()
        self.space = SpaceGuard(self.spool.root, ListenerSettings().spool)
        self.settings = ListenerSettings.model_validate({"orthanc": QUICK | settings})
        self.source: OrthancSource | None = None

    def start(self, **changed: Any) -> OrthancSource:
        """Start a source, with some settings changed."""
        section = self.settings.orthanc[0].model_dump(mode="json") | changed
        self.settings = ListenerSettings.model_validate({"orthanc": section})
        surroundings = Surroundings(self.spool, self.space, self.counters, self.folder / "sources")
        self.source = OrthancSource(self.settings.orthanc[0], surroundings)
        self.source.start()
        return self.source

    def stop(self, within_s: float = 5.0) -> int:
        source, self.source = self.source, None
        return source.stop(within_s) if source is not None else 0

    def close(self) -> None:
        self.stop()
        self.spool.close()

    def taken(self) -> Counter[str]:
        """MD5 sums of what is in the spool, and how often each is."""
        files = [path for path in (self.spool.root / "new").iterdir() if path.is_file()]
        return Counter(hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in files)

    def count(self, word: str) -> int:
        return self.counters.get(f"orthanc_{word}")

    def wait_for(self, word: str, count: int = 1, within_s: float = 100.0) -> None:
        eventually(lambda: self.count(word) >= count, f"{word} >= {count}: {self.counters.snapshot()}", within_s)

    def wait_for_passes(self, count: int = 1) -> None:
        """Until so many more reconciliations are over."""
        self.wait_for("reconciliations", self.count("reconciliations") + count)


@pytest.fixture
def fake() -> Iterator[FakeOrthanc]:
    """A lying server that does not lie yet."""
    with FakeOrthanc() as server:
        yield server


@pytest.fixture
def elsewhere() -> Iterator[FakeOrthanc]:
    """Another server, to which nobody should ever speak."""
    with FakeOrthanc() as server:
        yield server


@pytest.fixture
def poll(tmp_path: Path) -> Iterator[Callable[..., Polling]]:
    """Makes pollings of a server, not started yet."""
    made: list[Polling] = []

    def make(url: str, **settings: Any) -> Polling:
        made.append(Polling(tmp_path / f"data{len(made)}", {"url": url} | settings))
        return made[-1]

    yield make
    for polling in made:
        polling.close()
