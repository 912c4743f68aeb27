"""E-mail to real mail servers: with TLS, refused, put off, hanging, cut off; and nothing that a text can add to it."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import closing
from email.header import decode_header, make_header
from typing import TYPE_CHECKING, Any

import pytest

from exporter.notifications.destinations import destinations_of, tls_context
from exporter.notifications.events import Event
from exporter.notifications.mail import MailServer, Undelivered, message_of, post
from exporter.settings.notify import NotifySection
from tests.exporter.notifications.peers import mail_server, raw_silence, scripted
from tests.listener.certificates import make_certificate
from tests.ports import free_port

if TYPE_CHECKING:
    from email.message import EmailMessage
    from pathlib import Path

    from listener.network.deadlines import Deadlines

TO = "ops@example.org"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificates"), "localhost")


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    path.chmod(0o600)
    return path


def section(port: int, **mail: Any) -> NotifySection:
    said = {"to": [TO], "host": "localhost", "port": port, "security": "none"} | mail
    return NotifySection.model_validate({"name": "CT room", "mail": said}, strict=False)


def deliver(found: NotifySection, deadlines: Deadlines, event: Event | None = None) -> None:
    (destination,) = destinations_of(found, "1.0")
    destination.deliver(event or Event.now("test", "A test."), deadlines)


def plain(to: str = TO) -> EmailMessage:
    return message_of(to, "subject", ["line"])


def test_a_mail_says_what_happened_what_to_do_and_which_event_it_is(deadlines: Deadlines) -> None:
    event = Event.now("failures", "1,000 instances failed.", "See why.", failed=1000, by_reason={"timeout": 7})
    with mail_server() as box:
        deliver(section(box.port, sender="exporter@example.org"), deadlines, event)
    (mail,) = box.messages
    assert mail["Subject"] == "[CT room] 1,000 instances failed."
    assert (mail["From"], mail["To"]) == ("exporter@example.org", TO)
    assert mail["Message-ID"] == f"<{event.id}@example.org>"
    assert (mail["X-Event-ID"], mail["Auto-Submitted"]) == (event.id, "auto-generated")
    text = mail.get_content().replace("\r\n", "\n")
    assert text.startswith("1,000 instances failed.\nSee why.\n")
    assert "failed: 1000\n" in text
    assert "    timeout: 7\n" in text


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_goes_over_tls_after_the_certificate_was_checked(
    security: str, deadlines: Deadlines, certificate: Path, password: Path
) -> None:
    options = {"security": security, "username": "exporter", "password_file": str(password)}
    with mail_server(certificate, security=security, asks=security == "starttls") as box:
        with pytest.raises(Undelivered, match="its certificate is not accepted"):
            deliver(section(box.port, **options), deadlines)
        assert box.logins == []
        if security == "tls":
            del options["username"], options["password_file"]
        deliver(section(box.port, ca_file=str(certificate), **options), deadlines)
        deliver(section(box.port, insecure=True, **options), deadlines)
        with pytest.raises(Undelivered, match="its certificate is not accepted"):  # another host's
            deliver(section(box.port, host="127.1", ca_file=str(certificate), **options), deadlines)
    assert len(box.messages) == 2
    assert box.logins == ([("exporter", "open sesame", True)] * 2 if security == "starttls" else [])


def test_a_server_without_starttls_gets_neither_password_nor_mail(deadlines: Deadlines, password: Path) -> None:
    with mail_server() as box, pytest.raises(Undelivered, match="it does not offer STARTTLS"):
        deliver(section(box.port, security="starttls", username="exporter", password_file=str(password)), deadlines)
    assert box.logins == box.messages == []


def test_what_somebody_adds_before_tls_begins_is_not_taken_for_an_answer(
    deadlines: Deadlines, certificate: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening.accept()[0] as plain_text:
            reader = plain_text.makefile("rb")
            plain_text.sendall(b"220 hello\r\n")
            reader.readline()
            plain_text.sendall(b"250-hello\r\n250 STARTTLS\r\n")
            reader.readline()
            plain_text.sendall(b"220 go\r\n250 added by somebody\r\n")
            with context.wrap_socket(plain_text, server_side=True) as secured:
                secret = secured.makefile("rb")
                answers = iter((b"250 hello\r\n", b"250 sender\r\n", b"550 recipient\r\n"))
                while secret.readline():
                    secured.sendall(next(answers, b"250 reset\r\n"))

    thread = threading.Thread(target=serve)
    thread.start()
    port = listening.getsockname()[1]
    with closing(listening), pytest.raises(Undelivered, match="it refuses the recipient: 550 recipient"):
        deliver(section(port, security="starttls", ca_file=str(certificate)), deadlines)
    thread.join(100)


def test_a_wrong_password_is_a_sentence_that_does_not_show_it(
    deadlines: Deadlines, certificate: Path, password: Path
) -> None:
    password.write_text("wrong secret\n")
    options = {"security": "starttls", "username": "exporter", "password_file": str(password)}
    with mail_server(certificate, security="starttls", asks=True) as box, pytest.raises(Undelivered) as caught:
        deliver(section(box.port, ca_file=str(certificate), **options), deadlines)
    assert "refuses user name or password" in str(caught.value)
    assert "wrong secret" not in str(caught.value)


def test_a_password_that_others_can_read_is_not_used(deadlines: Deadlines, password: Path) -> None:
    password.chmod(0o640)
    with pytest.raises(Undelivered, match=r"notify\.mail\.password_file.*others can read.*chmod 600"):
        deliver(section(free_port(), username="exporter", password_file=str(password)), deadlines)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("451 busy", "it answers 451 busy"),
        ("554 5.7.1 no", "it answers 554 5.7.1 no"),
        ("550 \x1b[31m", r"550 \x1b[31m"),
    ],
)
def test_a_refusal_is_a_sentence_and_the_next_attempt_is_taken(answer: str, words: str, deadlines: Deadlines) -> None:
    with mail_server() as box:
        box.answers.append(answer)
        with pytest.raises(Undelivered) as caught:
            deliver(section(box.port), deadlines)
        assert words in str(caught.value)
        deliver(section(box.port), deadlines)
    assert len(box.messages) == 1


def test_a_cut_in_data_and_a_server_that_is_not_there_are_sentences(deadlines: Deadlines) -> None:
    answers = (b"220 hello\r\n", b"250 hello\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    with scripted(*answers) as port, pytest.raises(Undelivered, match=r"ended the connection|reset|pipe"):
        post(plain(), MailServer("127.0.0.1", port), deadlines)
    with pytest.raises(Undelivered, match="Connection refused"):
        post(plain(), MailServer("127.0.0.1", free_port()), deadlines)
    with pytest.raises(Undelivered, match="its name resolves to nothing"):
        post(plain(), MailServer("nowhere.invalid", 25), deadlines)


def test_a_mail_that_was_taken_is_delivered_even_if_the_server_then_hangs_up(deadlines: Deadlines) -> None:
    answers = [b"220 hello\r\n", b"250 hello\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    text = plain().as_bytes().count(b"\n") + 1  # lines of the mail, and the dot
    with scripted(*answers, *[b""] * (text - 1), b"250 taken\r\n") as port:
        post(plain(), MailServer("127.0.0.1", port), deadlines)


@pytest.mark.parametrize("drips", [b"", b"2", b"220-\r\n"])
def test_a_server_that_hangs_or_drips_is_left_in_time(drips: bytes, deadlines: Deadlines) -> None:
    if not drips:
        with closing(raw_silence()) as listening, pytest.raises(Undelivered, match="did not answer in time"):
            post(plain(), MailServer("127.0.0.1", listening.getsockname()[1]), deadlines, within_s=0.5)
        return
    with scripted(b"", drips=drips) as port, pytest.raises(Undelivered, match="did not answer in time"):
        post(plain(), MailServer("127.0.0.1", port), deadlines, within_s=0.5)


def test_a_handshake_that_never_ends_is_left_in_time(deadlines: Deadlines) -> None:
    context = tls_context(None, "", insecure=False)
    with closing(raw_silence()) as listening:
        server = MailServer("localhost", listening.getsockname()[1], "tls", context)
        with pytest.raises(Undelivered, match="did not answer in time"):
            post(plain(), server, deadlines, within_s=0.5)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


HOSTILE = "CT1\r\nBcc: evil@example.org\r\n\r\n.\r\nMAIL FROM:<evil>\n\u2028\x00\u202e\udc80"


def test_nothing_in_a_text_begins_a_header_a_line_or_a_command(deadlines: Deadlines) -> None:
    event = Event.now("source_silent", HOSTILE, HOSTILE, source=HOSTILE, by={HOSTILE: 1})
    with mail_server() as box:
        found = section(box.port)
        deliver(found.model_copy(update={"name": HOSTILE}), deadlines, event)
    (mail,), (raw,) = box.messages, box.raw
    assert len(box.messages) == 1
    assert set(mail.keys()) >= {"From", "To", "Subject"}
    assert "Bcc" not in mail
    subject = str(make_header(decode_header(mail["Subject"])))
    assert subject.isprintable()
    text = mail.get_content()
    assert all(line.isprintable() for line in text.splitlines())
    assert not re.search(rb"(?im)^(bcc:|mail from)", raw)


@pytest.mark.parametrize(
    ("mail", "words"),
    [
        ({"to": []}, "names nobody"),
        ({"to": ["a@b.c, d@e.f"]}, "is no e-mail address"),
        ({"to": ["a@b.c\r\nBcc: d@e.f"]}, "is no e-mail address"),
        ({"sender": "Name <a@b.c>"}, "is no e-mail address"),
        ({"host": "smtp.example.org:25"}, "is not spelled as it must be"),
        ({"host": "smtp.example.org"}, "what others can read"),
        ({"host": "smtp.example.org", "insecure": True, "username": "u", "password_file": "/p"}, "over TLS only"),
        ({"username": "u"}, "belong together"),
    ],
)
def test_a_section_that_cannot_work_or_shows_a_password_is_refused(mail: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="mail") as caught:
        section(25, **mail)
    assert words in str(caught.value)


def test_every_address_gets_a_mail_of_its_own() -> None:
    found = section(25, to=["a@example.org", "b@example.org", "a@example.org"])
    assert [one.name for one in destinations_of(found, "1.0")] == ["mail a@example.org", "mail b@example.org"]
