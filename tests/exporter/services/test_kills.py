"""kill -9 of the exporter or of its workers at any moment: nothing is lost, torn, doubled or visible in part."""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from exporter.results.ledger import Ledger
from listener.settings.listener import DataFolder
from listener.spool.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "5"))
COUNT = 120


def instances() -> Iterator[bytes]:
    """Instances with one identity each."""
    dataset = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    for _ in range(COUNT):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        buffer = pydicom.filebase.DicomBytesIO()
        dataset.save_as(buffer)
        yield bytes(buffer.getvalue())


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "exporter", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers_of(pid: int) -> list[int]:
    """Workers and the fork server that they are copies of."""
    with suppress(psutil.NoSuchProcess):
        return [process.pid for process in psutil.Process(pid).children(recursive=True)]
    return []


def done(ledger: Path) -> int:
    if not ledger.exists():
        return 0
    with Ledger.open_read_only(ledger) as opened:
        counts = opened.counts()
    return counts.exported + counts.failed + counts.quarantined


def kill_at_random(
    start_one: object, ledger: Path, rng: random.Random, workers_share: float
) -> collections.Counter[str]:
    """Start, kill, start again; the kinds of victims, of which so large a share are workers."""
    killed: collections.Counter[str] = collections.Counter()
    process = start_one()  # type: ignore[operator]  # a function without arguments
    try:
        while killed.total() < KILLS and done(ledger) < COUNT:
            before = done(ledger)
            deadline = time.monotonic() + 120  # starting takes most of it on a busy machine
            while process.poll() is None and done(ledger) < min(before + rng.randint(1, 8), COUNT):
                assert time.monotonic() < deadline, "no progress"
            time.sleep(rng.uniform(0, 0.05))
            workers = workers_of(process.pid)
            if rng.random() < workers_share and workers:
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(workers), signal.SIGKILL)
                killed["worker"] += 1
            else:
                process.kill()
                process.wait()
                killed["exporter"] += 1
                process = start_one()  # type: ignore[operator]  # as above
    finally:
        process.kill()
        process.wait()
    return killed


def check(data: DataFolder, *, is_sound: bool) -> None:
    """Media, lines and ledger tell the same, each once, and every medium is whole; with `is_sound`, nothing failed."""
    text = data.metadata.read_bytes()
    assert text.endswith(b"\n")
    lines = [json.loads(line) for line in text.splitlines()]
    told = [medium["path"] for line in lines for medium in line["export"]["media"]]
    assert len(set(told)) == len(told)
    assert len({line["SOP Instance UID"] for line in lines}) == len(lines)
    found = {p.relative_to(data.media).as_posix(): p for p in data.media.rglob("*") if p.is_file()}
    assert set(told) == found.keys()
    for path in found.values():
        with Image.open(path) as image:
            image.load()
    with Ledger.open_read_only(data.ledger) as ledger:
        counts = ledger.counts()
        attempts = [entry.attempts for entry in ledger.entries()]
    assert counts.exported == len(lines)
    # An instance whose worker was killed twice may end as a failure with a reason; it is never lost.
    assert counts.exported + (0 if is_sound else counts.failed + counts.quarantined) == COUNT
    assert max(attempts) <= (1 if is_sound else 2), "what the exporter's end cut short is no attempt"


@pytest.mark.slow
def test_a_backfill_that_is_killed_again_and_again_ends_whole(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, content in enumerate(instances()):
        (folder / f"{number:03d}").write_bytes(content)
    data = DataFolder(out)
    rng = random.Random(4711)  # noqa: S311 - which process dies is no secret
    killed = kill_at_random(lambda: start("backfill", folder, "--output", out), data.ledger, rng, 0.4)
    assert killed.total() == KILLS
    last = start("backfill", folder, "--output", out)
    assert last.wait(120) in {0, 3}
    check(data, is_sound=False)


@pytest.mark.slow
def test_a_daemon_that_is_killed_again_and_again_loses_nothing_and_judges_nothing(tmp_path: Path) -> None:
    data = DataFolder(tmp_path / "data")
    with Spool.open(data.spool) as spool:
        for content in instances():
            incoming = spool.receive()
            incoming.write([content])
            incoming.commit()
        rng = random.Random(815)  # noqa: S311 - as above
        killed = kill_at_random(lambda: start("run", "--data", data.root), data.ledger, rng, 0.0)
        assert killed["exporter"] == KILLS
        process = start("run", "--data", data.root)
        try:
            deadline = time.monotonic() + 120
            while spool.counts().new + spool.counts().active or done(data.ledger) < COUNT:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait(100)
        assert spool.counts().quarantined == 0
    check(data, is_sound=True)
    assert (
        subprocess.run(
            [sys.executable, "-m", "exporter", "reconcile", "--data", str(data.root)], cwd=ROOT, check=False
        ).returncode
        == 0
    )
