"""What sources remember lies in the spool, also what earlier versions kept beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from listener.daemon import ListenerDaemon
from listener.settings.listener import DataFolder, ListenerSettings

if TYPE_CHECKING:
    from pathlib import Path


def test_memories_of_an_earlier_version_are_moved_into_the_spool(tmp_path: Path, free_port: int) -> None:
    data = DataFolder(tmp_path)
    (tmp_path / "sources" / "watch").mkdir(parents=True)
    (tmp_path / "sources" / "watch" / "memory.db").write_text("names of files")
    daemon = ListenerDaemon(ListenerSettings.model_validate({"listener": {"port": free_port, "processes": 1}}), data)
    daemon.start()
    daemon.stop()
    assert not (tmp_path / "sources").exists()
    assert (tmp_path / "spool" / "sources" / "watch" / "memory.db").read_text() == "names of files"
