"""The recipes of `docs/guides/recipes.md`, with the programs of the other sides and the blocks as the guide has them.

Names, addresses, ports and files are replaced by those of the test; nothing else of a block is.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from pydicom.data import get_testdata_file

from tests.listener.certificates import make_certificate
from tests.orthanc_server import OrthancServer
from tests.ports import free_port
from tests.product.running import answers, until
from tests.test_docs import BLOCK, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.product.running import Product

pytestmark = pytest.mark.slow
GUIDE = REPOSITORY / "docs" / "guides" / "recipes.md"
NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "examples_ybr_color.dcm")


def recipe(title: str) -> dict[str, str]:
    """The blocks of one recipe by language."""
    _, found, rest = GUIDE.read_text().partition(f"\n## {title}\n")
    assert found, title
    return {language: text for _, language, text in BLOCK.findall(rest.partition("\n## ")[0])}


def replaced(text: str, changes: dict[str, str]) -> str:
    """A block with values of the test's own; each of the guide's must be in it."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def files() -> list[Path]:
    return [Path(str(get_testdata_file(name))) for name in NAMES]


def secret(path: Path) -> str:
    """A token in a file for its owner alone."""
    token = secrets.token_hex(16)
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    return token


def body_of(text: str, section: str) -> str:
    """The lines below the first key of a configuration: those of the section that the product's fixture begins."""
    head, _, rest = text.partition(f"{section}:\n")
    assert not head
    return rest


def test_a_modality(make_product: Callable[..., Product], tmp_path: Path, peer: Callable[[str], str]) -> None:
    blocks = recipe("A modality")
    settings = replaced(blocks["yaml"], {"192.0.2.10": "127.0.0.1", "port: 11112": "", "192.0.2.0/24": "127.0.0.0/8"})
    product = make_product(body_of(settings, "listener"))
    product.start("serve")
    sent = tmp_path / "sent"
    sent.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):  # storescu proposes no compressed transfer syntax by itself
        shutil.copy(str(get_testdata_file(name)), sent)
    changes = {"192.0.2.10": "127.0.0.1", "11112": str(product.port), "some-dicom-folder/": str(sent)}
    words = replaced(blocks["sh"], changes).split()
    done = subprocess.run([peer(words[0]), *words[1:]], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    product.settled()
    assert len(product.lines) == 2
    stranger = [peer("echoscu"), "-aet", "STRANGER", "-aec", "EXPORTER", "127.0.0.1", str(product.port)]
    assert subprocess.run(stranger, capture_output=True, check=False, timeout=100).returncode != 0


def test_orthanc_sends_to_us(make_product: Callable[..., Product], tmp_path: Path, peer: Callable[[str], str]) -> None:
    blocks = recipe("Orthanc sends to us")
    settings = replaced(blocks["yaml"], {"192.0.2.10": "127.0.0.1", "192.0.2.30/32": "127.0.0.1/32"})
    product = make_product(body_of(settings, "listener"))
    product.start("serve")
    told = json.loads(replaced(blocks["json"], {"192.0.2.10": "127.0.0.1", "11112": str(product.port)}))
    with OrthancServer(peer("Orthanc"), tmp_path / "orthanc", DicomAet="ORTHANC", **told) as server:
        for path in files():
            server.add(path.read_bytes())
        words = blocks["sh"].split()
        assert words[:3] == ["curl", "-X", "POST"]
        place = words[3].removeprefix("http://localhost:8042")
        for study in server.json("/studies"):
            server.json(place, [study])
    product.settled()
    assert len(product.lines) == len(NAMES)


def test_we_poll_orthanc(make_product: Callable[..., Product], tmp_path: Path, peer: Callable[[str], str]) -> None:
    with OrthancServer(peer("Orthanc"), tmp_path / "orthanc") as server:
        for path in files():
            server.add(path.read_bytes())
        settings = replaced(recipe("We poll Orthanc")["yaml"], {"8042": str(server.http_port)})
        product = make_product(settings)
        product.start("serve")

        def all_here() -> bool:
            return (product.data / "metadata.jsonl").is_file() and len(product.lines) == len(NAMES)

        until(all_here, seconds=100, describe="every instance is exported")


@contextmanager
def nginx(program: str, folder: Path, server: str) -> Iterator[None]:
    """A real nginx with one server block, over a folder of its own."""
    (folder / "logs").mkdir(parents=True)
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi"))
    unused = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/logs/error.log;\nevents {{}}\n"
        f"http {{\naccess_log {folder}/logs/access.log;\n{temporary}\n{unused}\n{server}\n}}\n"
    )
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "logs" / "error.log")]
    tried = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False, timeout=100)
    assert tried.returncode == 0, tried.stderr
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, (folder / "logs" / "error.log").read_text()
    finally:
        process.terminate()
        process.wait(100)


def test_behind_nginx_with_tls_the_page_and_a_dicomweb_client(
    make_product: Callable[..., Product], tmp_path: Path, peer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = recipe("Behind nginx with TLS")
    secure, http, page = free_port(), free_port(), free_port()
    certificate = make_certificate(tmp_path, "proxy")
    tokens = {name: secret(tmp_path / f"{name}.token") for name in ("dicomweb", "page")}
    product = make_product(
        replaced(
            blocks["yaml"],
            {
                "/etc/dicom-media/dicomweb.token": str(tmp_path / "dicomweb.token"),
                "/etc/dicom-media/page.token": str(tmp_path / "page.token"),
                "8090": str(http),
                "8091": str(page),
                "dicom.example.org": "localhost",
            },
        )
    )
    product.start("serve")
    for port in (http, page):
        until(lambda port=port: answers(port), seconds=100, describe=f"port {port} answers")
    server = replaced(
        blocks["nginx"],
        {
            "443": str(secure),
            "dicom.example.org": "localhost",
            "/etc/nginx/dicom.pem": str(certificate),
            "8090": str(http),
            "8091": str(page),
        },
    )
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers them to what a session names
        monkeypatch.delenv(name, raising=False)
    with nginx(peer("nginx"), tmp_path / "nginx", server):
        until(lambda: answers(secure), seconds=100, describe="nginx answers")
        base = f"https://localhost:{secure}"
        with requests.Session() as browser:
            browser.verify = str(certificate)
            assert browser.get(f"{base}/", timeout=60).status_code == 401
            browser.auth = ("anybody", tokens["page"])
            overview = browser.get(f"{base}/", timeout=60)
            assert overview.status_code == 200
            assert "<footer>" in overview.text
            form = browser.get(f"{base}/retry?reason=timeout", timeout=60).text
            csrf = re.search(r'name="csrf" value="([^"]+)"', form)
            assert csrf is not None
            fields = {"csrf": csrf[1], "reason": "timeout"}
            sent = browser.post(f"{base}/retry", fields, headers={"Origin": base}, allow_redirects=False, timeout=60)
            assert sent.status_code == 303, sent.text
            assert browser.get(f"{base}/metrics", timeout=60).status_code == 200
            assert browser.post(f"{base}/dicom-web/studies", data=b"x", timeout=60).status_code == 401
        client_with_the_block_of_the_guide(base, tmp_path, certificate, tokens["dicomweb"], monkeypatch)
        product.settled()
        assert len(product.lines) == 1
        log = (tmp_path / "nginx" / "logs" / "error.log").read_text()
        assert "temporary file" not in log, "a body was buffered by the proxy"


def client_with_the_block_of_the_guide(
    base: str, folder: Path, certificate: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the program of the recipe "A DICOMweb client"."""
    program = replaced(recipe("A DICOMweb client")["python"], {"https://dicom.example.org": base})
    shutil.copy(files()[0], folder / "image.dcm")
    shutil.copy(certificate, folder / "ca.pem")
    assert (folder / "dicomweb.token").read_text().strip() == token
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(program, str(GUIDE), "exec"), names)  # noqa: S102 - the guide is ours
    names["session"].close()
    assert len(names["answer"].ReferencedSOPSequence) == 1


def test_systemd(tmp_path: Path, peer: Callable[[str], str]) -> None:
    """The units that the recipe installs are ones that systemd takes."""
    words = recipe("systemd")["sh"].splitlines()[0].split()
    assert words[:3] == ["sudo", "exporter", "install-units"]
    from exporter.commands.app import main

    assert main([*words[2:], "--to", str(tmp_path)]) in {0, 1}
    units = sorted(tmp_path.glob("*.service"))
    assert [unit.name for unit in units] == [
        f"dicom-{name}.service" for name in ("exporter", "listener", "notify", "page")
    ]
    done = subprocess.run(
        [peer("systemd-analyze"), "verify", *map(str, units)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
