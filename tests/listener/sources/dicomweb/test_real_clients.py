"""Clients that are not ours: dicomweb-client and curl, with real files."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.data import get_testdata_file

from tests.listener.sources.dicomweb.store import CONTENT_TYPE, TOKEN, multipart, part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.listener.sources.dicomweb.store import Store

NAMES = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "examples_ybr_color.dcm", "liver_expb_1frame.dcm")


@pytest.fixture
def files() -> list[Path]:
    return [path for name in NAMES if (path := get_testdata_file(name, read=False))]  # type: ignore[misc]


class Recorded(requests.adapters.HTTPAdapter):
    """Keeps what was put on the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def send(self, request: requests.PreparedRequest, *args: object, **more: object) -> requests.Response:
        assert isinstance(request.body, bytes)
        self.bodies.append(request.body)
        return super().send(request, *args, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_dicomweb_client_stores_and_reads_our_answer(store: Store, files: list[Path], scheme: str) -> None:
    session, wire = requests.Session(), Recorded()
    session.trust_env = False
    if scheme == "bearer":
        session.headers["Authorization"] = f"Bearer {TOKEN}"
    else:
        session.auth = ("anybody", TOKEN)
    session.mount("http://", wire)
    with session:
        client = DICOMwebClient(f"http://127.0.0.1:{store.port}/dicom-web", session=session)
        data_sets = [dcmread(path) for path in files]
        answer = client.store_instances(data_sets)
        assert [i.ReferencedSOPInstanceUID for i in answer.ReferencedSOPSequence] == [
            d.SOPInstanceUID for d in data_sets
        ]
        assert "FailedSOPSequence" not in answer
        spooled = store.contents()
        assert len(spooled) == len(files)
        for content in spooled:  # what the client made of the data sets, byte for byte as it sent it
            assert any(content + b"\r\n--" in body for body in wire.bodies)
        for content, data_set in zip(spooled, data_sets, strict=True):
            (store.spool.root.parent / "x.dcm").write_bytes(content)
            assert dcmread(store.spool.root.parent / "x.dcm") == data_set
        partly = client.store_instances(data_sets[:2], study_instance_uid=data_sets[0].StudyInstanceUID)
        assert [i.ReferencedSOPInstanceUID for i in partly.ReferencedSOPSequence] == [data_sets[0].SOPInstanceUID]
        (failed,) = partly.FailedSOPSequence
        assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == (data_sets[1].SOPInstanceUID, 0xC409)


def test_curl_stores_real_files_byte_for_byte(
    store: Store, files: list[Path], tmp_path: Path, peer: Callable[[str], str]
) -> None:
    contents = [path.read_bytes() for path in map(type(tmp_path), files)]
    (tmp_path / "body").write_bytes(multipart(part(content) for content in contents))
    for extra in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect: 100-continue"]):
        command = [peer("curl"), "-sS", "--noproxy", "*", "-f", "-T", str(tmp_path / "body"), "-X", "POST", *extra]
        headers = ["-H", f"Content-Type: {CONTENT_TYPE}", "-H", f"Authorization: Bearer {TOKEN}"]
        url = f"http://127.0.0.1:{store.port}/dicom-web/studies"
        done = subprocess.run([*command, *headers, url], capture_output=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert store.contents()[-len(contents) :] == contents


def test_every_file_of_the_corpus_is_stored_as_it_is_or_refused_by_name(
    store: Store, corpus: Path, corpus_catalog: list[dict[str, object]]
) -> None:
    stored: list[bytes] = []
    refused = 0
    for row in corpus_catalog[::3]:
        content = (corpus / str(row["file"])).read_bytes()
        if len(content) < 4 << 20:
            status = store.store(content).status
            assert status in (200, 202, 409)  # 202: its file meta information names another instance
            if status != 409:
                stored.append(content)
            refused += status == 409
    assert store.contents() == stored
    assert len(stored) > 50
    assert sum(map(len, store.quarantined().values())) <= refused
