"""Transport security: what is spoken, what is refused, what changes with a reload."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from listener.foundation.errors import SourceUnusable
from listener.network.tls import days_left, server_context
from listener.settings.listener import TLSSection
from tests.listener.certificates import make_certificate, make_expired_certificate
from tests.listener.requestor import CT, EXPLICIT, Requestor, item, proposed, request, user_information
from tests.listener.well_behaved import WellBehaved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.listener.requestor import Receiver


class EncryptedRequestor(Requestor):
    """A requestor over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        except OSError:
            self.sock.close()
            raise


def trusting(certificate: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificate))
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_instances_arrive_over_tls(
    receive: Callable[..., Receiver], certificate: Path, version: ssl.TLSVersion
) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate)}})
    with EncryptedRequestor(receiver.port, trusting(certificate, version)) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0
        assert requestor.release() == 6
    meta = pydicom.dcmread(receiver.new()[0]).file_meta
    assert meta.ReceivingPresentationAddress == f"dicoms://127.0.0.1:{receiver.port}"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_old_versions_are_refused(receive: Callable[..., Receiver], certificate: Path, version: ssl.TLSVersion) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate)}})
    context = trusting(certificate, version)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(OSError, match=r"(?i)ssl|reset|eof"):
        EncryptedRequestor(receiver.port, context)
    receiver.wait_for("associations_tls_handshake_failed")


def test_plain_dicom_on_the_tls_port_gets_nothing(receive: Callable[..., Receiver], certificate: Path) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate)}})
    with receiver.requestor() as requestor:
        assert requestor.associate()[0] not in (2, 3)


def test_only_clients_with_a_certificate_of_the_right_authority_get_in(
    receive: Callable[..., Receiver], certificate: Path, tmp_path: Path
) -> None:
    authority, other = make_certificate(tmp_path, "authority"), make_certificate(tmp_path, "other")
    receiver = receive(listener={"tls": {"certificate": str(certificate), "client_ca": str(authority)}})
    good = trusting(certificate)
    good.load_cert_chain(make_certificate(tmp_path, "client", signed_by=authority))
    with EncryptedRequestor(receiver.port, good) as requestor:
        assert requestor.associate()[0] == 2
    bad = trusting(certificate)
    bad.load_cert_chain(make_certificate(tmp_path, "stranger", signed_by=other))
    for context in (bad, trusting(certificate)):
        with pytest.raises((OSError, AssertionError)), EncryptedRequestor(receiver.port, context) as requestor:
            assert requestor.associate()[0] == 2
    receiver.wait_for("associations_tls_handshake_failed", 2)


def test_f24_a_client_whose_certificate_has_expired_stays_outside(
    receive: Callable[..., Receiver], certificate: Path, tmp_path: Path
) -> None:
    authority = make_certificate(tmp_path, "authority")
    receiver = receive(listener={"tls": {"certificate": str(certificate), "client_ca": str(authority)}})
    context = trusting(certificate)
    context.load_cert_chain(make_expired_certificate(tmp_path, "old", signed_by=authority))
    with pytest.raises((OSError, AssertionError)), EncryptedRequestor(receiver.port, context) as requestor:
        assert requestor.associate()[0] == 2
    receiver.wait_for("associations_tls_handshake_failed")
    good = trusting(certificate)
    good.load_cert_chain(make_certificate(tmp_path, "client", signed_by=authority))
    with EncryptedRequestor(receiver.port, good) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0


def test_f24_our_own_expired_certificate_is_told_of_and_still_serves_who_does_not_mind(
    receive: Callable[..., Receiver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expired = make_expired_certificate(tmp_path, "old")
    receiver = receive(listener={"tls": {"certificate": str(expired)}})
    with pytest.raises(OSError, match="expired"):
        EncryptedRequestor(receiver.port, trusting(expired))
    careless = ssl.create_default_context()
    careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
    with EncryptedRequestor(receiver.port, careless) as requestor:
        assert requestor.associate()[0] == 2
        assert requestor.store().status == 0
    assert "certificate has expired" in "".join(capsys.readouterr())


def test_f24_whatever_others_do_on_the_tls_port_a_good_client_is_served(
    receive: Callable[..., Receiver], certificate: Path, tmp_path: Path
) -> None:
    """Silence, half a hello, plain DICOM, HTTP, garbage; certificates of strangers, expired ones, and none."""
    authority, other = make_certificate(tmp_path, "authority"), make_certificate(tmp_path, "other")
    receiver = receive(
        listener={
            "tls": {"certificate": str(certificate), "client_ca": str(authority), "handshake_s": 1.5},
            "limits": {"max_associations_per_peer": 40},
        }
    )
    good = trusting(certificate)
    good.load_cert_chain(make_certificate(tmp_path, "client", signed_by=authority))
    bad = [trusting(certificate) for _ in range(3)]
    bad[0].load_cert_chain(make_certificate(tmp_path, "stranger", signed_by=other))
    bad[1].load_cert_chain(make_expired_certificate(tmp_path, "old", signed_by=authority))
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    openings = [b"", hello, request(proposed(1, CT, EXPLICIT)), b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 8]
    with WellBehaved(lambda: EncryptedRequestor(receiver.port, good)), ExitStack() as stack:
        for number in range(30):
            silent = stack.enter_context(Requestor(receiver.port, source="127.0.0.2"))
            silent.send(openings[number % len(openings)])
            with suppress(OSError), EncryptedRequestor(receiver.port, bad[number % 3]) as requestor:
                assert requestor.associate()[0] != 2, "a client that must stay outside got in"
        receiver.wait_for("associations_tls_handshake_failed", 30, within_s=100)


def test_a_reload_takes_the_new_certificate(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    used = tmp_path / "used.pem"
    used.write_bytes(first.read_bytes())
    receiver = receive(listener={"tls": {"certificate": str(used)}})
    with EncryptedRequestor(receiver.port, trusting(first)) as requestor:
        requestor.associate()
        used.write_bytes(second.read_bytes())
        receiver.daemon.reload(receiver.settings)
        with EncryptedRequestor(receiver.port, trusting(second)) as other:
            assert other.associate()[0] == 2
        assert requestor.store().status == 0  # an association under way keeps what it has


def test_a_reload_with_a_broken_certificate_keeps_the_old_one(receive: Callable[..., Receiver], tmp_path: Path) -> None:
    first = make_certificate(tmp_path, "first")
    used = tmp_path / "used.pem"
    used.write_bytes(first.read_bytes())
    receiver = receive(listener={"tls": {"certificate": str(used)}})
    used.write_text("no certificate")
    receiver.daemon.reload(receiver.settings)
    with EncryptedRequestor(receiver.port, trusting(first)) as requestor:
        assert requestor.associate()[0] == 2


def test_days_until_expiry_are_known(tmp_path: Path) -> None:
    settings = TLSSection(certificate=make_certificate(tmp_path, "short", days=20))
    assert 18.9 < days_left(settings) <= 20.1


def test_a_certificate_that_expires_soon_is_warned_of(
    receive: Callable[..., Receiver], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = make_certificate(tmp_path, "short", days=20)
    receiver = receive(listener={"tls": {"certificate": str(certificate)}})
    with EncryptedRequestor(receiver.port, trusting(certificate)) as requestor:
        requestor.associate()
    assert "certificate expires soon" in "".join(capsys.readouterr())


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceUnusable, match=r"certificate .*absent\.pem"):
        server_context(TLSSection(certificate=tmp_path / "absent.pem"))


def identity(kind: int, name: bytes, passcode: bytes = b"", *, response: bool = True) -> bytes:
    fields = bytes((kind, response)) + struct.pack(">H", len(name)) + name + struct.pack(">H", len(passcode)) + passcode
    return user_information(item(0x58, fields))


@pytest.mark.parametrize(
    ("user", "accepted"),
    [
        (identity(2, b"anna", b"secret"), True),
        (identity(2, b"anna", b"wrong"), False),
        (identity(1, b"anna"), False),
        (identity(1, b"guest"), True),
        (identity(5, b"token"), False),
        (None, False),
    ],
)
def test_a_user_identity_counts_over_tls(
    receive: Callable[..., Receiver], certificate: Path, tmp_path: Path, user: bytes | None, accepted: bool
) -> None:
    passcode = tmp_path / "passcode"
    passcode.write_text("secret\n")
    users: list[dict[str, Any]] = [{"name": "anna", "passcode_file": str(passcode)}, {"name": "guest"}]
    receiver = receive(listener={"tls": {"certificate": str(certificate)}, "users": users})
    with EncryptedRequestor(receiver.port, trusting(certificate)) as requestor:
        kind, body = requestor.associate(proposed(1, CT, EXPLICIT), user=user)
        assert kind == (2 if accepted else 3)
        assert body == bytes((0, 1, 1, 1)) if not accepted else item(0x59, b"\0\0") in body


def test_an_identity_nobody_asked_for_is_accepted_without_a_positive_response(receiver: Receiver) -> None:
    with receiver.requestor() as requestor:
        kind, body = requestor.associate(user=identity(2, b"anybody", b"anything"))
        assert kind == 2
        assert item(0x59, b"\0\0") not in body


def test_a_silent_client_costs_one_thread_and_its_deadline(receive: Callable[..., Receiver], certificate: Path) -> None:
    receiver = receive(listener={"tls": {"certificate": str(certificate), "handshake_s": 0.5}})
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as sock:
        assert sock.recv(1) == b""
    receiver.wait_for("associations_tls_handshake_failed")


def test_silent_handshakes_make_room_for_a_sender(receive: Callable[..., Receiver], certificate: Path) -> None:
    receiver = receive(
        listener={"tls": {"certificate": str(certificate), "handshake_s": 20.0}, "limits": {"max_associations": 5}}
    )
    silent = [Requestor(receiver.port, source="127.0.0.2") for _ in range(5)]
    try:
        with EncryptedRequestor(receiver.port, trusting(certificate)) as requestor:
            assert requestor.associate()[0] == 2
        assert silent[0].is_closed()
    finally:
        for one in silent:
            one.sock.close()
