"""Webhooks at real web servers: signed, never redirected, bounded in time and size."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from exporter.notifications.destinations import destinations_of
from exporter.notifications.events import Event
from exporter.notifications.mail import Undelivered
from exporter.notifications.secrets import SecretUnusable
from exporter.notifications.webhook import WebhookTarget, send
from exporter.settings.notify import NotifySection
from tests.exporter.notifications.peers import raw_silence, scripted, webhook
from tests.listener.certificates import make_certificate, make_expired_certificate
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from listener.network.deadlines import Deadlines

SECRET = "a secret of more than 24 characters"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificate(folder, "localhost")
    make_expired_certificate(folder, "expired")
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def section(url: str, **hook: Any) -> NotifySection:
    return NotifySection.model_validate({"name": "CT room", "webhooks": [{"url": url} | hook]}, strict=False)


def deliver(found: NotifySection, deadlines: Deadlines, event: Event | None = None) -> None:
    (destination,) = destinations_of(found, "1.0")
    destination.deliver(event or Event.now("test", "A test."), deadlines)


def test_an_event_is_json_with_its_id_and_a_signature_over_id_time_stamp_and_body(
    deadlines: Deadlines, secret: Path
) -> None:
    event = Event.now("failures", "3 instances failed.", "See why.", failed=3)
    with webhook() as hook:
        deliver(section(hook.url, secret_file=str(secret)), deadlines, event)
    (request,) = hook.requests
    assert request.path == "/hook/secret-path"
    assert request.headers["content-type"] == "application/json"
    assert request.event == {
        "type": "failures",
        "timestamp": request.event["timestamp"],
        "data": {"failed": 3},
        "id": event.id,
        "what": "3 instances failed.",
        "do": "See why.",
        "installation": "CT room",
        "version": "1.0",
    }
    stamp = request.headers["webhook-timestamp"]
    signed = b".".join([event.id.encode(), stamp.encode(), request.body])
    wanted = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-id"] == event.id
    assert request.headers["webhook-signature"] == f"v1,{wanted}"


def test_a_secret_in_base64_and_a_secret_address_come_from_files(
    deadlines: Deadlines, tmp_path: Path, secret: Path
) -> None:
    key = secrets.token_bytes(32)
    secret.write_text(f"whsec_{base64.b64encode(key).decode()}\n")
    address = tmp_path / "address"
    with webhook() as hook:
        address.write_text(f"{hook.url}?key=hidden\n")
        address.chmod(0o600)
        found = NotifySection.model_validate(
            {"webhooks": [{"url_file": str(address), "secret_file": str(secret)}]}, strict=False
        )
        deliver(found, deadlines)
        (request,) = hook.requests
        hook.statuses.append(403)
        with pytest.raises(Undelivered) as caught:
            deliver(found, deadlines)
    assert request.path.endswith("?key=hidden")
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{wanted}"
    assert "hidden" not in str(caught.value)
    assert "secret-path" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("short", 0o600, "24 characters or more"),
        ("whsec_!!!", 0o600, "24 characters or more"),
        (SECRET, 0o640, "others can read"),
        ("", 0o600, "is empty"),
        ("a\x00b" * 20, 0o600, "control character"),
    ],
)
def test_a_secret_that_cannot_be_used_is_a_sentence_with_its_key(
    content: str, mode: int, words: str, secret: Path
) -> None:
    secret.write_text(content)
    secret.chmod(mode)
    (destination,) = destinations_of(section("https://localhost/", secret_file=str(secret)), "1.0")
    with pytest.raises(SecretUnusable) as caught:
        destination.check()
    assert "notify.webhooks[0].secret_file" in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_is_not_followed(status: int, deadlines: Deadlines) -> None:
    with webhook() as hook, webhook() as other:
        hook.statuses.append(status)
        hook.headers["Location"] = other.url
        with pytest.raises(Undelivered, match="it redirects"):
            deliver(section(hook.url), deadlines)
    assert other.requests == []


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_answer_that_is_no_success_is_a_sentence_with_its_status(status: int, deadlines: Deadlines) -> None:
    with webhook() as hook:
        hook.statuses.append(status)
        with pytest.raises(Undelivered, match=f"status {status}"):
            deliver(section(hook.url), deadlines)


def test_an_answer_of_a_gigabyte_is_not_read(deadlines: Deadlines) -> None:
    with webhook() as hook:
        hook.statuses.append(200)
        hook.endless = True
        deliver(section(hook.url), deadlines)
        assert hook.came.wait(100)
    assert hook.sent_bytes < 64 << 20


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_the_certificate_is_checked_unless_the_configuration_says_otherwise(
    deadlines: Deadlines, certificates: Path
) -> None:
    ours = str(certificates / "localhost.pem")
    with webhook(certificates / "localhost.pem") as hook:
        with pytest.raises(Undelivered, match="its certificate is not accepted"):
            deliver(section(hook.url), deadlines)
        with pytest.raises(Undelivered, match="its certificate is not accepted"):
            deliver(section(hook.url.replace("localhost", "127.1"), ca_file=ours), deadlines)
        assert hook.requests == []
        deliver(section(hook.url, ca_file=ours), deadlines)
        deliver(section(hook.url, insecure=True), deadlines)
    assert len(hook.requests) == 2
    expired = certificates / "expired.pem"
    with webhook(expired) as hook, pytest.raises(Undelivered, match="its certificate is not accepted"):
        deliver(section(hook.url, ca_file=str(expired)), deadlines)


def test_a_server_that_is_not_there_is_a_sentence(deadlines: Deadlines) -> None:
    with pytest.raises(Undelivered, match="Connection refused"):
        deliver(section(f"http://127.0.0.1:{free_port()}/"), deadlines)
    with pytest.raises(Undelivered, match="its name resolves to nothing"):
        deliver(section("https://nowhere.invalid/"), deadlines)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300, b"\xff"],
)
def test_an_answer_that_is_no_http_is_a_sentence(answer: bytes, deadlines: Deadlines) -> None:
    with scripted(b"", answer) as port, pytest.raises(Undelivered, match="did not take the event"):
        deliver(section(f"http://127.0.0.1:{port}/"), deadlines)


@pytest.mark.parametrize("drips", [b"", b"x", b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"])
def test_a_server_that_hangs_or_drips_is_left_in_time(drips: bytes, deadlines: Deadlines) -> None:
    event = Event.now("test", "A test.")
    options: dict[str, Any] = {"installation": "x", "version": "1", "within_s": 0.5}
    if not drips:
        with closing(raw_silence()) as listening:
            target = WebhookTarget("silent", f"http://127.0.0.1:{listening.getsockname()[1]}/")
            with pytest.raises(Undelivered, match="did not answer in time"):
                send(event, target, deadlines, **options)
        return
    first = b"HTTP/1.1 200 OK\r\n" if drips.startswith(b"a") else b""
    with scripted(first, drips=drips) as port:
        target = WebhookTarget("dripping", f"http://127.0.0.1:{port}/")
        with pytest.raises(Undelivered):
            send(event, target, deadlines, **options)


def test_the_environment_adds_no_proxy(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with webhook() as hook:
        deliver(section(hook.url), deadlines)
    assert len(hook.requests) == 1


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ({"url": "http://example.org/"}, "plain HTTP beyond loopback"),
        ({"url": "https://user:pw@example.org/"}, "is no address"),
        ({"url": "https://example.org/?token=x"}, "has a query"),
        ({"url": "https://example.org/********"}, "asterisks"),
        ({"url": "https://example.org:99999/"}, "port that does not exist"),
        ({"url": "file:///etc/passwd"}, "is no address"),
        ({"url": "https://example.org/\r\nX: y"}, "is no address"),
        ({}, "`url` or `url_file`"),
        ({"url": "https://example.org/", "url_file": "/x"}, "`url` or `url_file`"),
    ],
)
def test_an_address_that_is_none_is_refused(hook: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match="webhooks") as caught:
        NotifySection.model_validate({"webhooks": [hook]}, strict=False)
    assert words in str(caught.value)
    if "pw" in hook.get("url", ""):
        assert "pw" not in str(caught.value)


def test_plain_http_is_for_loopback_or_where_it_is_permitted() -> None:
    for url in ("http://127.0.0.1:1/", "http://[::1]:1/", "http://localhost/x"):
        section(url)
    section("http://example.org/", insecure=True)
    with pytest.raises(ValueError, match="two webhooks called example"):
        NotifySection.model_validate(
            {"webhooks": [{"url": "https://example.org/a"}, {"url": "https://example.org/b"}]}, strict=False
        )
