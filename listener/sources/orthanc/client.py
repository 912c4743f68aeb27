"""HTTP with one Orthanc server: the boundary to urllib3, whose errors all end here.

Contract: every request has a deadline for the whole of it, every answer a length that is known before it is read. No
redirect is followed, no proxy of the environment is used, no compressed answer is taken. Paths are made by our own code
only. Raises nothing but `OrthancTrouble`; a resource that is not there is None.

Must never: show credentials in a message, or send them to another host than that of the configuration.
"""

from __future__ import annotations

import email.utils
import ssl
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import urllib3
import urllib3.exceptions

from listener.foundation.errors import SourceUnusable
from listener.network.deadlines import Deadlines, bounded_pool
from listener.sources.orthanc.troubles import (
    AnswerTooSlow,
    BadAnswer,
    BadStatus,
    Busy,
    CredentialsRefused,
    CutOff,
    NotTrusted,
    OrthancTrouble,
    Redirected,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from listener.network.deadlines import Limit
    from listener.settings.orthanc import OrthancSection

PIECE_BYTES: Final = 256 << 10
MOST_CREDENTIAL_BYTES: Final = 4096
LONGEST_RETRY_AFTER_S: Final = 3600.0
DEFAULT_CREDENTIALS: Final = "orthanc:orthanc"


class Body:
    """The body of one answer, in pieces as they come."""

    def __init__(self, response: urllib3.BaseHTTPResponse, limit: Limit, least_bytes_per_s: int) -> None:
        self._response = response
        self._limit = limit
        self._rate = least_bytes_per_s
        self.length = _length(response)
        """Length in bytes that the server announced; None where it did not."""

    def pieces(self, most_bytes: int) -> Iterator[bytes]:
        """The bytes; each piece received moves the deadline by what it may take at the least rate.

        What the caller does between two pieces is not held against the server.

        Raises:
            OrthancTrouble: It is longer than `most_bytes`, or ends too early, or too late.
        """
        if self.length is not None and self.length > most_bytes:
            raise BadAnswer(f"the answer says it has {self.length} bytes, at most {most_bytes} were expected")
        received = 0
        while piece := self._response.read1(PIECE_BYTES, decode_content=False):
            received += len(piece)
            if received > most_bytes:
                raise BadAnswer(f"the answer is longer than the {most_bytes} bytes that were expected")
            before = time.monotonic()
            yield piece
            self._limit.until += time.monotonic() - before + len(piece) / self._rate


class OrthancClient:
    """Requests to one server; safe for use by many threads."""

    def __init__(self, settings: OrthancSection) -> None:
        """Read certificates and credentials; nothing is sent yet.

        Raises:
            SourceUnusable: A file of the configuration cannot be used.
        """
        self._settings = settings
        self._url = urllib3.util.parse_url(settings.url)
        self.deadlines = Deadlines("orthanc-deadlines")
        self._pool = self._make_pool()
        self._headers: dict[str, str] = {}
        self.credentials_are_default = False
        try:
            self.read_credentials()
        except CredentialsRefused as error:
            raise SourceUnusable(str(error)) from error

    def close(self) -> None:
        """Break what is under way and close every connection."""
        self.deadlines.stop()
        self._pool.close()

    def read_credentials(self) -> None:
        """Take the credentials from their file as it is now.

        Raises:
            CredentialsRefused: The file does not hold any.
        """
        path = self._settings.credentials_file
        headers = {"Accept-Encoding": "identity", "User-Agent": "dicom-media-exporter"}
        if path is not None:
            credentials = _credentials(path)
            self.credentials_are_default = credentials == DEFAULT_CREDENTIALS
            headers |= urllib3.make_headers(basic_auth=credentials)
        self._headers = headers

    def get(self, path: str, most_bytes: int, *, anonymous: bool = False) -> bytes | None:
        """A short answer as a whole; None where there is no such resource.

        Args:
            path: Below the server's address; of our own making.
            most_bytes: The longest answer that is read.
            anonymous: Without credentials.

        Raises:
            OrthancTrouble: No such answer.
        """
        with self.open(path, anonymous=anonymous) as body:
            return None if body is None else b"".join(body.pieces(most_bytes))

    def delete(self, path: str) -> bool:
        """Delete a resource.

        Returns:
            Whether it was there.

        Raises:
            OrthancTrouble: It may still be there.
        """
        with self.open(path, method="DELETE") as body:
            if body is not None:
                for _ in body.pieces(1 << 20):
                    pass
            return body is not None

    @contextmanager
    def open(self, path: str, *, method: str = "GET", anonymous: bool = False) -> Iterator[Body | None]:
        """One request, whose body may be read inside the block; None where there is no such resource.

        Raises:
            OrthancTrouble: No answer, or not one of success; also out of reading the body.
        """
        headers = self._headers
        if anonymous:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        with self.deadlines.within(self._settings.connect_s + self._settings.answer_s) as limit:
            try:
                try:
                    response = self._send(method, path, headers)
                except urllib3.exceptions.ProtocolError:  # a connection that the server closed while it rested
                    response = self._send(method, path, headers)
                try:
                    found = self._judge(response)
                    yield Body(response, limit, self._settings.least_bytes_per_s) if found else None
                finally:
                    _let_go(response)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                # ValueError: what the standard library makes of a broken chunk or header; OSError: a connection of ours
                # that the deadline broke. Whoever writes to the spool raises neither.
                raise self._trouble(error, limit) from error

    def _send(self, method: str, path: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self._pool.urlopen(
            method,
            (self._url.path or "").rstrip("/") + path,
            headers=headers,
            redirect=False,
            retries=False,  # every pause is ours, so that a stop can end it
            timeout=urllib3.Timeout(connect=self._settings.connect_s, read=self._settings.answer_s),
            preload_content=False,
            decode_content=False,
        )

    def _judge(self, response: urllib3.BaseHTTPResponse) -> bool:
        """Whether there is an answer; False where there is no such resource."""
        status = response.status
        if status in {401, 403}:
            raise CredentialsRefused(self._how_refused(status))
        if status in {429, 503}:
            raise Busy(f"the server says it is busy (status {status})", _retry_after_s(response))
        if 300 <= status < 400:
            raise Redirected(f"the server redirects (status {status}), which is never followed: check `orthanc.url`")
        if status == 404:
            return False
        if status != 200:
            raise BadStatus(f"the server answers with status {status}")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in {"", "identity"}:
            raise BadAnswer("the answer is compressed, although that was not asked for")
        return True

    def _how_refused(self, status: int) -> str:
        path = self._settings.credentials_file
        if path is None:
            return f"the server asks for credentials (status {status}): name their file as `orthanc.credentials_file`"
        return f"the server refuses the credentials of {path} (status {status})"

    def _trouble(self, error: Exception, limit: Limit) -> OrthancTrouble:
        """What an error of urllib3 or the standard library means for us."""
        if limit.expired:
            return AnswerTooSlow("the answer did not come in time")
        return _meaning(error)

    def _make_pool(self) -> urllib3.HTTPConnectionPool:
        settings = self._settings
        options = {"host": self._url.host, "port": self._url.port, "maxsize": settings.parallel + 2, "block": True}
        if self._url.scheme != "https":
            return bounded_pool(self.deadlines, urllib3.HTTPConnectionPool, **options)
        try:
            context = ssl.create_default_context(cafile=settings.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise SourceUnusable(
                f"the certificates of `orthanc.ca_file` {settings.ca_file} cannot be used: {error.strerror or error}"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return bounded_pool(self.deadlines, urllib3.HTTPSConnectionPool, ssl_context=context, **options)


def _meaning(error: Exception) -> OrthancTrouble:
    """One error of urllib3 or the standard library as ours."""
    match error:
        case urllib3.exceptions.SSLError() | ssl.SSLError():
            return NotTrusted(f"TLS failed: {_tls_reason(error)}; check `orthanc.ca_file` and the host in `url`")
        case urllib3.exceptions.NewConnectionError() | urllib3.exceptions.ConnectTimeoutError():
            return Unreachable("no connection: is it running, and is `orthanc.url` right?")
        case urllib3.exceptions.TimeoutError() | TimeoutError():
            return AnswerTooSlow("the answer did not come in time")
        case urllib3.exceptions.IncompleteRead():
            return CutOff("the body ended before its end")
        case _:
            return CutOff(f"the connection broke ({type(error).__name__})")


def _let_go(response: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back, closed where its body was not read to its end: the rest would be the next answer."""
    if getattr(response, "length_remaining", None) != 0:
        response.close()
    response.release_conn()


def _length(response: urllib3.BaseHTTPResponse) -> int | None:
    text = response.headers.get("Content-Length", "")
    if "chunked" in response.headers.get("Transfer-Encoding", "").lower():
        return None
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _credentials(path: Path) -> str:
    """User and password of a file."""
    try:
        with path.open("rb") as file:
            line = file.readline(MOST_CREDENTIAL_BYTES).rstrip(b"\r\n")
    except OSError as error:
        raise CredentialsRefused(f"the credentials file {path} cannot be read: {error.strerror}") from error
    try:
        text = line.decode()
        text.encode("latin-1")  # what the header can hold
    except UnicodeError:
        raise CredentialsRefused(f"the credentials file {path} holds characters that HTTP cannot carry") from None
    user, colon, _ = text.partition(":")
    if not colon or not user or not text.isprintable():
        raise CredentialsRefused(f"the first line of the credentials file {path} must be user, colon, password")
    return text


def _retry_after_s(response: urllib3.BaseHTTPResponse) -> float | None:
    """Pause that the server asks for, in seconds (RFC 9110 10.2.3): a number of them, or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 12:
        return min(float(text), LONGEST_RETRY_AFTER_S)
    try:
        until = email.utils.parsedate_to_datetime(text)
        return min(max(0.0, until.timestamp() - time.time()), LONGEST_RETRY_AFTER_S)
    except (ValueError, TypeError, OverflowError):
        return None


def _tls_reason(error: BaseException) -> str:
    """The library's word for it: a constant of OpenSSL, nothing of the peer's."""
    for cause in (error, *error.args):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate not accepted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return cause.reason.lower().replace("_", " ")
    return "no trust"
