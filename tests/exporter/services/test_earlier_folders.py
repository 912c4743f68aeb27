"""Data folders of earlier versions open, are brought up to date, and go on as if nothing had happened.

`earlier/schema-N.tar.xz` are whole folders as the versions with schema N of the ledger left them: of four received
files two were exported, one was a duplicate, one is in quarantine; a fifth was received after the exporter stopped.
"""

from __future__ import annotations

import json
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from exporter.commands.app import main
from exporter.page.condition import standing_of
from exporter.results.ledger import Ledger, LedgerUnusable
from exporter.results.reconcile import Folders, reconcile
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool
from tests.exporter.rejecting import image_uid, note, save_image, save_note

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

EARLIER = Path(__file__).with_name("earlier")
PATIENCE_S = 100.0


@pytest.fixture(params=[path.name for path in sorted(EARLIER.glob("*.tar.xz"))])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> DataFolder:
    with tarfile.open(EARLIER / request.param) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return DataFolder(tmp_path / "data")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)  # between two looks, bounded by the deadline


def test_a_folder_of_an_earlier_version_is_brought_up_to_date_and_goes_on(
    data: DataFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, media = data.metadata.read_bytes(), {path: path.read_bytes() for path in data.media.rglob("*.png")}
    assert len(media) == 2
    assert main(["status", "--data", str(data.root)]) != 0
    assert "earlier version" in capsys.readouterr().err
    signals = DaemonSignals.none()
    settings = Settings.model_validate({"num_workers": 1, "media": {"on_rejection": "withdraw"}})
    thread = threading.Thread(target=daemon.run, args=(settings, data, signals))

    def finished(number: int) -> bool:
        try:
            with Ledger.open_read_only(data.ledger) as ledger:
                counts = ledger.counts()
        except LedgerUnusable:  # not brought up to date yet
            return False
        return counts.exported + counts.skipped + counts.quarantined == number and not [
            *(data.spool / "new").iterdir(),
            *(data.spool / "active").iterdir(),
        ]

    with Spool.open(data.spool) as spool:
        for path in (save_image(tmp_path, 1), save_note(tmp_path, "note", note([image_uid(2)]))):
            incoming = spool.receive()
            incoming.write([path.read_bytes()])
            incoming.commit()
        thread.start()
        try:
            until(lambda: finished(7))
        finally:
            signals.stop.set()
            thread.join(PATIENCE_S)
    standing = standing_of(data.root)
    assert (standing.exported, standing.skipped, standing.quarantined, standing.duplicates) == (3, 3, 1, 2)
    assert standing.reasons["skipped"] == {"duplicate": 2, "rejected": 1}
    after = data.metadata.read_bytes()
    assert after.startswith(before)
    added = [json.loads(line)["export"]["status"] for line in after[len(before) :].splitlines()]
    assert sorted(added) == ["exported", "exported", "withdrawn"]
    kept = [path for path in media if path.name == f"{image_uid(1)}.png"]
    assert [path.read_bytes() for path in kept] == [media[path] for path in kept]
    assert reconcile(Folders(data.ledger, data.media, data.metadata, data.spool), deep=True).faults == []
    assert main(["failures", "retry", "--reason", "unreadable", "--data", str(data.root)]) == 0
