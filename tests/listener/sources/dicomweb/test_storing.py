"""Instances over HTTP: what is kept, what is answered, and who may."""

from __future__ import annotations

import base64
import ssl
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
from structlog.testing import capture_logs

from listener.foundation.configuration import ConfigurationError, load
from listener.foundation.errors import SourceUnusable
from listener.settings.listener import ListenerSettings
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel
from tests.listener.requestor import CT, data_set, explicit
from tests.listener.sources.dicomweb.store import CONTENT_TYPE, STUDY, TOKEN, instance, meta, multipart, part

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.listener.sources.dicomweb.store import Store


# -- storing ---------------------------------------------------------------------------------------------------------


def test_files_are_in_the_spool_byte_for_byte_and_each_is_answered(store: Store) -> None:
    files = [instance(f"1.2.{number}", pixels=bytes([number]) * 2000) for number in range(5)]
    answer = store.store(*files)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    assert answer.stored() == [f"1.2.{number}" for number in range(5)]
    assert answer.data_set["00081190"] == {"vr": "UR"}
    assert answer.data_set["00081199"]["Value"][0] == {
        "00081150": {"vr": "UI", "Value": [CT]},
        "00081155": {"vr": "UI", "Value": ["1.2.0"]},
        "00081190": {"vr": "UR"},
    }
    assert store.contents() == files
    assert store.counters.get("instances_stored") == 5
    assert store.counters.get("bytes_stored") == sum(map(len, files))


def test_some_fail_and_each_is_told_why(store: Store) -> None:
    other_class = meta("1.2.6", "1.2.840.10008.5.1.4.1.1.4") + instance("1.2.6")[len(meta("1.2.6")) :]
    files = [
        instance("1.2.1"),
        instance("1.2.2")[:-7],  # cut off
        instance("1.2.3", study="1.2.9"),
        b"%PDF-1.7 no DICOM" * 20,
        instance("1.2.5", sop_class="1.2.840.10008.1.3.10"),
        other_class,
        instance("1.2.7"),
        meta("1.2.8", syntax="") + data_set("1.2.8"),
        b"",
    ]
    answer = store.store(*files, path=f"/dicom-web/studies/{STUDY}")
    assert answer.status == 202
    assert answer.stored() == ["1.2.1", "1.2.6", "1.2.7"]
    assert answer.failed() == {
        "1.2.2": 0xC000,
        "1.2.3": 0xC409,
        "1.2.5": 0x0122,
        "1.2.8": 0xC000,
    }
    assert answer.others() == [0xC000, 0xC000]
    assert store.contents() == [files[0], files[5], files[6]]
    kept = store.quarantined()
    assert kept == {
        "unreadable": [files[1], files[7]],
        "not_dicom": [files[3], files[8]],
    }


def test_where_all_fail_the_request_is_a_conflict(store: Store) -> None:
    answer = store.store(instance(study="1.2.9"), path=f"/dicom-web/studies/{STUDY}/")
    assert (answer.status, answer.failed()) == (409, {"1.2.3": 0xC409})
    assert store.contents() == []
    assert store.partial() == []


def test_a_study_in_the_address_is_compared_in_every_encoding(store: Store) -> None:
    plain = instance("1.2.3")
    at = plain.index(b"\x08\x00\x16\x00")
    squeezer = zlib.compressobj(wbits=-15)
    deflated = meta("1.2.3", syntax="1.2.840.10008.1.2.1.99") + squeezer.compress(plain[at:]) + squeezer.flush()
    assert store.store(deflated, path=f"/dicom-web/studies/{STUDY}").status == 200
    assert store.store(deflated, path="/dicom-web/studies/1.2.9").failed() == {"1.2.3": 0xC409}
    nested = explicit(0x00081140, b"SQ", explicit(0xFFFEE000 >> 0, b"UI", b"")[:0])
    hidden = plain[:at] + data_set("1.2.3")[: 8 + len(CT) + 1] + nested + data_set("1.2.3")[8 + len(CT) + 1 :]
    assert store.store(hidden, path=f"/dicom-web/studies/{STUDY}").failed() == {"1.2.3": 0xC409}


def test_what_is_accepted_with_a_warning_is_answered_so(serve: Callable[..., Store]) -> None:
    store = serve(listener={"damaged": "accept"})
    answer = store.store(instance("1.2.1"), instance("1.2.2")[:-7])
    assert answer.status == 202
    assert answer.data_set["00081199"]["Value"][1]["00081196"] == {"vr": "US", "Value": [0xB007]}
    assert len(store.contents()) == 2


def test_the_answer_is_xml_where_that_is_wanted(store: Store) -> None:
    answer = store.store(instance("1.2.1"), instance("1.2.2")[:-7], headers={"Accept": "application/dicom+xml"})
    assert answer.headers["content-type"] == "application/dicom+xml"
    space = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    root = ET.fromstring(answer.body)  # noqa: S314 - what our own server wrote
    assert root.tag == f"{space}NativeDicomModel"
    failed = root.find(f"{space}DicomAttribute[@keyword='FailedSOPSequence']/{space}Item[@number='1']")
    assert failed is not None
    found = {e.get("tag"): [v.text for v in e.iter(f"{space}Value")] for e in failed}
    assert found == {"00081150": [CT], "00081155": ["1.2.2"], "00081197": ["49152"]}


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("application/json", "application/dicom+json"),
        ("*/*", "application/dicom+json"),
        ("application/dicom+xml;q=0.5, application/dicom+json;q=0.9", "application/dicom+json"),
        ("application/dicom+json;q=0, application/dicom+xml", "application/dicom+xml"),
        ("application/dicom+xml, */*", "application/dicom+xml"),
        ("text/html", None),
        ("application/dicom+json;q=0", None),
    ],
)
def test_the_answer_is_of_the_kind_that_is_wanted_most(store: Store, accept: str, answered: str | None) -> None:
    answer = store.store(instance(), headers={"Accept": accept})
    assert answer.status == (200 if answered else 406)
    if answered:
        assert answer.headers["content-type"] == answered
    else:
        assert store.contents() == []


# -- what is no store transaction ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/dicom-web/studies", 405),
        ("DELETE", f"/dicom-web/studies/{STUDY}", 405),
        ("POST", "/", 404),
        ("POST", "/dicom-web/studies/1.2/series", 404),
        ("POST", "/dicom-web/instances", 404),
        ("POST", "/dicom-web/studies/../studies/..", 404),
        ("POST", "/dicom-web/studies/Doe%5EJane", 400),
        ("POST", f"/dicom-web/studies/{'1' * 65}", 400),
    ],
)
def test_everything_else_is_not_here(store: Store, method: str, path: str, status: int) -> None:
    answer = store.post(multipart([part(instance())]), path=path, method=method)
    assert answer.status == status
    assert store.contents() == []
    if status == 405:
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/dicom"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": CONTENT_TYPE.replace("application/dicom", "application/dicom+json")}, 415),
        ({"Content-Type": CONTENT_TYPE.replace("application/dicom", "application/dicom+xml")}, 415),
        ({"Content-Type": "multipart/form-data; boundary=a-boundary"}, 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=""'}, 400),
        ({"Content-Type": f'multipart/related; type="application/dicom"; boundary={"x" * 71}'}, 400),
        ({"Content-Type": CONTENT_TYPE + "; boundary=other"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity"}, 200),
    ],
)
def test_a_body_of_another_kind_is_refused(store: Store, headers: dict[str, str], status: int) -> None:
    assert store.store(instance(), headers=headers).status == status
    assert len(store.contents()) == (status == 200)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Type: application/dicom+json",
        "Content-Transfer-Encoding: base64",
        "Content-Type: application/dicom\r\nContent-Encoding: gzip",
    ],
)
def test_a_part_of_another_kind_is_refused_alone(store: Store, head: str) -> None:
    other = head.encode() + b"\r\n\r\n" + instance("1.2.4")
    answer = store.post(multipart([part(instance("1.2.3")), other]))
    assert (answer.status, answer.stored(), answer.failed()) == (202, ["1.2.3"], {"1.2.4": 0xC000})
    assert store.contents() == [instance("1.2.3")]


def test_the_transfer_syntax_may_be_said_with_each_part(store: Store) -> None:
    kind = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert store.post(multipart([part(instance(), kind)])).status == 200


# -- who may ---------------------------------------------------------------------------------------------------------


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "may"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (basic(TOKEN), True),
        ("", False),
        ("Bearer", False),
        ("Bearer " + TOKEN[:-1], False),
        (f"Bearer {TOKEN}0", False),
        (TOKEN, False),
        (f"Digest {TOKEN}", False),
        (basic("wrong"), False),
        (basic(""), False),
        ("Basic !!!", False),
    ],
)
def test_only_who_shows_the_token_may_store(store: Store, authorization: str, may: bool) -> None:
    answer = store.store(instance(), headers={"Authorization": authorization})
    assert answer.status == (200 if may else 401)
    assert len(store.contents()) == may
    if not may:
        assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_a_new_token_counts_from_the_next_request_on_and_an_unusable_one_never(store: Store) -> None:
    store.token_file.write_text("short\n")
    store.source.reload(store.settings)
    assert store.store(instance()).status == 200
    store.token_file.write_text("f" * 32)
    store.source.reload(store.settings)
    assert store.store(instance()).status == 401
    assert store.store(instance(), headers={"Authorization": f"Bearer {'f' * 32}"}).status == 200


@pytest.mark.parametrize("token", ["", "short", "sixteen but blank", "\u00e4" * 20, "a" * 5000])
def test_a_token_that_is_none_keeps_the_source_from_starting(
    serve: Callable[..., Store], tmp_path: Path, token: str
) -> None:
    (tmp_path / "token").write_text(token)
    with pytest.raises(SourceUnusable, match="token file"):
        serve()


def test_neither_token_nor_uids_nor_names_are_in_the_log(store: Store) -> None:
    with capture_logs() as lines:
        store.store(instance("1.2.987654"), path=f"/dicom-web/studies/{STUDY}")
        store.store(instance("1.2.987654")[:-5])
        store.store(instance(), headers={"Authorization": "Bearer 0123456789abcdef-wrong"})
        store.post(b"x", path="/dicom-web/studies/Doe%5EJane")
        store.post(b"x")
    assert len(lines) >= 4
    for word in (STUDY, "987654", "Jane", "0123456789abcdef", "Test^Patient", "/dicom-web"):
        assert word not in str(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dicomweb:\n  enabled: true\n", "token_file"),
        ("status:\n  host: 0.0.0.0\n", "can be reached by others"),
        ("status:\n  host: 192.0.2.1\n", "behind_tls_proxy"),
    ],
)
def test_a_service_that_is_not_guarded_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        load(path, ListenerSettings)


def test_a_proxy_may_speak_tls_for_us() -> None:
    ListenerSettings.model_validate({"status": {"host": "192.0.2.1", "behind_tls_proxy": True}})


def test_tls_is_spoken_where_there_is_a_certificate(serve: Callable[..., Store], certificate: Path) -> None:
    store = serve(status={"tls": {"certificate": str(certificate)}})
    context = ssl.create_default_context(cafile=str(certificate))
    request = urllib.request.Request(
        f"https://localhost:{store.port}/dicom-web/studies",
        multipart([part(instance())]),
        {"Content-Type": CONTENT_TYPE, "Authorization": f"Bearer {TOKEN}"},
    )
    with urllib.request.urlopen(request, context=context, timeout=100) as response:  # noqa: S310 - as above
        assert response.status == 200
    assert store.contents() == [instance()]


def test_tls_files_that_cannot_be_used_are_said_in_one_sentence(serve: Callable[..., Store], tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match=r"status\.tls"):
        serve(status={"tls": {"certificate": str(tmp_path / "none.pem")}})


def test_a_port_in_use_is_said_in_one_sentence(store: Store, serve: Callable[..., Store]) -> None:
    with pytest.raises(SourceUnusable, match=r"status\.port"):
        serve(status={"port": store.port})


# -- room ------------------------------------------------------------------------------------------------------------


def test_without_room_senders_are_told_to_come_again(store: Store) -> None:
    store.space.state = SpaceLevel.REFUSE_INSTANCES
    answer = store.store(instance())
    assert (answer.status, answer.headers["retry-after"]) == (503, "60")
    store.space.state = SpaceLevel.ENOUGH
    store.space.queue_full = True
    assert store.store(instance()).status == 503
    store.space.queue_full = False
    assert store.store(instance()).status == 200
    assert len(store.contents()) == 1


def test_a_disk_that_fails_is_told_per_instance_and_nothing_of_it_is_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive, calls = store.spool.receive, []

    def second_fails() -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise SpoolWriteFailed("making a file in the spool", OSError(28, "No space left on device"))
        return receive()

    monkeypatch.setattr(store.spool, "receive", second_fails)
    answer = store.store(instance("1.2.1"), instance("1.2.2"), instance("1.2.3"))
    assert (answer.status, answer.failed()) == (202, {"1.2.2": 0xA700})
    calls[:] = [1]
    answer = store.store(instance("1.2.2"))
    assert (answer.status, answer.headers["retry-after"]) == (503, "60")
    assert store.contents() == [instance("1.2.1"), instance("1.2.3")]
    assert store.partial() == []


def test_what_is_too_large_is_refused(serve: Callable[..., Store]) -> None:
    store = serve(
        listener={"limits": {"max_instance_bytes": 5000}},
        dicomweb={"limits": {"max_request_bytes": 20_000, "max_instances": 3}},
    )
    answer = store.store(instance("1.2.1"), instance("1.2.2", pixels=bytes(6000)))
    assert (answer.status, answer.failed()) == (202, {"1.2.2": 0xA700})
    large = instance("1.2.3", pixels=bytes(30_000))
    assert store.store(large).status == 413
    body = multipart([part(large)])
    assert (
        store.post(
            iter([body[:9000], body[9000:]]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        ).status
        == 413
    )
    assert store.store(*[instance(f"1.2.{n}", pixels=b"") for n in range(4)]).status == 413
    assert store.partial() == []


def test_a_defect_of_ours_is_answered_and_costs_its_request_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("listener.sources.dicomweb.app.response.encoded", None)
        assert store.store(instance()).status == 500
    assert store.store(instance()).status == 200
