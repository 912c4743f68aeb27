"""A server that lies: what it sends costs bounded time and bytes, is followed nowhere, and is over when it is over."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.listener.certificates import make_certificate
from tests.listener.requestor import eventually
from tests.listener.sources.orthanc.fake_orthanc import FakeOrthanc

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.sources.orthanc.conftest import Polling
    from tests.listener.sources.orthanc.fake_orthanc import Handler, Lie

FULL = os.environ.get("EXPORTER_TEST_ORTHANC") == "full"
MOST_LIED_BYTES = 40 << 20
"""The longest JSON that is read, and what the buffers of both sides hold."""
GOOD = b"instance 0 " + bytes(range(256)) * 40
VICTIM = b"instance 1 " + bytes(range(256)) * 4000
FILE, MD5, INFO, CHANGES, LIST = "/file$", "/md5$", "/instances/[0-9a-f-]{44}$", "^/changes", r"^/instances\?"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def status(code: int, **headers: str) -> Lie:
    return lambda handler: handler.answer(b"<html><body>Sorry, John Doe</body></html>", code, **headers)


def says(content: bytes, **headers: str) -> Lie:
    return lambda handler: handler.answer(content, **headers)


def raw(*pieces: bytes) -> Lie:
    """Bytes of its own making, then the end of the connection."""

    def lie(handler: Handler) -> None:
        handler.close_connection = True
        for piece in pieces:
            handler.raw(piece)

    return lie


def drip(head: bytes, piece: bytes, every_s: float) -> Lie:
    """A head, then the same again and again for ever, or until the client has had enough."""

    def lie(handler: Handler) -> None:
        handler.close_connection = True
        handler.raw(head)
        while not handler.fake.stopping.wait(every_s) and handler.lied_bytes < 2 * MOST_LIED_BYTES:
            handler.raw(piece)

    return lie


def silent(handler: Handler) -> None:
    handler.close_connection = True
    handler.fake.stopping.wait(20)


def half_of_it(handler: Handler) -> None:
    """The right length, half the body, and the end."""
    handler.close_connection = True
    handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(VICTIM) + VICTIM[: len(VICTIM) // 2])


def half_without_length(handler: Handler) -> None:
    handler.close_connection = True
    handler.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + VICTIM[: len(VICTIM) // 2])


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ELSEWHERE = {"url": ""}
ELSE = [
    (where, name)
    for where in (MD5, INFO, LIST)
    for name in ("status 500", "HTML", "gzip bomb", "no answer", "endless JSON", "redirect to a file")
]
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(64 << 20))
FLIPPED = VICTIM[:5000] + b"\xff" + VICTIM[5001:]

OF_ANY_QUESTION: dict[str, Lie] = {
    "status 401": status(401),
    "status 500": status(500),
    "status 503 with Retry-After": status(503, Retry_After="1"),
    "no answer": silent,
    "not HTTP": raw(b"220 mail.example.org ESMTP\r\n"),
    "HTML": says(b"<!DOCTYPE html><html><body>log in</body></html>", Content_Type="text/html"),
    "redirect to another host": lambda handler: handler.answer(b"", 302, Location=ELSEWHERE["url"] + handler.path[1:]),
    "redirect to a file": status(307, Location="file:///etc/passwd"),
    "gzip bomb": says(BOMB, Content_Encoding="gzip"),
    "gzip bomb as transfer coding": raw(
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(BOMB) + BOMB + b"\r\n0\r\n\r\n"
    ),
    "huge Content-Length": drip(HEAD + b"Content-Length: 99999999999999\r\n\r\n", bytes(65536), 0),
    "headers without end": drip(HEAD, b"X-Header: value\r\n", 0),
    "a header byte now and then": drip(HEAD, b"X", 0.1),
    "a body byte now and then": drip(HEAD + b"Content-Length: 1000\r\n\r\n", b" ", 0.1),
    "endless JSON": drip(CHUNKED, b"10000\r\n" + b"[" * 65536 + b"\r\n", 0),
    "two lengths": raw(HEAD + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\n{}   "),
    "a negative chunk": raw(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n"),
}
OF_THE_FILE: dict[str, Lie] = {
    "cut off": half_of_it,
    "cut off without a length": half_without_length,
    "another byte": says(FLIPPED),
    "longer": says(VICTIM + b"more"),
    "longer without a length": raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + VICTIM + b"more"),
    "empty": says(b""),
    "status 404": status(404),
}
OF_CHANGES: dict[str, bytes] = {
    "garbage identifier": json.dumps(
        {"Changes": [{"ChangeType": "NewInstance", "ID": "../../etc", "Seq": 9}], "Done": True, "Last": 9}
    ).encode(),
    "identifier with a line end": json.dumps(
        {
            "Changes": [{"ChangeType": "NewInstance", "ID": "-".join(["0" * 8] * 5) + "\r\nX: y", "Seq": 9}],
            "Done": True,
            "Last": 9,
        }
    ).encode(),
    "numbers as text": b'{"Changes": [], "Done": true, "Last": "7"}',
    "never done": b'{"Changes": [], "Done": false, "Last": 7}',
    "no change": b'{"Changes": [17], "Done": true, "Last": 17}',
    "deep": b"[" * 100_000,
    "numbers beyond all bounds": b'{"Changes": [], "Done": true, "Last": 99999999999999999999999999}',
    "not UTF-8": b'{"Changes": [], "Done": true, "Last": 7, "\xff": 1}',
}


@pytest.fixture
def polling(poll: Callable[..., Polling], fake: FakeOrthanc, elsewhere: FakeOrthanc) -> Polling:
    ELSEWHERE["url"] = elsewhere.url
    return poll(fake.url)


def check_resumed(polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc) -> None:
    """Once the lie is over, everything comes, once; and nothing of the lie had any effect elsewhere."""
    assert polling.source is not None
    assert polling.source.is_alive()
    fake.lies.clear()
    eventually(lambda: polling.count("taken") >= 2, f"both taken: {polling.counters.snapshot()}", 100)
    polling.wait_for_passes()
    assert polling.taken() == {md5(GOOD): 1, md5(VICTIM): 1}
    assert elsewhere.requests == []
    assert fake.longest_lie < MOST_LIED_BYTES
    assert polling.stop() == 0
    assert list((polling.spool.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("name", OF_ANY_QUESTION if FULL else list(OF_ANY_QUESTION)[::2])
def test_a_lie_about_the_log_of_changes_stops_everything_until_it_is_over(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc, name: str
) -> None:
    fake.add(GOOD)
    fake.add(VICTIM)
    fake.lies[CHANGES] = OF_ANY_QUESTION[name]
    polling.start()
    eventually(lambda: fake.asked(CHANGES) >= 2, "asked again", 100)
    assert polling.taken() == {}
    check_resumed(polling, fake, elsewhere)


@pytest.mark.parametrize("name", [*(OF_ANY_QUESTION if FULL else list(OF_ANY_QUESTION)[1::2]), *OF_THE_FILE])
def test_a_lie_about_one_file_stops_no_other_and_leaves_nothing_behind(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc, name: str
) -> None:
    lie = OF_ANY_QUESTION.get(name) or OF_THE_FILE[name]
    victim = fake.add(VICTIM)
    fake.lies[f"{victim}/file$"] = lie
    fake.add(GOOD)
    polling.start()
    if name == "status 401":  # that is the server's, whatever it was said of
        polling.wait_for("credentials_refused", 2)
    else:
        polling.wait_for("taken")
        eventually(lambda: fake.asked(f"{victim}/file$") >= 2, "asked again", 100)
        assert set(polling.taken()) == {md5(GOOD)}
    if name == "status 404":  # it says that it is gone: believed until the list of all instances has it again
        assert polling.count("gone")
    check_resumed(polling, fake, elsewhere)


@pytest.mark.parametrize(("where", "name"), ELSE if FULL else ELSE[::5])
def test_a_lie_about_anything_else_is_over_when_it_is_over(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc, where: str, name: str
) -> None:
    fake.add(GOOD)
    fake.add(VICTIM)
    fake.lies[where] = OF_ANY_QUESTION[name]
    polling.start()
    eventually(lambda: fake.asked(where) >= 2, "asked again", 100)
    check_resumed(polling, fake, elsewhere)


@pytest.mark.parametrize("name", OF_CHANGES)
def test_a_page_of_changes_that_is_none_is_refused_as_a_whole(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc, name: str
) -> None:
    fake.add(GOOD)
    fake.add(VICTIM)
    fake.lies[CHANGES] = says(OF_CHANGES[name])
    polling.start()
    polling.wait_for("bad_answer", 2)
    assert fake.asked("^/instances") == 0
    check_resumed(polling, fake, elsewhere)


def test_a_wrong_md5_is_an_instance_that_fails_and_is_taken_once_it_is_right(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc
) -> None:
    victim = fake.add(VICTIM)
    fake.instances[victim].md5 = md5(b"something else")
    fake.add(GOOD)
    polling.start()
    polling.wait_for("failed")
    polling.wait_for("failed_again")
    assert polling.taken() == {md5(GOOD): 1}
    fake.instances[victim].md5 = md5(VICTIM)
    check_resumed(polling, fake, elsewhere)


@pytest.mark.parametrize("name", ["status 500", "huge Content-Length"])
def test_many_bad_answers_use_up_nothing(
    polling: Polling, fake: FakeOrthanc, elsewhere: FakeOrthanc, name: str
) -> None:
    """Neither connections of the pool, nor descriptors, nor threads."""
    victim = fake.add(VICTIM)
    fake.add(GOOD)
    fake.lies[f"{victim}/file$"] = OF_ANY_QUESTION.get(name) or OF_THE_FILE[name]
    polling.start(pause_s=0.01, max_pause_s=0.01, attempts=12)
    polling.wait_for("retries", 5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    polling.wait_for("failed")
    polling.wait_for("failed_again", 2)
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10
    check_resumed(polling, fake, elsewhere)


def test_an_instance_over_the_limit_is_not_even_asked_for(polling: Polling, fake: FakeOrthanc) -> None:
    fake.add(VICTIM)
    fake.add(GOOD)
    polling.start(max_instance_bytes=len(GOOD))
    polling.wait_for("failed")
    polling.wait_for("taken")
    assert fake.asked(FILE) == 1
    assert polling.taken() == {md5(GOOD): 1}


def test_a_slow_but_steady_server_has_the_time_it_needs(polling: Polling, fake: FakeOrthanc) -> None:
    """Longer than the time for an answer, never slower than the least rate."""

    def slowly(handler: Handler) -> None:
        handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(VICTIM))
        step = len(VICTIM) // 20
        for start in range(0, len(VICTIM), step):
            handler.raw(VICTIM[start : start + step])
            time.sleep(0.05)

    fake.lies[FILE] = slowly
    fake.add(VICTIM)
    polling.start(least_bytes_per_s=300_000)
    polling.wait_for("taken")
    assert polling.taken() == {md5(VICTIM): 1}
    assert polling.count("retries") == 0


def test_a_pause_that_the_server_asks_for_is_kept(polling: Polling, fake: FakeOrthanc) -> None:
    fake.lies["^/changes"] = status(503, Retry_After="2")
    fake.add(GOOD)
    polling.start()
    polling.wait_for("busy")
    began, asked = time.monotonic(), len(fake.requests)
    fake.lies.clear()
    polling.wait_for("taken")
    assert time.monotonic() - began > 1.8
    assert asked <= len(fake.requests)


def test_a_server_that_asks_for_an_age_gets_an_hour(polling: Polling, fake: FakeOrthanc) -> None:
    """And a stop does not wait for it."""
    fake.lies["^/changes"] = status(503, Retry_After="99999999")
    polling.start()
    polling.wait_for("busy")
    began = time.monotonic()
    assert polling.stop() == 0
    assert time.monotonic() - began < 2


def test_refused_credentials_are_said_and_a_new_file_is_taken_at_once(
    polling: Polling, fake: FakeOrthanc, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.credentials = "Basic " + base64.b64encode(b"poller:right").decode()
    fake.add(GOOD)
    path = tmp_path / "credentials"
    path.write_text("poller:wr0ng-secret\n")
    polling.start(credentials_file=str(path), pause_s=60, max_pause_s=60)
    polling.wait_for("credentials_refused")
    assert polling.taken() == {}
    path.write_text("poller:right\n")
    polling.wait_for("taken")
    assert polling.taken() == {md5(GOOD): 1}
    told = "".join(capsys.readouterr())
    assert "wr0ng" not in told
    assert base64.b64encode(b"poller:right").decode() not in told


def test_a_stop_cuts_off_what_does_not_end_and_says_so(polling: Polling, fake: FakeOrthanc) -> None:
    fake.lies[FILE] = drip(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(VICTIM), b"x" * 20000, 0.2)
    fake.add(VICTIM)
    polling.start()
    eventually(lambda: fake.asked(FILE) == 1, "under way")
    began = time.monotonic()
    assert polling.stop(0.5) == 1
    assert time.monotonic() - began < 3
    assert list((polling.spool.root / "tmp").iterdir()) == []
    assert polling.taken() == {}


def test_tls_is_spoken_with_whom_the_own_authority_vouches_for_and_nobody_else(
    poll: Callable[..., Polling], tmp_path: Path
) -> None:
    ours, other = make_certificate(tmp_path, "ours"), make_certificate(tmp_path, "other")
    (tmp_path / "credentials").write_text("poller:with:colons\n")
    with FakeOrthanc(ours) as server:
        server.credentials = "Basic " + base64.b64encode(b"poller:with:colons").decode()
        server.add(GOOD)
        polling = poll(server.url, credentials_file=str(tmp_path / "credentials"))
        polling.start(ca_file=str(other))
        polling.wait_for("not_trusted", 2)
        assert server.requests == []
        polling.stop()
        polling.start()  # nobody vouches for it
        polling.wait_for("not_trusted", 4)
        assert server.requests == []
        polling.stop()
        polling.start(ca_file=str(ours))
        polling.wait_for("taken")
    assert polling.taken() == {md5(GOOD): 1}


def test_tls_that_is_none_and_plain_text_that_is_tls_are_troubles_like_others(
    poll: Callable[..., Polling], fake: FakeOrthanc, tmp_path: Path
) -> None:
    ours = make_certificate(tmp_path, "ours")
    with FakeOrthanc(ours) as encrypted:
        for url in (fake.url.replace("http:", "https:"), encrypted.url.replace("https:", "http:")):
            polling = poll(url, ca_file=str(ours))
            source = polling.start()
            polling.wait_for("not_trusted" if url.startswith("https:") else "cut_off", 2)
            assert source.is_alive()


def test_a_handshake_that_never_ends_is_cut_off(poll: Callable[..., Polling]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        polling = poll(f"https://127.0.0.1:{listening.getsockname()[1]}/", connect_s=0.2, answer_s=0.3)
        polling.start()
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            began = time.monotonic()
            while time.monotonic() - began < 5:
                connection.sendall(b"\x16\x03\x03\x40\x00"[:1])  # a record that begins over and over
                time.sleep(0.05)
        assert time.monotonic() - began < 3
        polling.wait_for("too_slow")
