"""The section `orthanc`: what it permits, and that no password gets into it or out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.foundation.configuration import ConfigurationError, load
from listener.foundation.errors import SourceUnusable
from listener.settings.listener import ListenerSettings
from listener.settings.orthanc import OrthancSection
from listener.sources.orthanc.client import OrthancClient


def loaded(folder: Path, text: str) -> ListenerSettings:
    (folder / "exporter.yml").write_text(text)
    return load(folder / "exporter.yml", ListenerSettings)


def test_one_server_may_stand_without_a_list_and_several_in_one(tmp_path: Path) -> None:
    assert len(loaded(tmp_path, "orthanc:\n  url: http://a:8042\n").orthanc) == 1
    assert len(loaded(tmp_path, "orthanc:\n  - url: http://a:8042\n  - url: https://b/orthanc/\n").orthanc) == 2
    assert loaded(tmp_path, "orthanc:\n").orthanc == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("url: http://user:hunter2@a:8042/", ["orthanc.url", "credentials_file"]),
        ("url: ftp://a/", ["http:// or https://"]),
        ("url: http://a/x?y=1", ["orthanc.url"]),
        ("url: file:///etc/passwd", ["orthanc.url"]),
        ("name: x", ["orthanc.url", "missing"]),
        ("{url: http://a, only: {study_date_from: 2024-13-01}}", ["no day 2024-13-01"]),
        ("{url: http://a, only: {study_date_from: 2024-02-01, study_date_to: 2024-01-01}}", ["later than"]),
        ("{url: http://a, password: hunter2}", ["unknown key"]),
        ("{url: http://a, name: ../x}", ["orthanc.name"]),
        ("{url: http://a, parallel: 0}", ["at least 1"]),
        ("[{url: http://a}, {url: http://A/}]", ["give each its own `name`"]),
    ],
)
def test_a_fault_is_told_with_its_place_and_never_with_a_password(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, f"orthanc: {text}\n" if text[0] in "{[" else f"orthanc:\n  {text}\n")
    told = str(caught.value)
    assert all(word in told for word in words), told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("http://localhost:8042/", "localhost-8042"),
        ("https://orthanc.example.org", "orthanc-example-org-443-"),
        ("http://localhost/a/b", "localhost-80-a-b-"),
    ],
)
def test_without_a_name_what_is_remembered_is_kept_under_the_address(url: str, label: str) -> None:
    section = OrthancSection(url=url)
    assert section.label.startswith(label)
    assert section.state_file(Path("x")).parent == Path("x")
    assert section.label != OrthancSection(url=url.replace("localhost", "other").replace("example", "sample")).label


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "user, colon"),
        (b"nocolon\n", "user, colon"),
        (b":pw\n", "user, colon"),
        (b"u:a\tb", "user, colon"),
        (b"u:\xff\xfe\n", "characters"),
        ("u:\u20ac".encode(), "characters"),
        (None, "cannot be read"),
    ],
)
def test_a_credentials_file_that_holds_none_is_said_without_its_content(
    tmp_path: Path, content: bytes | None, word: str
) -> None:
    path = tmp_path / "credentials"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceUnusable, match=word) as caught:
        OrthancClient(OrthancSection(url="http://127.0.0.1:1", credentials_file=path))
    assert str(path) in str(caught.value)
    assert "nocolon" not in str(caught.value)


def test_a_file_of_certificates_that_holds_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    with pytest.raises(SourceUnusable, match="ca_file"):
        OrthancClient(OrthancSection(url="https://127.0.0.1:1", ca_file=tmp_path / "ca.pem"))
