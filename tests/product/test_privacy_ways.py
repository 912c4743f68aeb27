"""Instances at rest, of an archive and in archives: no way in leaves a trace, and all of them say the same."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.dcmqrscp_server import AE_TITLE, DcmqrscpServer
from tests.exporter.orthanc_folders import Handmade
from tests.exporter.privacy.output import ACCESSION, NAME, PATIENT, found_in, instance, left_behind
from tests.product.running import run, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.product.running import Product

pytestmark = pytest.mark.slow
COUNT = 6


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("k" * 32)
    (tmp_path / "key").chmod(0o600)
    path = tmp_path / "exporter.yml"
    path.write_text(f"privacy: {{profile: basic, key_file: {tmp_path / 'key'}}}\n")
    return path


def contents() -> list[bytes]:
    """Instances with tokens in them, and one that fails."""
    found = []
    for number in range(1, COUNT + 1):
        content, made = io.BytesIO(), instance(number)
        if number == COUNT:
            made.PixelData = made.PixelData[:100]
        made.save_as(content)
        found.append(content.getvalue())
    return found


def records(output: Path) -> list[str]:
    """What the lines of an output say of the instances, and hashes of their media, however they came in."""
    found = []
    for text in (output / "metadata.jsonl").read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        files = sorted((output / "media").rglob("*.png"))
        assert files
        for key in ("dicom_file", "media_file", "media_files"):
            line.pop(key, None)
        export = line.pop("export")
        found.append(json.dumps([line, export["privacy"], export["status"]], sort_keys=True))
    return sorted(found)


def assert_clean(output: Path, done: list[subprocess.CompletedProcess[str]]) -> None:
    """No token below an output, nor in anything that was said."""
    assert left_behind(output, apart=("spool",)) == {}
    assert found_in("".join(one.stdout + one.stderr for one in done).encode()) == set()
    reports = [run(*words, "--data", output) for words in (("status",), ("failures",), ("reconcile",))]
    assert found_in("".join(one.stdout + one.stderr for one in reports).encode()) == set()


def killed_once(*words: object, output: Path, media: int) -> None:
    """Begin a run and kill it, with all its processes, once it has published some media."""
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(
        lambda: process.poll() is not None or len([*output.glob("media/**/*.png")]) >= media,
        seconds=100,
        describe="some media",
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=100)


def test_files_archives_and_a_storage_folder_say_the_same_with_any_number_of_workers_and_after_a_kill(
    config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in" / NAME / PATIENT
    folder.mkdir(parents=True)
    archives = tmp_path / "archives"
    archives.mkdir()
    storage = Handmade(tmp_path / "storage")
    with zipfile.ZipFile(archives / f"{NAME}.zip", "w") as archive:
        for number, content in enumerate(contents()):
            (folder / f"{ACCESSION}-{number}.dcm").write_bytes(content)
            archive.writestr(f"{PATIENT}/{NAME}-{number}.dcm", content)
            storage.add(content)
    storage.write_index()
    found: dict[str, list[str]] = {}
    for name, command, source, workers in (
        ("one worker", "backfill", tmp_path / "in", 1),
        ("four workers", "backfill", tmp_path / "in", 4),
        ("archive", "backfill", archives, 2),
        ("storage", "orthanc-storage", storage.folder, 2),
    ):
        output = tmp_path / f"out {name}"
        words = (command, source, "--output", output, "--config", config, "--workers", workers)
        if name != "one worker":
            killed_once(*words, output=output, media=2)
            assert left_behind(output, apart=("spool",)) == {}
        done = run(*words)
        assert done.returncode == 3, done.stderr  # one instance is damaged
        assert_clean(output, [done])
        found[name] = records(output)
    assert len(found["one worker"]) >= COUNT - 1
    assert found == dict.fromkeys(found, found["one worker"])


def test_what_is_pulled_leaves_no_trace_beside_the_spool(
    make_product: Callable[..., Product], peer: Callable[[str], str], config: Path, tmp_path: Path
) -> None:
    product = make_product(config.read_text())
    archive = DcmqrscpServer(peer, tmp_path / "archive", receivers={"EXPORTER": product.port})
    files = []
    for number, content in enumerate(contents()[:-1]):
        files.append(tmp_path / f"{number}.dcm")
        files[-1].write_bytes(content)
    archive.add(files)
    product.extra += (
        f"pull: [{{name: archive, ae_title: {AE_TITLE}, host: 127.0.0.1, port: {archive.port}, method: get}}]\n"
    )
    cohort = tmp_path / "cohort.csv"
    cohort.write_text(f"PatientID,AccessionNumber\n{PATIENT},{ACCESSION}\n{NAME},NOTHING\n")
    with archive:
        pulled = run("pull", cohort, "--from", "archive", "--config", product.config, "--data", product.data)
    assert pulled.returncode == 3, pulled.stdout + pulled.stderr  # one row finds nothing
    process = product.start("run")
    until(lambda: product.status()["exported"] == COUNT - 1, seconds=100, describe="all are exported")
    assert product.stop("run") == 0
    assert process.poll() is not None
    assert_clean(product.data, [pulled])
    assert found_in(product.log("run").encode()) == set()
    assert len(product.lines) == COUNT - 1
