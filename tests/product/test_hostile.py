"""Corrupted and hostile inputs each end in a named reason; the daemons go on serving."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

from exporter.errors import Reason, SkipReason
from exporter.settings.settings import LimitSettings
from tests.product.costing import costs_of
from tests.product.hostile import costly_files, write_hostile_files
from tests.product.running import Product, run
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Odd but honest: every pixel is there, and the record says what was odd. All others must not become media.
MAY_EXPORT = {"implicit-said-explicit", "meta-length-lie", "syntax-unknown", "truncated-at-fffc"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """More than fifty hostile files."""
    files = write_hostile_files(tmp_path_factory.mktemp("hostile") / "in")
    assert len(files) >= 50
    return files


@pytest.mark.slow
def test_backfill_names_a_reason_for_each_and_goes_on(hostile: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("backfill", hostile[0].parent, "--output", out, timeout=500)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    status = json.loads(run("status", "--json", "--data", out).stdout)
    assert status["exported"] + status["skipped"] + status["failed"] == len(hostile)
    exported = {json.loads(line)["dicom_file"].removesuffix(".dcm")
                for line in (out / "metadata.jsonl").read_bytes().splitlines()
                if json.loads(line)["media_type"] != "none"}  # fmt: skip
    assert exported <= MAY_EXPORT
    listed = json.loads(run("failures", "list", "--json", "--data", out).stdout)
    assert {row["reason"] for row in listed} <= {*Reason, *SkipReason}
    assert Reason.INTERNAL not in {row["reason"] for row in listed}, listed


@pytest.mark.slow
def test_small_files_of_many_parts_cost_little_for_each_byte(tmp_path: Path) -> None:
    """Seconds of processor time per megabyte, of a loaded machine: what is refused for its parts costs next to none."""
    costs = costs_of(write_hostile_files(tmp_path, costly_files()), LimitSettings())
    assert len(costs) == len(costly_files())
    assert {cost.verdict for cost in costs} <= {"exported", Reason.TOO_LARGE, Reason.CORRUPT_PIXELS}, costs
    worst = max(costs, key=lambda cost: cost.s_per_mb)
    assert worst.s_per_mb < 20, worst
    too_large = {cost.name for cost in costs if cost.verdict == Reason.TOO_LARGE}
    assert {"frames-1-pixel", "jpeg-20000-scans", "waveform-groups", "deflate-frames"} <= too_large
    assert max(cost.cpu_s for cost in costs if cost.name in too_large) < 5


@pytest.mark.slow
def test_daemons_keep_serving_while_hostile_instances_arrive(
    product: Product, hostile: list[Path], peer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
    server = product.start("serve")
    sent = 0
    for path in hostile:
        data = path.read_bytes()
        if data[128:132] != b"DICM" or len(data) < 400 or path.stem == "meta-length-lie":
            continue  # no sender could offer it: without file meta information there is nothing to negotiate
        entity = AE()
        from pydicom.filereader import read_file_meta_info

        syntax = str(read_file_meta_info(path).TransferSyntaxUID)
        entity.requested_contexts = [build_context("1.2.840.10008.5.1.4.1.1.7", [syntax]),
                                     build_context("1.2.840.10008.5.1.4.1.1.2", [syntax])]  # fmt: skip
        association = associate(entity, "127.0.0.1", product.port, ae_title="EXPORTER")
        assert association.is_established, path.stem
        answer = association.send_c_store(path)
        assert answer, f"{path.stem}: no answer"
        sent += 1
        release(association)
        echo = [peer("echoscu"), "-to", "5", "-aec", "EXPORTER", "127.0.0.1", str(product.port)]
        assert subprocess.run(echo, check=False, capture_output=True, timeout=100).returncode == 0, path.stem
    status = product.settled(seconds=500)
    assert server.poll() is None
    assert sent >= 30
    assert status["exported"] + status["skipped"] + status["quarantined"] >= sent - 2
    reasons = {p.name for p in (product.data / "spool" / "quarantine").iterdir() if p.is_dir()}
    assert reasons <= set(Reason), reasons
    assert "internal" not in reasons
    assert run("reconcile", "--data", product.data).returncode == 0
