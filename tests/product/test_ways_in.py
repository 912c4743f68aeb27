"""Whichever way an instance comes in, its media are the same bytes and its line says the same."""

from __future__ import annotations

import http.client
import secrets
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import examples

from tests.ports import free_port
from tests.product.running import answers, run, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.product.running import Product

FILES = [Path(str(examples.get_path(name))) for name in ("ct", "rgb_color", "ybr_color", "jpeg2k", "rt_plan")]
OF_THE_WAY = {
    "dicom_file",
    "media_file",
    # The file meta information belongs to the file, not to the instance (PS3.10 7.1).
    "File Meta Information Group Length",
    "File Meta Information Version",
    "Implementation Class UID",
    "Implementation Version Name",
    "Source Application Entity Title",
    "Sending Application Entity Title",
    "Receiving Application Entity Title",
    "Source Presentation Address",
    "Sending Presentation Address",
    "Receiving Presentation Address",
}


def told(lines: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the lines say of each instance, without what the way in has a hand in."""
    found = {}
    for line in lines:
        content = {key: value for key, value in line.items() if key not in OF_THE_WAY | {"export"}}
        export = line["export"]
        media = [{key: value for key, value in medium.items() if key != "path"} for medium in export["media"]]
        content["export"] = {"status": export["status"], "media": media, "timing": export.get("timing")}
        content["export"]["rendering"] = export.get("rendering")
        found[line["SOP Instance UID"]] = content
    return found


@pytest.fixture
def expected(make_product: Callable[..., Product], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What a backfill of the folder says of them."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in FILES:
        shutil.copy(path, folder)
    product = make_product()
    assert run("backfill", folder, "--output", product.data).returncode == 0
    found = told(product.lines)
    assert len(found) == len(FILES)
    return found


def test_an_archive(make_product: Callable[..., Product], tmp_path: Path, expected: dict[str, Any]) -> None:
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in FILES:
            archive.write(path, f"study\\{path.name}")
    product = make_product()
    assert run("backfill", tmp_path / "study.zip", "--output", product.data).returncode == 0
    assert told(product.lines) == expected


def test_c_store(product: Product, peer: Callable[[str], str], expected: dict[str, Any]) -> None:
    product.start("serve")
    command = [peer("dcmsend"), "-aec", "EXPORTER", "127.0.0.1", str(product.port), *map(str, FILES)]
    assert subprocess.run(command, capture_output=True, check=False, timeout=100).returncode == 0
    product.settled()
    assert told(product.lines) == expected


def test_a_watched_folder(
    make_product: Callable[..., Product], tmp_path: Path, expected: dict[str, dict[str, Any]]
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    product = make_product(f"sources:\n  - watch: {watched}\n    quiet_s: 1\n    after: delete\n")
    product.start("serve")
    for path in FILES:
        shutil.copy(path, watched)
    until(lambda: not [p for p in watched.iterdir() if p.is_file()], seconds=60, describe="every file is taken")
    product.settled()
    assert told(product.lines) == expected


def test_stow_rs(make_product: Callable[..., Product], tmp_path: Path, expected: dict[str, dict[str, Any]]) -> None:
    port = free_port()
    token = secrets.token_hex(16)
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    product = make_product(f"dicomweb:\n  enabled: true\n  token_file: {tmp_path / 'token'}\nstatus:\n  port: {port}\n")
    product.start("serve")
    until(lambda: answers(port), seconds=30, describe="the HTTP service answers")
    parts = [b"\r\n--B\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() for path in FILES]
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=B',
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=100)
    connection.request("POST", "/dicom-web/studies", b"".join(parts) + b"\r\n--B--\r\n", headers)
    with connection.getresponse() as response:
        # 202: one of the five is stored with a warning, its file meta information names another instance
        assert response.status == 202, response.read()
    connection.close()
    product.settled()
    assert told(product.lines) == expected
