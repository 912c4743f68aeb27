"""TLS for associations after BCP 195 (RFC 8996, RFC 9325; PS3.15 B.12): 1.2 and 1.3, mutual where wanted.

Contract: a context is made anew from the files at every reload; associations under way keep theirs.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Final

from listener.foundation.errors import SourceUnusable

if TYPE_CHECKING:
    from listener.settings.listener import TLSSection

CIPHERS_1_2: Final = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""Forward secrecy and authenticated encryption only (RFC 9325 4.2); TLS 1.3 has nothing else."""


def server_context(settings: TLSSection, section: str = "listener.tls") -> ssl.SSLContext:
    """A context for the server's side; `section` is where the configuration names its files.

    Raises:
        SourceUnusable: A file is missing or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[settings.minimum_version]
    context.set_ciphers(CIPHERS_1_2)
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        if settings.client_ca is not None:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise SourceUnusable(
            f"the TLS files of `{section}` cannot be used ({error.strerror or error}): "
            f"certificate {settings.certificate}, key {settings.key or 'in the same file'}, "
            f"client_ca {settings.client_ca or 'none'}"
        ) from error
    return context


def days_left(settings: TLSSection, now: float | None = None) -> float:
    """Days until the certificate expires, negative where it has.

    Raises:
        SourceUnusable: The certificate cannot be read.
    """
    try:
        # There is no public way in the standard library to read the validity of one's own certificate.
        found = ssl._ssl._test_decode_cert(str(settings.certificate))  # type: ignore[attr-defined]  # noqa: SLF001
    except (OSError, ssl.SSLError) as error:
        raise SourceUnusable(f"the certificate {settings.certificate} cannot be read") from error
    expires = ssl.cert_time_to_seconds(found["notAfter"])
    return (expires - (time.time() if now is None else now)) / 86_400
