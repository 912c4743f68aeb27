"""Several AE titles on one port, each with its own output names and settings: real senders, the whole product."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom import examples

from tests.product.running import run
from tests.product.test_delivery import send

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.product.running import Product

TITLES = """\
  more_ae_titles: [RESEARCH, TEACHING, "Ward 7"]
image: {outputs: [view8]}
ae_titles:
  - ae_title: RESEARCH
    media: {layout: "research/{StudyInstanceUID}/{SOPInstanceUID}"}
    image: {outputs: [view8, raw16]}
    video: {preset: lossless}
  - ae_title: TEACHING
    media: {layout: "teaching/{SOPInstanceUID}"}
    image: {extension: .jpg}
    frames: {enabled: true}
"""


def sent(product: Product, peer: Callable[[str], str], title: str, *files: Path) -> None:
    command = [peer("dcmsend"), "-v", "-aec", title, "127.0.0.1", str(product.port)]
    assert send(command, list(files)) == len(files)


def paths(product: Product) -> set[str]:
    return {path.relative_to(product.data / "media").as_posix() for path in product.media}


def by_title(product: Product) -> dict[str | None, list[dict[str, Any]]]:
    found: dict[str | None, list[dict[str, Any]]] = {}
    for line in product.lines:
        found.setdefault(line["export"]["ae_title"], []).append(line)
    return found


def test_each_ae_title_has_its_own_names_and_settings_and_its_own_duplicates(
    make_product: Callable[..., Product], peer: Callable[[str], str]
) -> None:
    product = make_product(TITLES)
    image, cine = examples.get_path("ct"), examples.get_path("ybr_color")
    product.start("serve")
    for title in ("RESEARCH", "TEACHING", "EXPORTER", "Ward 7", "RESEARCH", "ANY-SCP"):
        sent(product, peer, title, image, cine)
    status = product.settled()
    # Ward 7 and ANY-SCP have no settings of their own: for them these are duplicates of what EXPORTER got.
    assert (status["exported"], status["duplicates"], status["conflicts"], status["quarantined"]) == (6, 6, 0, 0)

    one, many = pydicom.dcmread(image, stop_before_pixels=True), pydicom.dcmread(cine, stop_before_pixels=True)
    lines = by_title(product)
    assert {title: len(told) for title, told in lines.items()} == {None: 2, "RESEARCH": 2, "TEACHING": 2}
    assert len({line["export"]["settings_sha256"] for line in product.lines}) == 3
    assert {line["media_file"]: line["media_type"] for line in lines["RESEARCH"]} == {
        f"research/{one.StudyInstanceUID}/{one.SOPInstanceUID}.png": "image",
        f"research/{many.StudyInstanceUID}/{many.SOPInstanceUID}.mkv": "video",
    }
    assert {line["media_file"]: line["media_type"] for line in lines["TEACHING"]} == {
        f"teaching/{one.SOPInstanceUID}.jpg": "image",
        f"teaching/{many.SOPInstanceUID}.frames/": "frames",
    }
    assert {line["media_file"]: line["media_type"] for line in lines[None]} == {
        f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}{ending}": kind
        for ds, ending, kind in ((one, ".png", "image"), (many, ".mp4", "video"))
    }
    assert sum(path.startswith("research/") for path in paths(product)) == 3, "view8, raw16 and the video"
    assert run("reconcile", "--data", product.data, "--config", product.config).returncode == 0


def test_two_ae_titles_with_one_layout_share_no_name(
    make_product: Callable[..., Product], peer: Callable[[str], str]
) -> None:
    product = make_product("""\
  more_ae_titles: [A, B]
ae_titles: [{ae_title: A, image: {extension: .png}}, {ae_title: B, image: {extension: .png}}]
""")
    product.start("serve")
    for title in ("A", "B", "A", "B"):
        sent(product, peer, title, examples.get_path("ct"))
    assert product.settled()["exported"] == 2
    assert {line["export"]["ae_title"] for line in product.lines} == {"A", "B"}
    assert len({line["media_file"] for line in product.lines}) == len(paths(product)) == 2
    assert {line["export"]["duplicate_of"] for line in product.lines} == {None}


@pytest.mark.slow
def test_what_failed_under_an_ae_title_is_tried_again_under_it(
    make_product: Callable[..., Product], peer: Callable[[str], str]
) -> None:
    product = make_product("""\
  more_ae_titles: [RESEARCH]
ae_titles:
  - ae_title: RESEARCH
    media: {layout: "research/{SOPInstanceUID}"}
    video: {psnr_floor_db: 51}
""")
    product.start("serve")
    cine = examples.get_path("ybr_color")
    sent(product, peer, "RESEARCH", cine)
    sent(product, peer, "EXPORTER", cine)
    status = product.settled()
    assert (status["exported"], status["quarantined"]) == (1, 1)
    (quarantined,) = (product.data / "spool" / "quarantine" / "verify_failed").glob("*.dcm")
    told = run("explain", quarantined, "--config", product.config, "--json")
    assert json.loads(told.stdout)["settings"] == "of the AE title RESEARCH"
    product.stop("serve")
    product.extra = product.extra.replace("psnr_floor_db: 51", "psnr_floor_db: 20")
    product.start("serve")
    assert run("failures", "retry", "--reason", "verify_failed", "--data", product.data).returncode == 0
    status = product.settled()
    assert (status["exported"], status["quarantined"]) == (2, 0)
    uid = pydicom.dcmread(cine, stop_before_pixels=True).SOPInstanceUID
    assert [line["media_file"] for line in by_title(product)["RESEARCH"]] == [f"research/{uid}.mp4"]


@pytest.mark.skipif(
    os.environ.get("EXPORTER_TEST_INTEROP") != "full", reason="several starts of everything: EXPORTER_TEST_INTEROP=full"
)
def test_a_rebuilt_ledger_knows_whose_duplicates_are_whose(
    make_product: Callable[..., Product], peer: Callable[[str], str]
) -> None:
    product = make_product(TITLES)
    image = examples.get_path("ct")
    product.start("serve")
    sent(product, peer, "RESEARCH", image)
    product.settled()
    product.stop("serve")
    (product.data / "exporter.db").unlink()
    done = run("reconcile", "--rebuild", "--data", product.data, "--config", product.config)
    assert done.returncode == 0, done.stdout + done.stderr
    product.start("serve")
    sent(product, peer, "RESEARCH", image)
    sent(product, peer, "TEACHING", image)
    product.settled()
    assert [line["export"]["ae_title"] for line in product.lines] == ["RESEARCH", "TEACHING"]
