"""Real senders deliver real files, and every one of them is accounted for."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from pydicom import examples

from tests.product.running import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.product.running import Product


def send(command: list[str], files: list[Path]) -> int:
    """Send files with a DCMTK program on one association; the number it says were stored."""
    done = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, errors="replace", check=False, timeout=300
    )
    words = done.stdout + done.stderr
    if "dcmsend" in command[0]:
        return sum(int(n) for n in re.findall(r"with status SUCCESS\s*: (\d+)", words))
    return len(re.findall(r"Received Store Response \(Success\)", words))


def association_profile(catalog: list[dict[str, Any]], path: Path) -> Path:
    """A DCMTK association configuration that proposes each class of the corpus in each syntax it comes in."""
    pairs = sorted({(row["sop_class"], row["ts_uid"]) for row in catalog if row.get("sop_class") and row.get("ts_uid")})
    assert len(pairs) <= 128, "more presentation contexts than an association can have"
    syntaxes = sorted({syntax for _, syntax in pairs})
    names = {syntax: f"Syntax{k}" for k, syntax in enumerate(syntaxes)}
    lines = ["[[TransferSyntaxes]]"]
    lines += [f"[{names[syntax]}]\nTransferSyntax1 = {syntax}" for syntax in syntaxes]
    lines += ["[[PresentationContexts]]", "[Corpus]"]
    lines += [f"PresentationContext{k} = {sop}\\{names[syntax]}" for k, (sop, syntax) in enumerate(pairs, 1)]
    lines += ["[[Profiles]]", "[Corpus]", "PresentationContexts = Corpus"]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_an_instance_that_is_sent_again_is_a_duplicate_and_is_not_exported_again(
    product: Product, peer: Callable[[str], str]
) -> None:
    product.start("serve")
    command = [peer("dcmsend"), "-v", "-aec", "EXPORTER", "127.0.0.1", str(product.port)]
    files = [examples.get_path("ct"), examples.get_path("ybr_color")]
    for _ in range(3):
        assert send(command, files) == 2
        product.settled()
    status = product.status()
    assert (status["exported"], status["skipped"], status["duplicates"], status["quarantined"]) == (2, 4, 4, 0)
    assert len(product.lines) == len(product.media) == 2


def check_media(product: Product, ffprobe: str) -> None:
    """Every PNG opens, every MP4 plays with the frames and the duration its line tells, every medium has one line.

    Files of a folder of frames are told by the folder, which holds as many images as its line says.
    """
    told = {}
    for line in product.lines:
        for medium in line["export"]["media"]:
            assert medium["path"] not in told, "two lines tell of one file"
            told[medium["path"]] = medium
    files = {path.relative_to(product.data / "media").as_posix(): path for path in product.media}
    folders = {name: medium for name, medium in told.items() if name.endswith("/")}
    for name, medium in folders.items():
        del told[name]
        images = [file for file in files if file.startswith(name) and file.endswith(".png")]
        assert len(images) == medium["frames"], name
        assert files.pop(f"{name}frames.jsonl").read_text().count("\n") == medium["frames"], name
    for name, path in files.items():
        folder = f"{name.rpartition('/')[0]}/"
        medium = folders[folder] if folder in folders else told.pop(name)
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert image.size == (medium["width"], medium["height"]), name
        elif path.suffix == ".mp4":
            probe = subprocess.run(
                [
                    ffprobe, "-v", "error", "-count_packets", "-select_streams", "v:0", "-of", "json",
                    "-show_entries", "stream=nb_read_packets,width,height:format=duration", str(path),
                ],
                capture_output=True,
                check=True,
            )  # fmt: skip
            answer = json.loads(probe.stdout)
            stream = answer["streams"][0]
            assert int(stream["nb_read_packets"]) == medium["frames"], name
            assert (stream["width"], stream["height"]) == (medium["width"], medium["height"]), name
            assert float(answer["format"]["duration"]) == pytest.approx(medium["duration_s"], abs=0.05), name
    assert not told, f"told but not there: {sorted(told)[:5]}"


@pytest.mark.slow
@pytest.mark.parametrize("associations", [1, 4])
@pytest.mark.parametrize("sender", ["dcmsend", "storescu"])
def test_everything_a_real_sender_delivers_is_accounted_for(
    product: Product,
    corpus: Path,
    corpus_catalog: list[dict[str, Any]],
    peer: Callable[[str], str],
    sender: str,
    associations: int,
) -> None:
    files = sorted(p for p in corpus.rglob("*") if p.is_file() and p.name != "catalog.jsonl")
    profile = association_profile(corpus_catalog, product.data.parent / "profile.cfg")
    options = {"dcmsend": ["--no-halt", "-v"], "storescu": ["-v", "-nh", "-xf", str(profile), "Corpus"]}[sender]
    command = [peer(sender), *options, "-aec", "EXPORTER", "127.0.0.1", str(product.port)]
    product.start("serve")
    with ThreadPoolExecutor(associations) as pool:
        stored = sum(pool.map(lambda k: send(command, files[k::associations]), range(associations)))
    assert stored > 150, f"{sender} stored only {stored}"
    status = product.settled()
    kept = status["exported"] + status["skipped"] + status["quarantined"]
    assert kept >= stored
    assert status["failed"] == 0
    assert not (product.data / "spool" / "quarantine" / "internal").exists(), "a defect of ours"
    assert status["exported"] > 100
    metadata_only = [line for line in product.lines if line["media_type"] == "none"]
    assert len(product.lines) == status["exported"] + len(metadata_only)
    check_media(product, peer("ffprobe"))
    reconciled = run("reconcile", "--data", product.data)
    assert reconciled.returncode == 0, reconciled.stdout + reconciled.stderr
    assert product.stop("serve") == 0


@pytest.mark.slow
def test_a_folder_is_accounted_for_file_by_file_and_a_rerun_exports_nothing(
    corpus: Path, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    out = tmp_path / "out"
    files = [p for p in corpus.rglob("*") if p.is_file()]
    first = run("backfill", corpus, "--output", out, timeout=900)
    assert first.returncode == 3, first.stderr
    status = json.loads(run("status", "--json", "--data", out).stdout)
    assert status["exported"] + status["skipped"] + status["failed"] == len(files)
    assert status["pending"] == status["active"] == status["quarantined"] == 0
    reasons = {row["reason"] for row in json.loads(run("failures", "list", "--json", "--data", out).stdout)}
    assert reasons == {"not_dicom", "unreadable", "bad_geometry", "corrupt_pixels"}
    lines = (out / "metadata.jsonl").read_bytes()
    again = run("backfill", corpus, "--output", out, timeout=100)
    assert again.returncode == 3, again.stderr
    assert (out / "metadata.jsonl").read_bytes() == lines
    assert run("reconcile", "--data", out).returncode == 0

    from tests.product.running import Product

    check_media(Product(out, 0), peer("ffprobe"))
