"""With a profile on, no way in leaves a trace of the patient: below the data folder, in logs, titles or reports."""

from __future__ import annotations

import http.client
import secrets
import subprocess
import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.exporter.privacy.output import NAME, PATIENT, TITLE, found_in, instance, left_behind
from tests.ports import free_port
from tests.product.running import answers, family, run, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.product.running import Product


def _titles(pid: int, seen: set[str], stop: threading.Event) -> None:
    """Collect the tokens in the titles and names of a process and all that descend from it."""
    while not stop.wait(0.2):
        for one in family(pid):
            for file in ("cmdline", "comm", "environ"):
                try:
                    seen |= found_in(Path(f"/proc/{one}/{file}").read_bytes())
                except OSError:
                    continue


def _stow(port: int, token: str, number: int) -> None:
    content = BytesIO()
    instance(number).save_as(content)
    body = b"\r\n--B\r\nContent-Type: application/dicom\r\n\r\n" + content.getvalue() + b"\r\n--B--\r\n"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": 'multipart/related; type="application/dicom"; boundary=B',
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/dicom-web/studies", body, headers)
    with connection.getresponse() as response:
        assert response.status in (200, 202), response.read()
    connection.close()


@pytest.mark.slow
def test_c_store_stow_rs_and_a_watched_folder_leave_no_trace(
    make_product: Callable[..., Product], peer: Callable[[str], str], tmp_path: Path
) -> None:
    port, token = free_port(), secrets.token_hex(16)
    for name, text in (("token", token), ("key", "k" * 32)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    watched = tmp_path / "watched"
    (watched / f"{NAME}").mkdir(parents=True)
    product = make_product(
        f"  more_ae_titles: [{TITLE}]\n"
        f"ae_titles: [{{ae_title: {TITLE}, display: {{voi: 1}}}}]\n"
        f"privacy: {{profile: basic, key_file: {tmp_path / 'key'}}}\n"
        f"volume: {{series: true, series_quiet_s: 1}}\n"
        f"dicomweb: {{enabled: true, token_file: {tmp_path / 'token'}}}\nstatus: {{port: {port}}}\n"
        f"sources: [{{watch: {watched}, quiet_s: 1}}]\n"
    )
    process = product.start("serve")
    seen: set[str] = set()
    stop = threading.Event()
    looker = threading.Thread(target=_titles, args=(process.pid, seen, stop))
    looker.start()
    try:
        until(lambda: answers(port), seconds=100, describe="the HTTP service answers")
        for number, title in ((1, "EXPORTER"), (2, TITLE)):
            file = tmp_path / f"{number}.dcm"
            instance(number).save_as(file)
            send = [peer("dcmsend"), "-aet", NAME, "-aec", title, "127.0.0.1", str(product.port), str(file)]
            assert subprocess.run(send, capture_output=True, check=False, timeout=100).returncode == 0
        _stow(port, token, 3)
        instance(4).save_as(watched / NAME / f"{PATIENT}.dcm")
        damaged = instance(5)
        damaged.PixelData = damaged.PixelData[:100]
        damaged.save_as(watched / NAME / "damaged.dcm")
        until(lambda: sum(product.status()[key] for key in ("exported", "quarantined")) == 5, seconds=100, describe="5")
    finally:
        stop.set()
        looker.join()
    assert seen == set()
    assert product.stop("serve") == 0
    assert left_behind(product.data, apart=("spool",)) == {}
    data = ("--data", product.data)
    reports = [run(*words) for words in (("status", *data), ("failures", *data), ("reconcile", *data))]
    said = "".join(done.stdout + done.stderr for done in reports) + product.log("serve")
    assert found_in(said.replace(f'"called":"{TITLE}"', "").encode()) == set()  # the listener names our own AE titles
    titles = {line["export"]["ae_title"] for line in product.lines}
    assert None in titles
    assert TITLE not in titles
    assert len(titles) == 2
    check = run("privacy", "check", product.data, "--config", product.config)
    assert check.returncode == 0, check.stdout + check.stderr
    assert {path.name for path in (product.data / "spool").glob("sources*")} == {"sources"}
    assert (product.data / "spool").stat().st_mode & 0o077 == 0
