"""Real peers beyond storing: C-ECHO and odd associations. What they store is compared in `test_byte_identity`."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.listener.sources.dimse import further_senders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.listener.requestor import Receiver

USER = {"type": 2, "positiveResponseRequested": True, "primaryField": "somebody", "secondaryField": "secret"}
WINDOW = {"maxAsyncOpsInvoked": 5, "maxAsyncOpsPerformed": 5}


def test_an_echo_of_dcmtk_is_answered_whatever_title_it_calls_by_default(
    receiver: Receiver, peer: Callable[[str], str]
) -> None:
    done = subprocess.run([peer("echoscu"), "127.0.0.1", str(receiver.port)], timeout=100, check=False)
    assert done.returncode == 0


def test_an_echo_of_gdcm_is_answered(receiver: Receiver, peer: Callable[[str], str]) -> None:
    further_senders.run([peer("gdcmscu"), "--echo", "--call", "EXPORTER", "127.0.0.1", str(receiver.port)])
    receiver.wait_for("associations_released")  # it crashes after that, whoever answers it
    assert receiver.count("echoes") == 1


@pytest.mark.parametrize("role", ["SCU", "SCUSCP"])
def test_every_echo_of_ctn_is_answered_whatever_role_beside_scu_it_asks_for(
    receiver: Receiver, peer: Callable[[str], str], role: str
) -> None:
    command = [peer("dicom_echo"), "-m", role, "-r", "3", "-n", "2", "-c", "EXPORTER"]
    printed = further_senders.run([*command, "127.0.0.1", str(receiver.port)])
    assert printed.count("Verification Status:     0000") == 6
    receiver.wait_for("echoes", 6)


@pytest.mark.parametrize("more", [(), ("--user", "somebody")])
def test_an_echo_of_odil_is_answered_with_and_without_a_user(receiver: Receiver, more: tuple[str, ...]) -> None:
    assert further_senders.odil_run(receiver.port, "EXPORTER", *more) == "echo\t0\n"
    receiver.wait_for("associations_released")


def test_an_echo_of_pixelmed_that_names_a_user_is_answered(receiver: Receiver, peer: Callable[[str], str]) -> None:
    command = further_senders.pixelmed_command(peer, "VerificationSOPClassSCU")
    arguments = ["127.0.0.1", str(receiver.port), "EXPORTER", "PIXELMED", "NONSECURE", "somebody", "secret"]
    further_senders.run([*command, *arguments])
    receiver.wait_for("associations_released")
    assert receiver.count("echoes") == 1


@pytest.mark.parametrize("options", [{}, {"userIdentity": USER, "asyncOps": WINDOW}], ids=["plain", "user and window"])
@pytest.mark.parametrize("encrypted", [False, True], ids=["", "TLS"])
def test_an_echo_of_dcmjs_is_answered_whatever_it_negotiates(
    receive: Callable[..., Receiver],
    certificate: Path,
    peer: Callable[[str], str],
    options: dict[str, object],
    encrypted: bool,
) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate)}} if encrypted else {})
    printed = further_senders.dcmjs_run(peer, receiver.port, "EXPORTER", [], tls=encrypted, **options)
    assert printed == "echo\t0\n"
    receiver.wait_for("associations_released")


@pytest.mark.parametrize("encrypted", [False, True], ids=["", "TLS"])
def test_an_echo_of_pynetdicom2_is_answered_though_it_pads_titles_with_zeros(
    receive: Callable[..., Receiver], certificate: Path, encrypted: bool
) -> None:
    tls = {"tls": {"certificate": str(certificate)}} if encrypted else {}
    listed = [{"ae_title": "PYNETDICOM2", "networks": ["127.0.0.0/8"]}]
    receiver = receive(listener={"peers": listed, **tls})
    assert further_senders.pynetdicom2_run(receiver.port, "EXPORTER", [], encrypted=encrypted) == "echo\t0\n"
    receiver.wait_for("associations_released")


def test_a_request_of_gdcm_without_presentation_contexts_is_aborted_as_dcmtk_does_and_the_next_is_served(
    receiver: Receiver, peer: Callable[[str], str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(bytes(132))
    program, port = peer("gdcmscu"), str(receiver.port)
    further_senders.run([program, "--store", "--call", "EXPORTER", "-i", str(broken), "127.0.0.1", port])
    receiver.wait_for("associations_protocol_error")
    further_senders.run([program, "--echo", "--call", "EXPORTER", "127.0.0.1", port])
    receiver.wait_for("echoes")
