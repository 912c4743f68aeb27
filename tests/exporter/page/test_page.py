"""The page over HTTP: complete, safe in the hands of browsers, and never out of step with the command."""

from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from exporter.commands.app import main
from exporter.errors import Reason
from exporter.outcome import InstanceIdentity, MediaFile, MediaType
from exporter.page.condition import masked
from exporter.page.failures import REMEDIES
from exporter.page.guard import MEDIA_POLICY, POLICY
from exporter.results.ledger import InstanceStatus, Ledger
from listener.foundation.errors import SourceUnusable
from listener.spool.spool import Spool
from tests.exporter.ledger_rows import begin, finish
from tests.exporter.page.served import Served, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>\u202egnp.exe\x1b[31m\x00&" + "A" * 65_536
MEDIA = ("/media", "/thumbnail")
TOKEN = "0123456789abcdef0123456789abcdef"


def fill(data: Path) -> None:
    """A data folder with exported, skipped and failed instances."""
    (data / "media").mkdir()
    (data / "media/a.png").write_bytes(PNG)
    (data / "media/b.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    with Ledger.open(data / "exporter.db") as ledger:
        for name in ("a", "b"):
            begin(ledger, name)
            suffix, kind = {"a": (".png", MediaType.IMAGE), "b": (".svg", MediaType.WAVEFORM)}[name]
            media = (MediaFile(f"{name}{suffix}", suffix, kind, len(PNG), "f" * 64, "png", width=1, height=1),)
            uids = InstanceIdentity("1.2.840.10008.5.1.4.1.1.7", f"1.2.{name}", "1.9", "1.9.1", name)
            finish(ledger, name, identity=uids, media=media)
        begin(ledger, "s")
        finish(ledger, "s", state=InstanceStatus.SKIPPED, reason="no_media")
        for number in range(120):
            begin(ledger, f"{number:03}/{HOSTILE[:200]}")
            state = InstanceStatus.FAILED
            finish(ledger, f"{number:03}/{HOSTILE[:200]}", state=state, reason="timeout", message=HOSTILE)


def _png() -> bytes:
    into = io.BytesIO()
    Image.new("L", (300, 200), 99).save(into, "PNG")
    return into.getvalue()


PNG = _png()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def page(data: Path) -> Iterator[Served]:
    with serving(data) as served:
        yield served


EVERY_PAGE = (
    "/",
    "/failures",
    "/failures?reason=timeout",
    "/failures?before=40",
    "/instances",
    "/instances?before=3",
    "/instance/1",
    "/instance/50",
    "/search?q=1.2.a",
    "/search",
    "/retry?reason=timeout",
    "/retry?number=50",
    "/settings",
)


@pytest.mark.parametrize("path", [*EVERY_PAGE, "/nothing", "/metrics", "/healthz", "/media/1/0", "/thumbnail/1"])
def test_every_answer_is_guarded(page: Served, path: str) -> None:
    answer = page.ask(path)
    assert answer.status == (404 if path == "/nothing" else 200)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["content-security-policy"] == (MEDIA_POLICY if path.startswith(MEDIA) else POLICY)
    assert "server" not in answer.headers


@pytest.mark.parametrize("path", EVERY_PAGE)
def test_what_others_wrote_is_inert(page: Served, path: str) -> None:
    text = page.ask(path).text
    for evil in ("<script>alert", "<img src=x", "\u202e", "\x1b", "\x00"):
        assert evil not in text
    assert 'style="' not in text  # the policy would forbid it
    assert len(text) < 500_000  # 64 kB in a message do not make a page of 8 MB


def test_a_page_without_a_patient_in_it_is_the_default(page: Served, data: Path) -> None:
    for path in EVERY_PAGE:
        assert re.search(r"[01][0-9][0-9]/&lt;", page.ask(path).text) is None
    with serving(data, '{"page": {"show_patient": true}}') as open_page:
        assert "000/&lt;script&gt;" in open_page.ask("/failures?before=5").text


def test_failures_are_listed_by_pages_that_miss_and_repeat_nothing(page: Served) -> None:
    seen: list[int] = []
    path = "/failures?reason=timeout"
    while True:
        text = page.ask(path).text
        seen += map(int, re.findall(r'<a href="/instance/(\d+)">', text))
        found = re.search(r'href="\?reason=timeout&amp;before=(\d+)"', text)
        if found is None:
            break
        path = f"/failures?reason=timeout&before={found[1]}"
    assert seen == list(range(123, 3, -1))


def test_the_page_and_the_command_say_the_same(page: Served, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json", "--data", str(data)]) == 0
    said = json.loads(capsys.readouterr().out)
    text = page.ask("/").text
    assert said["summary"] in text
    assert (said["failed"], said["well"]) == (120, False)
    assert said["last_hour"] == said["last_day"]
    assert "<dd>120</dd>" in text
    assert main(["status", "--data", str(data)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == said["summary"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/failures?before=-1", 400),
        ("/failures?before=99999999999999999999999", 400),
        ("/failures?before=%FF%FE", 400),
        ("/failures?reason=%3Cscript%3E", 404),
        ("/failures?refused=../../etc/passwd", 400),
        ("/instance/99999999999999999999999999", 404),
        ("/instance/777", 404),
        ("/refused/not_dicom/..%2F..%2Fexporter.db", 404),
        ("/media/1/9", 404),
        ("/media/777/0", 404),
        ("/static/../app.py", 404),
        ("/static/..%2Fapp.py", 404),
        ("/retry", 404),
        ("/retry?number=%00", 404),
        ("/search?q=%FF%00%ED%A0%80", 200),
    ],
)
def test_an_address_that_means_nothing_is_answered_in_words(page: Served, path: str, status: int) -> None:
    assert page.ask(path).status == status


def test_a_search_finds_by_uid_of_instance_study_and_series_and_by_path(page: Served) -> None:
    assert "/instance/2" in page.ask("/search?q=1.9.1").text
    assert "/instance/1" in page.ask("/search?q=1.2.a").text
    assert "/instance/2" in page.ask("/search?q=1.9").text
    assert "/instance/2" in page.ask("/search?q=b.s").text
    assert "Nothing was found" in page.ask("/search?q=7.7").text


def test_a_page_that_has_not_changed_is_not_sent_again(page: Served) -> None:
    tag = page.ask("/failures").headers["etag"]
    again = page.ask("/failures", if_none_match=tag)
    assert (again.status, again.text) == (304, "")


# -- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"])
def test_another_host_name_is_refused(page: Served, host: str) -> None:
    assert page.ask("/", host=host).status == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8091", "LOCALHOST:8091"])
def test_our_own_names_and_addresses_are_served(page: Served, host: str) -> None:
    assert page.ask("/", host=host).status == 200


def test_a_token_is_asked_for_where_there_is_one(data: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    with serving(data, json.dumps({"page": {"token_file": str(token)}})) as guarded:
        for path in ("/", "/metrics", "/media/1/0", "/static/page.css", "/nothing"):
            refused = guarded.ask(path)
            assert (refused.status, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        assert guarded.ask("/metrics", authorization=f"Bearer {TOKEN}").status == 200
        assert guarded.ask("/metrics", authorization=f"Bearer {TOKEN}x").status == 401
        assert guarded.ask("/healthz").status == 200
    for content, mode, problem in (
        ("", 0o600, "first line"),
        (f"{TOKEN}\n", 0o604, "others can read"),
        ("x\n", 0o600, "16"),
    ):
        token.write_text(content)
        token.chmod(mode)
        with (
            pytest.raises(SourceUnusable, match=problem),
            serving(data, json.dumps({"page": {"token_file": str(token)}})),
        ):
            pass


@pytest.mark.parametrize(
    ("page_settings", "problem"),
    [
        ('{"host": "0.0.0.0"}', "certificate"),
        ('{"host": "0.0.0.0", "behind_tls_proxy": true}', "token_file"),
    ],
)
def test_a_page_that_others_reach_needs_tls_and_a_token(page_settings: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem), serving(tmp_path, f'{{"page": {page_settings}}}'):
        pass


def test_thumbnails_are_off_where_others_reach_the_page(data: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    section = {"host": "0.0.0.0", "behind_tls_proxy": True, "token_file": str(token)}  # noqa: S104 - for this test
    shown = {"authorization": f"Bearer {TOKEN}"}
    with serving(data, json.dumps({"page": section})) as far:
        assert [far.ask(path, **shown).status for path in ("/thumbnail/1", "/media/1/0")] == [403, 403]
        assert "/thumbnail/1" not in far.ask("/instances?before=3", **shown).text
    with serving(data, json.dumps({"page": section | {"thumbnails": "on"}})) as far:
        assert far.ask("/thumbnail/1", **shown).status == 200


# -- media -----------------------------------------------------------------------------------------------------------


def test_a_medium_is_served_as_what_it_is_and_may_do_nothing(page: Served) -> None:
    picture, drawing = page.ask("/media/1/0"), page.ask("/media/2/0")
    assert picture.headers["content-type"] == "image/png"
    assert drawing.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in drawing.headers["content-security-policy"]
    assert page.ask("/thumbnail/2").status == 404


def test_a_medium_that_leads_out_of_the_media_folder_is_not_served(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "media/a.png").unlink()
    (tmp_path / "media/a.png").symlink_to(tmp_path / "secret.png")
    with serving(tmp_path) as served:
        assert [served.ask(path).status for path in ("/media/1/0", "/thumbnail/1")] == [404, 404]


# -- trying again ----------------------------------------------------------------------------------------------------


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Served]:
    """A data folder with a spool in which three instances failed, two of them for one reason."""
    reasons = ("timeout", "timeout", "not_dicom")
    with Spool.open(tmp_path / "spool") as spool, Ledger.open(tmp_path / "exporter.db") as ledger:
        for reason in reasons:
            incoming = spool.receive()
            incoming.write([b"x" * 200])
            incoming.commit()
            (item,) = spool.pending()
            claimed = spool.claim(item)
            assert claimed is not None
            begin(ledger, item.name, source="spool")
            finish(ledger, item.name, state=InstanceStatus.QUARANTINED, reason=reason)
            spool.quarantine(claimed, reason, {"reason": reason, "message": ""})
    with serving(tmp_path) as served:
        yield served


def states(folder: Path) -> dict[str, int]:
    with Ledger.open_read_only(folder / "exporter.db") as ledger:
        counts = ledger.counts()
    return {"deferred": counts.deferred, "quarantined": counts.quarantined}


def test_all_of_one_reason_are_tried_again_after_their_number_was_asked_back(live: Served, tmp_path: Path) -> None:
    asked = live.ask("/retry?reason=timeout").text
    assert "Try 2 instances again?" in asked
    assert states(tmp_path)["quarantined"] == 3  # asking changes nothing
    done = live.submit({"csrf": live.csrf(), "reason": "timeout"})
    assert (done.status, done.headers["location"]) == (303, "/failures?reason=timeout&tried=2")
    assert "2 instances will be tried again" in live.ask(done.headers["location"]).text
    assert states(tmp_path) == {"deferred": 2, "quarantined": 1}
    assert len(list((tmp_path / "spool/new").iterdir())) == 2


def test_one_failure_is_tried_again(live: Served, tmp_path: Path) -> None:
    assert live.submit({"csrf": live.csrf(), "number": "3"}).status == 303
    assert states(tmp_path) == {"deferred": 1, "quarantined": 2}
    assert live.ask("/retry?number=3").status == 404  # it waits already
    again = live.submit({"csrf": live.csrf(), "number": "3"})
    assert again.status == 404
    assert states(tmp_path) == {"deferred": 1, "quarantined": 2}


def test_two_people_try_one_reason_at_once_and_each_instance_is_pending_once(live: Served, tmp_path: Path) -> None:
    csrf = live.csrf()
    answers: list[int] = []
    people = [
        threading.Thread(target=lambda: answers.append(live.submit({"csrf": csrf, "reason": "timeout"}).status))
        for _ in range(4)
    ]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert answers == [303] * 4
    assert states(tmp_path) == {"deferred": 2, "quarantined": 1}
    assert len(list((tmp_path / "spool/new").iterdir())) == 2


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({"reason": "timeout"}, {}, 403),
        ({"reason": "timeout", "csrf": "wrong"}, {}, 403),
        ({"reason": "timeout", "csrf": "ours"}, {"origin": "https://evil.example"}, 403),
        ({"reason": "timeout", "csrf": "ours"}, {"origin": "null"}, 403),
        ({"reason": "timeout", "csrf": "ours"}, {"sec_fetch_site": "cross-site"}, 403),
        ({"reason": "nonsense", "csrf": "ours"}, {}, 404),
        ({"csrf": "ours"}, {}, 404),
        ({"reason": "timeout", "csrf": "ours", "x": "y" * 70_000}, {}, 413),
    ],
)
def test_a_form_that_is_not_ours_changes_nothing(
    live: Served, tmp_path: Path, fields: dict[str, str], headers: dict[str, str], status: int
) -> None:
    if fields.get("csrf") == "ours":
        fields = fields | {"csrf": live.csrf()}
    assert live.submit(fields, **headers).status == status
    assert states(tmp_path) == {"deferred": 0, "quarantined": 3}


def test_a_body_without_end_is_refused_unread(page: Served) -> None:
    head = b"POST /retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n"
    assert page.raw(head + b"x" * 1000).startswith(b"HTTP/1.1 413")
    both = (
        b"POST /retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert page.raw(both).startswith(b"HTTP/1.1 400")
    assert page.ask("/", method="DELETE").status == 405
    assert page.ask("/healthz").status == 200


# -- what is wrong ---------------------------------------------------------------------------------------------------


def test_a_ledger_that_cannot_be_read_is_the_first_sentence(tmp_path: Path) -> None:
    (tmp_path / "exporter.db").write_bytes(b"not a database" * 100)
    with serving(tmp_path) as served:
        answer = served.ask("/")
        assert answer.status == 200
        assert "The ledger cannot be read: the file is damaged" in answer.text
        assert served.ask("/failures").status == 503
        assert "dicom_ledger_readable 0" in served.ask("/metrics").text


def test_a_ledger_of_a_newer_version_is_named_as_that(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "exporter.db").close()
    with closing(sqlite3.connect(tmp_path / "exporter.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    with serving(tmp_path) as served:
        assert "newer version" in served.ask("/").text


def test_a_folder_that_is_gone_or_empty_is_said_to_be(tmp_path: Path) -> None:
    with serving(tmp_path / "gone") as served:
        assert "is not there" in served.ask("/").text
    (tmp_path / "empty").mkdir()
    with serving(tmp_path / "empty") as served:
        assert "All is well" in served.ask("/").text
        assert "There is no instance yet" in served.ask("/instances").text


def test_counters_that_are_half_written_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    now = time.time()
    for text in (
        '{"updated": 1',
        "[]",
        '{"sources": 7, "gauges": [], "updated": "x"}',
        '{"sources": {"a": {"slots": 1}}}',
    ):
        (tmp_path / "spool/listener.json").write_text(text)
        with serving(tmp_path) as served:
            assert served.ask("/").status == 200
            assert served.ask("/metrics").status == 200
    counted = {"a": {"number": 3, "last": now + 3600, "slots": [[int(now) // 600, 3]]}}  # the clock was set back
    (tmp_path / "spool/listener.json").write_text(json.dumps({"updated": now + 3600, "sources": counted}))
    with serving(tmp_path, '{"expect": {"a": {"every": "1h"}}}') as served:
        assert "silent" not in served.ask("/").text


@pytest.mark.parametrize(("hours", "is_silent"), [(1, False), (3, True)])
def test_a_source_that_is_silent_for_too_long_is_a_fault(tmp_path: Path, hours: int, is_silent: bool) -> None:
    (tmp_path / "spool").mkdir()
    now = time.time()
    told = {"updated": now, "started": now, "sources": {"CT1": {"number": 1, "last": now - hours * 3600, "slots": []}}}
    (tmp_path / "spool/listener.json").write_text(json.dumps(told))
    with serving(tmp_path, '{"expect": {"CT1": {"every": "1h", "grace": "60m"}}}') as served:
        assert ("CT1 is silent since" in served.ask("/").text) is is_silent
        assert f'dicom_source_silent{{source="CT1"}} {int(is_silent)}' in served.ask("/metrics").text


def test_secrets_are_masked() -> None:
    told = {
        "url": "https://bob:hunter2@host:8042/a@b",
        "password": "p",
        "token_file": "/etc/token",
        "deep": [{"key": "k"}],
    }
    assert masked(told) == {
        "url": "https://********@host:8042/a@b",
        "password": "********",
        "token_file": "/etc/token",
        "deep": [{"key": "********"}],
    }


def test_every_reason_says_what_to_do() -> None:
    assert REMEDIES.keys() == {str(reason) for reason in Reason}


def test_the_page_changes_nothing_by_being_looked_at(page: Served, data: Path) -> None:
    def kept() -> dict[str, tuple[int, int]]:
        return {
            entry.path: (entry.stat().st_mtime_ns, entry.stat().st_size)
            for entry in os.scandir(data)
            if not entry.name.endswith("-shm")
        }

    before = kept()
    for path in EVERY_PAGE:
        page.ask(path)
    assert kept() == before


# -- the process -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_at_sighup_the_configuration_is_read_again_and_a_wrong_one_changes_nothing(data: Path, tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys

    from tests.ports import free_port

    port, config = free_port(), tmp_path / "exporter.yml"
    served = Served(f"http://127.0.0.1:{port}/")

    def configure(more: str) -> None:
        config.write_text(f"page: {{port: {port}, {more}}}\n")

    def wait_until(is_so: Callable[[], bool]) -> None:
        until = time.monotonic() + 100
        while not is_so():
            assert time.monotonic() < until
            time.sleep(0.05)

    def is_up() -> bool:
        try:
            return served.ask("/healthz").status == 200
        except OSError:
            return False

    configure("show_patient: false")
    log = tmp_path / "log"
    command = [sys.executable, "-m", "exporter", "page", "--config", str(config), "--data", str(data)]
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdout=file) as process:
        try:
            wait_until(is_up)
            assert "000/&lt;script&gt;" not in served.ask("/failures?before=5").text
            configure("show_patient: true")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "000/&lt;script&gt;" in served.ask("/failures?before=5").text)
            configure("show_patient: perhaps")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: b"reload refused, the old settings stay" in log.read_bytes())
            assert "000/&lt;script&gt;" in served.ask("/failures?before=5").text
        finally:
            process.terminate()
    assert process.returncode == 0
