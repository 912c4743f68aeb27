"""Webhooks: one event as JSON in a POST request, signed. The boundary to urllib3, whose errors all end here.

Contract: `send` returns after an answer 2xx and raises `Undelivered` otherwise, in `WITHIN_S` whatever the server does.
No redirect is followed, no proxy of the environment is used, no byte of an answer's body is read. The body is the same
in every attempt; the time stamp, and so the signature, is that of the attempt.

Source: Standard Webhooks (standardwebhooks.com): the signature is the HMAC-SHA256 (RFC 2104) of id, time stamp and
body, joined by dots, in base64 after ``v1,``.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import urllib3
import urllib3.exceptions

from exporter.notifications.mail import Undelivered, reason_of
from listener.network.deadlines import bounded_pool

if TYPE_CHECKING:
    import ssl

    from exporter.notifications.events import Event
    from listener.network.deadlines import Deadlines

WITHIN_S: Final = 30.0
STEP_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class WebhookTarget:
    """An address, and how it is spoken to."""

    label: str
    """What logs and lists call it: the address may be a secret."""
    url: str
    context: ssl.SSLContext | None = None
    secret: bytes | None = None
    """Of the signature; None signs nothing."""


def signature(secret: bytes, event: str, stamp: str, body: bytes) -> str:
    """The value of `webhook-signature`."""
    signed = f"{event}.{stamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode('ascii')}"


def send(
    event: Event,
    target: WebhookTarget,
    deadlines: Deadlines,
    *,
    installation: str,
    version: str,
    within_s: float = WITHIN_S,
) -> None:
    """Post an event to an address.

    Raises:
        Undelivered: The server cannot be reached, is not the one that is meant, or does not take the event.
    """
    body = json.dumps(event.as_json(installation, version), separators=(",", ":"), sort_keys=False).encode()
    stamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "dicom-media-exporter",
        "Accept-Encoding": "identity",
        "webhook-id": event.id,
        "webhook-timestamp": stamp,
    }
    if target.secret is not None:
        headers["webhook-signature"] = signature(target.secret, event.id, stamp, body)
    with deadlines.within(within_s) as limit:
        try:
            status = _status(target, body, headers, deadlines)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            why = "it did not answer in time" if limit.expired else _why(error)
        else:
            if 200 <= status < 300 and not limit.expired:
                return
            why = "it did not answer in time" if limit.expired else f"it answers with status {status}"
            if 300 <= status < 400:
                why = f"it redirects (status {status}), which is not followed: name the address itself"
    raise Undelivered(f"the webhook {target.label} did not take the event: {why}")


def _status(target: WebhookTarget, body: bytes, headers: dict[str, str], deadlines: Deadlines) -> int:
    """Status of the answer; the connection is closed whatever else was to come."""
    url = urllib3.util.parse_url(target.url)
    timeout = urllib3.Timeout(connect=STEP_S, read=STEP_S)
    options = {"host": url.host, "port": url.port, "timeout": timeout, "retries": False, "maxsize": 1}
    if url.scheme == "https":
        pool = bounded_pool(deadlines, urllib3.HTTPSConnectionPool, ssl_context=target.context, **options)
    else:
        pool = bounded_pool(deadlines, urllib3.HTTPConnectionPool, **options)
    try:
        answer = pool.urlopen(
            "POST", url.request_uri, body, headers, redirect=False, preload_content=False, decode_content=False
        )
        status = int(answer.status)
        answer.close()
    finally:
        pool.close()
    return status


def _why(error: Exception) -> str:
    """What an error of urllib3 means, as part of a sentence."""
    cause: BaseException | None = error
    while cause is not None and isinstance(cause, urllib3.exceptions.HTTPError):
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return "its name resolves to nothing"
        # A refused connection is one of its kinds, too, and says so in its cause.
        is_refused = isinstance(cause, urllib3.exceptions.NewConnectionError)
        if isinstance(cause, urllib3.exceptions.TimeoutError) and not is_refused:
            return "it did not answer in time"
        below = cause.__cause__ or next((part for part in cause.args if isinstance(part, Exception)), None)
        if below is None or below is cause:
            break
        cause = below
    if isinstance(cause, Exception) and not isinstance(cause, urllib3.exceptions.HTTPError):
        return reason_of(cause)
    return "the connection broke"
