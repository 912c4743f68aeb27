"""Who may read what an exporter writes: whatever the umask, its owner alone, or whom `media.mode` and `group` say."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.data import get_testdata_file

from exporter.inputs import backfill as backfill_module
from exporter.inputs.backfill import BackfillRequest, Progress
from exporter.services import daemon
from exporter.services.daemon import DaemonSignals
from exporter.settings.permissions import MediaPermissions
from exporter.settings.settings import Settings, load_settings
from listener.foundation.configuration import ConfigurationError
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool
from tests.exporter.writers.volumetric import Stack, noise, save_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[3]
CT, CINE = (Path(str(get_testdata_file(name))) for name in ("CT_small.dcm", "examples_ybr_color.dcm"))
EVERYTHING: dict[str, Any] = {"frames": {"enabled": True}, "volume": {"series": True, "series_quiet_s": 0.1}}
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has more groups than it is told to have")


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The most open umask there is."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Something of every kind: a still, a cine, a series that is a volume."""
    folder = tmp_path / "in"
    save_series(folder / "deep" / "series", Stack(), noise((4, 6, 5), seed=1))
    shutil.copy(CT, folder / "still.dcm")
    shutil.copy(CINE, folder / "cine.dcm")
    return folder


@pytest.fixture
def group() -> str:
    """A group that files can be given to, and that is not the one they have anyway."""
    own = os.getegid()
    numbers = [entry.gr_gid for entry in grp.getgrall()] if os.geteuid() == 0 else os.getgroups()
    other = next((number for number in numbers if number != own), None)
    if other is None:
        pytest.skip("this user is in one group")
    return str(other)


def backfill(folder: Path, output: Path, workers: int = 1, **sections: Any) -> None:
    tally = Progress()
    settings = Settings.model_validate(EVERYTHING | sections)
    for _ in backfill_module.backfill(
        BackfillRequest(folder, output, settings, workers=workers), tally, threading.Event()
    ):
        pass
    assert tally.exported >= 3
    assert not tally.failed


def entries(root: Path) -> dict[str, os.stat_result]:
    """Everything below a folder but links, which have no permissions of their own."""
    return {path.relative_to(root).as_posix(): path.lstat() for path in root.rglob("*") if not path.is_symlink()}


def bits(found: os.stat_result) -> int:
    return stat.S_IMODE(found.st_mode)


def open_to_others(root: Path) -> list[str]:
    return [f"{name} {bits(found):o}" for name, found in entries(root).items() if bits(found) & 0o077]


@pytest.mark.parametrize("workers", [0, 1], ids=["in this process", "in a worker process"])
def test_everything_below_an_output_folder_is_for_its_owner_alone(inputs: Path, tmp_path: Path, workers: int) -> None:
    backfill(inputs, tmp_path / "out", workers)
    found = entries(tmp_path / "out")
    assert any(name.endswith(".nii.gz") for name in found)
    assert any(name.endswith("frame-00001.png") for name in found)
    assert open_to_others(tmp_path / "out") == []


def test_everything_below_a_data_folder_is_for_its_owner_alone(inputs: Path, tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    with Spool.open(data.spool) as spool:
        for path in sorted(inputs.rglob("*.dcm")):
            incoming = spool.receive()
            incoming.write([path.read_bytes()])
            incoming.commit()
    settings = Settings.model_validate(EVERYTHING | {"num_workers": 1})
    signals = DaemonSignals.none()
    running = threading.Thread(target=daemon.run, args=(settings, data, signals))
    running.start()
    try:
        eventually(lambda: list(data.root.rglob("*.nii.gz")), running)
        eventually(lambda: list(data.media.rglob("*.frames")), running)
        assert open_to_others(data.root) == []
    finally:
        signals.stop.set()
        running.join(100)
    assert open_to_others(data.root) == []


def eventually(what: Callable[[], Any], running: threading.Thread) -> None:
    """Until something is there."""
    while not what():
        assert running.is_alive()
        running.join(0.05)


def test_media_and_their_folders_have_the_mode_and_group_of_the_settings_and_nothing_else_has(
    inputs: Path, tmp_path: Path, group: str
) -> None:
    os.umask(0o077)  # it must not matter
    backfill(inputs, tmp_path / "out", media={"mode": "0640", "group": group})
    for part in ("media", "series"):
        found = entries(tmp_path / "out" / part)
        shown = {name: about for name, about in found.items() if not name.startswith(".")}
        folders = {name: about for name, about in shown.items() if stat.S_ISDIR(about.st_mode)}
        assert folders
        assert {bits(about) for about in folders.values()} == {0o2750}
        assert {bits(about) for name, about in shown.items() if name not in folders} == {0o640}
        assert {about.st_gid for about in shown.values()} == {int(group)}
        assert bits((tmp_path / "out" / part).lstat()) == 0o2750
    others = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert len(others) >= 2
    assert [path.name for path in others if bits(path.lstat()) & 0o077] == []
    assert bits((tmp_path / "out" / "media" / ".partial").lstat()) & 0o077 == 0


def test_a_folder_that_is_there_keeps_its_mode_and_passes_its_group_on(
    inputs: Path, tmp_path: Path, group: str
) -> None:
    media = tmp_path / "out" / "media"
    media.mkdir(parents=True)
    os.chown(media, -1, int(group))
    media.chmod(0o2775)
    backfill(inputs, tmp_path / "out")
    assert bits(media.lstat()) == 0o2775
    found = {name: about for name, about in entries(media).items() if not name.startswith(".")}
    assert {about.st_gid for about in found.values()} == {int(group)}
    assert {bits(about) for about in found.values()} == {0o600, 0o2700}


def test_others_may_read_where_the_mode_says_so(inputs: Path, tmp_path: Path) -> None:
    backfill(inputs, tmp_path / "out", media={"mode": "0644"})
    found = {name: about for name, about in entries(tmp_path / "out" / "media").items() if not name.startswith(".")}
    assert {bits(about) for about in found.values()} == {0o644, 0o755}


def load_media(folder: Path, text: str) -> Settings:
    path = folder / "exporter.yml"
    path.write_text(f"media: {{{text}}}")
    return load_settings(path)


@pytest.mark.parametrize(
    "written",
    ["640", "0640", "'640'", "'0o640'", "'0740'", "'0642'", "'0444'", "'06400'", "rw-r-----", "'1640'", "null", "true"],
)
def test_a_mode_that_is_none_or_lets_others_write_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1: media\.mode: "):
        load_media(tmp_path, f"mode: {written}")


@pytest.mark.parametrize("written", ["no-such-group", "'-1'", "'99999999999999999999'", "7"])
def test_a_group_that_is_not_there_is_refused(tmp_path: Path, written: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1: media\.group: "):
        load_media(tmp_path, f"mode: '0640', group: {written}")


def test_a_group_that_the_mode_keeps_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"keeps out `media\.group`"):
        load_media(tmp_path, f"group: '{os.getegid()}'")


@is_root
def test_a_group_that_files_cannot_be_given_to_is_a_sentence_at_the_start() -> None:
    program = (
        "import os, pathlib, tempfile\n"
        "from exporter.results.intents import MediaFolderUnusable\n"
        "from exporter.services.context import _check_group\n"
        "from exporter.settings.permissions import MediaPermissions\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "media = pathlib.Path(tempfile.mkdtemp()); (media / '.partial').mkdir()\n"
        "try: _check_group(media, MediaPermissions(0o640, 0))\n"
        "except MediaFolderUnusable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "make the user of this exporter a member of that group" in done.stdout, done.stderr


def test_a_link_in_the_place_of_a_medium_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").touch(mode=0o644)
    (tmp_path / "medium.png").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="symbolic links"):
        MediaPermissions(0o640).apply(tmp_path / "medium.png", (tmp_path / "medium.png").lstat())
    assert bits((tmp_path / "other").lstat()) == 0o644
