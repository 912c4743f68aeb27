"""What can go wrong with a server: one class per kind, each with the stable word that counters and logs have for it.

Contract: a trouble carries its verdict. One of the whole server makes us pause and says nothing of its instances; any
other is first held against the one instance it met.

Must never: quote what the server said, which may be anybody's data.
"""

from __future__ import annotations

from typing import ClassVar


class OrthancTrouble(Exception):
    """A request did not lead to what it should; the text says why, in our words only."""

    word: ClassVar[str] = "trouble"
    of_server: ClassVar[bool] = False
    """Whether it certainly concerns the server as a whole."""
    may_pass: ClassVar[bool] = True
    """Whether the next moment may be better; if not, only a reconciliation tries it again."""
    retry_after_s: float | None = None
    """Pause that the server asked for."""


class Unreachable(OrthancTrouble):
    """No connection, or none that stays: refused, reset, no such host."""

    word = "unreachable"
    of_server = True


class NotTrusted(OrthancTrouble):
    """TLS: the server's certificate is not one we trust, or there is no TLS at all."""

    word = "not_trusted"
    of_server = True


class CredentialsRefused(OrthancTrouble):
    """Status 401 or 403, or no credentials to show."""

    word = "credentials_refused"
    of_server = True


class Busy(OrthancTrouble):
    """Status 429 or 503: come back later."""

    word = "busy"
    of_server = True

    def __init__(self, text: str, retry_after_s: float | None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class BadStatus(OrthancTrouble):
    """Any other status that is not success."""

    word = "bad_status"


class Redirected(OrthancTrouble):
    """The server sends us elsewhere; we never go."""

    word = "redirected"


class BadAnswer(OrthancTrouble):
    """The answer is not what this question has: no JSON, too long, identifiers that are none."""

    word = "bad_answer"


class AnswerTooSlow(OrthancTrouble):
    """The deadline has passed."""

    word = "too_slow"


class CutOff(OrthancTrouble):
    """The body ended before its end, or is longer than the file."""

    word = "cut_off"


class WrongChecksum(OrthancTrouble):
    """The bytes are not those whose MD5 the server keeps."""

    word = "wrong_checksum"


class AnswerTooLarge(OrthancTrouble):
    """Longer than `max_instance_bytes`."""

    word = "too_large"
    may_pass = False


class Unfit(OrthancTrouble):
    """The server cannot do what the configuration asks for."""

    word = "unfit"
    of_server = True


class WithinErrors(OrthancTrouble):
    """A defect of ours met one instance."""

    word = "internal"
