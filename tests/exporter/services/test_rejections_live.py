"""A daemon withdraws what a received rejection note names, and treats what is sent again as the note's title says."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from exporter.results.ledger import Ledger
from exporter.results.reconcile import Folders, reconcile
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool
from tests.exporter.rejecting import SERIES, STUDY, image_uid, note, save_image, save_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 100.0


@contextmanager
def running(data: DataFolder) -> Iterator[None]:
    signals, failures = DaemonSignals.none(), []
    volume = {"series": True, "series_quiet_s": 0.2}
    sections = {"num_workers": 1, "media": {"on_rejection": "withdraw"}, "volume": volume}

    def run() -> None:
        try:
            daemon.run(Settings.model_validate(sections), data, signals)
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        signals.stop.set()
        thread.join(PATIENCE_S)
    assert not failures, failures


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)  # between two looks, bounded by the deadline


@pytest.mark.slow
def test_what_is_rejected_goes_with_its_part_of_the_volume_and_comes_again_as_its_title_permits(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    media = data.media / STUDY / SERIES
    described = data.root / "series" / STUDY / f"{SERIES}.series.json"
    finished = 0

    def receive(spool: Spool, *paths: Path) -> None:
        """Receive files, and wait until all that came is exported or skipped and has left the spool."""
        nonlocal finished
        finished += len(paths)
        for path in paths:
            incoming = spool.receive()
            incoming.write([path.read_bytes()])
            incoming.commit()

        def done() -> bool:
            if not data.ledger.exists():
                return False
            with Ledger.open_read_only(data.ledger) as ledger:
                counts, held = ledger.counts(), spool.counts()
            return counts.exported + counts.skipped == finished and held.new == held.active == 0

        until(done)

    def volume_text() -> str:
        """Description of the volume; empty while there is none."""
        try:
            return described.read_text()
        except FileNotFoundError:
            return ""

    def newest(name: str) -> dict[str, Any]:
        lines = [json.loads(line) for line in data.metadata.read_text().splitlines()]
        found: dict[str, Any] = [one for one in lines if one.get("SOP Instance UID") == name][-1]["export"]
        return found

    first, second, third = (save_image(tmp_path, number) for number in (1, 2, 3))
    unsafe = save_note(tmp_path, "n1", note([image_uid(3)], "113037", number=1))
    expired = save_note(tmp_path, "n2", note([image_uid(2)], "113039", number=2))
    with Spool.open(data.spool) as spool, running(data):
        receive(spool, first, second, third)
        until(lambda: image_uid(3) in volume_text())
        receive(spool, unsafe)
        assert not (media / f"{image_uid(3)}.png").exists()
        until(lambda: image_uid(2) in volume_text() and image_uid(3) not in volume_text())
        waiting = data.root / "series" / ".waiting" / STUDY / SERIES
        assert len([*waiting.iterdir()]) == 2
        receive(spool, third)
        assert not (media / f"{image_uid(3)}.png").exists(), "it is refused"
        receive(spool, expired)
        assert not (media / f"{image_uid(2)}.png").exists()
        receive(spool, second)
        assert (media / f"{image_uid(2)}.png").exists(), "it is exported again"
        assert newest(image_uid(2))["rejection"]["code"] == "113039"
        until(lambda: image_uid(2) in volume_text())
    with Ledger.open_read_only(data.ledger) as ledger:
        counts = ledger.counts()
    assert (counts.by_reason["skipped", "rejected"], counts.rejected) == (3, 4)
    assert reconcile(Folders(data.ledger, data.media, data.metadata, data.spool), deep=True).faults == []
    series = data.root / "series"
    others = (series / ".waiting",)
    folders = Folders(data.root / "series.db", series, data.root / "series.jsonl", others=others)
    assert reconcile(folders, deep=True).faults == []
