"""Data sets as their readers see them: `datasets`, `mlcroissant` and `webdataset`."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
import os
import subprocess
import sys
import tarfile
import wave
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from exporter.commands.app import main
from exporter.tables.datasets.destination import MARK
from listener.foundation.durable import mark_in_use
from tests.exporter.tables.synthetic import made_line, write_lines

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")  # the judges' own warnings
PATIENTS = 24


def exported(folder: Path) -> Path:
    """An output folder: an image for each of many patients, some cines, sounds, frames and a document."""
    media = folder / "media"
    media.mkdir(parents=True)
    lines = []
    for number in range(PATIENTS):
        elements: dict[str, Any] = {"Patient ID": f"P{number}", "SOP Instance UID": f"1.2.{number}", "Modality": "US"}
        if number % 2:
            elements |= {"Window Center": number, "[Suite id] (0009,xx02 GEMS_IDEN_01)": "S"}
        path = f"test/train/{number}.png"
        (media / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(media / path)
        lines.append(line_of(media, f"{number}.dcm", path, "image", elements))
    for number in range(4):
        write_video(media / f"v{number}.mp4")
        lines.append(line_of(media, f"v{number}", f"v{number}.mp4", "video", {"Patient ID": f"P{number}"}))
    with wave.open(str(media / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    lines.append(line_of(media, "a", "a.wav", "audio", {"Patient ID": "P0"}))
    (media / "f").mkdir()
    for frame in range(3):
        Image.fromarray(np.full((8, 8), frame, np.uint8)).save(media / "f" / f"{frame}.png")
    records = [json.dumps({"frame": frame, "file": f"{frame}.png"}) for frame in range(3)]
    (media / "f" / "frames.jsonl").write_text("\n".join(records))
    lines.append(line_of(media, "f", "f/", "frames", {"Patient ID": "P1"}))
    (media / "d.pdf").write_bytes(b"%PDF")
    lines.append(line_of(media, "d", "d.pdf", "document", {"Patient ID": "P1"}))
    lines.append(made_line("none", **{"Patient ID": "P2"}))
    write_lines(folder / "metadata.jsonl", lines)
    (folder / "pseudonym.key").write_text("00112233445566778899\n")
    return folder


def line_of(media: Path, name: str, path: str, kind: str, elements: dict[str, Any]) -> dict[str, Any]:
    file = media / path
    medium = {"path": path, "kind": kind, "width": 8, "height": 8, "frames": 1, "bytes": file.stat().st_size}
    return made_line(name, export={"media": [medium]}, **elements) | {"media_file": path, "media_type": kind}


def write_video(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 16
        for value in range(4):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), value * 40, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_root_loads_as_it_lies_and_croissant_describes_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import mlcroissant
    from datasets import Video, load_dataset, load_dataset_builder

    out, target = exported(tmp_path / "out"), tmp_path / "set"
    assert main(["dataset", str(out), str(target)]) == 0
    assert "document 1" in capsys.readouterr().out
    patients: dict[str, set[str]] = {}
    expected = {"images": PATIENTS + 3, "videos": 4, "audio": 1}
    for root, loader in (("images", "imagefolder"), ("videos", "videofolder"), ("audio", "audiofolder")):
        if root == "audio" and importlib.util.find_spec("torchcodec") is None:
            # It reads sounds with torchcodec alone, which needs torch: what it finds and plans is all that can be seen.
            planned = load_dataset_builder(loader, data_dir=str(target / root), cache_dir=str(tmp_path / "cache"))
            assert {split: len(files) for split, files in planned.config.data_files.items()} == {"train": 2}
            continue
        loaded = load_dataset(loader, data_dir=str(target / root), cache_dir=str(tmp_path / "cache"))
        assert sum(len(rows) for rows in loaded.values()) == expected[root]
        assert len({str(rows.features) for rows in loaded.values()}) == 1
        for split, rows in loaded.items():
            table = parquet.read_table(target / root / split / "metadata.parquet")
            assert table.num_rows == len(rows)
            assert set(table["split"].to_pylist()) == {split}
            patients.setdefault(split, set()).update(table["patient_pseudonym"].to_pylist())
            assert not [path for path in (target / root).rglob("*") if path.name in {"metadata.csv", "metadata.jsonl"}]
        if root == "images":
            for row in (row for rows in loaded.values() for row in rows):
                number = row["frame"] if row["frame"] is not None else int(row["dicom_file"].removesuffix(".dcm"))
                assert np.asarray(row["image"]).max() == number
        if root == "videos":
            assert isinstance(next(iter(loaded.values())).features["video"], Video)
    assert len(patients) == 3
    assert sum(len(some) for some in patients.values()) == len(set().union(*patients.values()))

    with caplog.at_level(logging.WARNING):
        described = mlcroissant.Dataset(str(target / "croissant.json"))
    assert not described.metadata.issues.errors
    assert not described.metadata.issues.warnings
    assert not [record for record in caplog.records if "croissant" in record.name or record.name == "root"]
    for record_set in described.metadata.record_sets:
        root, split = record_set.id.split("_")
        rows = parquet.read_table(target / root / split / "metadata.parquet").to_pylist()
        records = list(described.records(record_set.id))
        assert len(records) == len(rows)
        for record, row in zip(records, rows, strict=True):
            for name in ("file_name", "PatientID", "split", "medium", "frame", "export_frames", "dicom_file"):
                value = record[f"{record_set.id}/{name}"]
                assert (value.decode() if isinstance(value, bytes) else value) == row[name]
    said = json.loads((target / "croissant.json").read_text())
    for file in (one for one in said["distribution"] if one["@type"] == "cr:FileObject"):
        assert hashlib.sha256((target / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]


def test_webdataset_yields_each_instance_once_and_shards_are_the_same_again(tmp_path: Path) -> None:
    import webdataset

    out = exported(tmp_path / "out")
    for name in ("one", "two"):
        lines = (out / "metadata.jsonl").read_text().splitlines(keepends=True)
        (out / "metadata.jsonl").write_text("".join(reversed(lines)))  # another worker was faster
        assert main(["dataset", str(out), str(tmp_path / name), "--format", "webdataset"]) == 0
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    shards = sorted(map(str, (tmp_path / "one").glob("*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    rows = [json.loads(sample["json"]) for sample in samples]
    assert len(samples) == PATIENTS + 4 + 1 + 1 + 1
    assert sorted(row["dicom_file"] for row in rows) == sorted(
        json.loads(line)["dicom_file"] for line in lines if '"media": []' not in line
    )
    assert all("." not in sample["__key__"] for sample in samples)
    frames = next(sample for sample, row in zip(samples, rows, strict=True) if row["dicom_file"] == "f")
    assert {"000000.png", "000001.png", "000002.png", "json"} <= frames.keys()
    assert all(row["split"] in sample["__url__"] for sample, row in zip(samples, rows, strict=True))


def test_shards_hold_at_most_what_is_permitted_and_members_of_a_sample_are_adjacent(tmp_path: Path) -> None:
    out = exported(tmp_path / "out")
    for number in range(12):
        (out / "media" / f"test/train/{number}.png").write_bytes(os.urandom(300_000))
    assert main(["dataset", str(out), str(tmp_path / "set"), "--format", "webdataset", "--shard-bytes", "1048576"]) == 0
    shards = sorted((tmp_path / "set").glob("*.tar"))
    assert len([path for path in shards if path.name.startswith("train")]) > 2
    for path in shards:
        assert path.stat().st_size <= 1 << 20
        with tarfile.open(path) as tar:
            keys = [member.name.partition(".")[0] for member in tar]
        assert len(keys) - 1 - sum(a == b for a, b in itertools.pairwise(keys)) == len(set(keys)) - 1


def test_media_are_links_and_on_another_file_system_copies(tmp_path: Path, small_disk: Path) -> None:
    out = exported(tmp_path / "out")
    for target, links in ((tmp_path / "set", 2), (small_disk / "set", 1)):
        assert main(["dataset", str(out), str(target), "--columns", "public"]) == 0
        found = list(target.rglob("*.png"))
        assert len(found) == PATIENTS + 3
        assert {path.stat().st_nlink for path in found} == {links}


def test_a_folder_that_is_not_ours_is_left_alone_and_one_of_ours_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, target = exported(tmp_path / "out"), tmp_path / "set"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    assert main(["dataset", str(out), str(target)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert hashes(target) == {"thesis.txt": hashlib.sha256(b"mine").hexdigest()}
    for place in (out / "media", out / "media" / "set", out, tmp_path):
        assert main(["dataset", str(out), str(place)]) == 1
    (target / "thesis.txt").unlink()
    assert main(["dataset", str(out), str(target)]) == 0
    first = hashes(target)
    assert main(["dataset", str(out), str(target)]) == 0
    assert hashes(target) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


@pytest.mark.slow
def test_what_a_killed_run_left_goes_and_nothing_else(tmp_path: Path) -> None:
    out, target = exported(tmp_path / "out"), tmp_path / "set"
    program = (
        "import os, sys, pathlib\n"
        "from exporter.commands.app import main\n"
        "point = sys.argv[1]\n"
        "def hook(event, arguments):\n"
        "    if event == 'os.rename' and point in str(arguments[0 if point == '.partial-' else 1]):\n"
        "        os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(hook)\n"
        "main(['dataset', *sys.argv[2:]])\n"
    )

    def killed(point: str) -> None:
        """Run the command, killed before it gives the data set its name: the new one's partial folder is complete."""
        done = subprocess.run([sys.executable, "-c", program, point, str(out), str(target)], check=False)
        assert done.returncode == -9

    foreign = [tmp_path / f".set.{word}-0123456789ab" for word in ("partial", "before")]
    foreign += [tmp_path / ".set.partial-mine", tmp_path / ".other.partial-0123456789ab"]
    for folder in foreign:
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
    killed(".partial-")
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".set.partial-")]) == 3
    in_use = tmp_path / ".set.partial-ffffffffffff"
    in_use.mkdir()
    (in_use / f"{MARK}dataset").touch()
    descriptor = os.open(in_use, os.O_RDONLY)
    mark_in_use(descriptor)
    assert main(["dataset", str(out), str(target)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["out", "set", in_use.name, *(folder.name for folder in foreign)]
    )
    os.close(descriptor)
    first = hashes(target)
    killed(".partial-")  # the earlier one is aside already
    assert not target.exists()
    assert main(["dataset", str(out), str(tmp_path / "none" / "set")]) == 1
    assert main(["dataset", str(out), str(target)]) == 0
    assert hashes(target) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", "set", *(one.name for one in foreign)])
    assert all(hashes(folder) for folder in foreign)


def test_a_full_disk_leaves_no_part_of_a_data_set(
    tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = exported(tmp_path / "out")
    for number in range(12):
        (out / "media" / f"test/train/{number}.png").write_bytes(os.urandom(300_000))
    for kind in ("folder", "webdataset"):
        assert main(["dataset", str(out), str(small_disk / "set"), "--format", kind]) == 1
        assert "disk is full" in capsys.readouterr().err
        assert list(small_disk.iterdir()) == []


def test_media_that_are_gone_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = exported(tmp_path / "out")
    (out / "media" / "v0.mp4").unlink()
    assert main(["dataset", str(out), str(tmp_path / "set")]) == 3
    assert "1 media of the lines are not in" in capsys.readouterr().out
