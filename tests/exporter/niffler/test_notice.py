"""The e-mail at the end: Niffler's own on success, counts on failure, to a real mail server."""

from __future__ import annotations

import email
import email.policy
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller

from exporter.settings.notify import is_address
from tests.exporter.niffler.making import configuration, extract, mixed_home, small_home
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from email.message import EmailMessage
    from pathlib import Path


class Mailbox:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[str] = []
        self.answer = "250 OK"

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        self.messages.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        self.recipients += envelope.rcpt_tos
        return self.answer


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, str]]:
    """A mail server and its address."""
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=free_port())
    controller.start()
    yield box, f"127.0.0.1:{controller.port}"
    controller.stop()


def test_a_success_has_the_subject_and_the_text_of_niffler(tmp_path: Path, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    config = configuration(
        tmp_path / "config.json", small_home(tmp_path / "home"), tmp_path / "out", SendEmail="true", PrintImages=False
    )
    extract(config, "--mail-server", server)
    (message,) = box.messages
    assert message["Subject"] == "The image conversion has been complete"
    assert message.get_content().strip() == "Niffler has successfully completed the png conversion"
    assert message["To"] == "test@test.test"
    assert box.recipients == ["test@test.test"]


def test_a_failure_has_counts_by_reason_and_no_file(tmp_path: Path, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    config = configuration(tmp_path / "config.json", mixed_home(tmp_path / "home"), tmp_path / "out", SendEmail=True)
    extract(config, "--mail-server", server, expect=3)
    (message,) = box.messages
    assert message["Subject"] == "The image conversion has failed"
    text = message.get_content()
    assert text.splitlines() == [
        "Files converted: 4",
        "Files that failed: 3",
        "  corrupt_pixels: 1",
        "  not_dicom: 2",
    ]


def test_a_run_that_ends_early_is_told_too(tmp_path: Path, mailbox: tuple[Mailbox, str]) -> None:
    box, server = mailbox
    config = configuration(
        tmp_path / "config.json", small_home(tmp_path / "home"), tmp_path / "out", SendEmail=True, Depth=5
    )
    extract(config, "--mail-server", server, expect=2)
    assert box.messages[0]["Subject"] == "The image conversion has failed"
    assert "ended before it was complete" in box.messages[0].get_content()


@pytest.mark.parametrize("answer", ["", "554 no"])
def test_a_server_that_does_not_take_it_costs_a_sentence(
    tmp_path: Path, mailbox: tuple[Mailbox, str], answer: str
) -> None:
    box, server = mailbox
    box.answer = answer
    config = configuration(
        tmp_path / "config.json", small_home(tmp_path / "home"), tmp_path / "out", SendEmail=True, PrintImages=False
    )
    said = extract(config, "--mail-server", server if answer else f"127.0.0.1:{free_port()}")
    assert "did not take the mail" in said
    assert (tmp_path / "out/metadata.csv").is_file()


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a.b+c@host.example", True),
        ("me@localhost", True),
        ("a@b.c, d@e.f", False),
        ("a@b.c\nBcc: d@e.f", False),
        ("Name <a@b.c>", False),
        ("a b@c.d", False),
        ("a@b;c", False),
        ("@b.c", False),
        ("", False),
    ],
)
def test_an_address_is_one_bare_address(text: str, is_one: bool) -> None:
    assert is_address(text) is is_one
