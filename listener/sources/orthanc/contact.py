"""Whether a server is spoken to at the moment: the first contact, its warnings, and the pauses after a trouble.

Contract: after a trouble nothing is asked for a pause that doubles, with chance, up to its bound, or for as long as the
server asked; then its simplest question is asked before any other. Where credentials were refused, a change of their
file ends the pause. Used by one thread.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.backoff import Backoff
from listener.sources.orthanc.troubles import CredentialsRefused, OrthancTrouble

if TYPE_CHECKING:
    from listener.settings.orthanc import OrthancSection
    from listener.sources.orthanc.answers import System
    from listener.sources.orthanc.client import OrthancClient
    from listener.sources.orthanc.rest import Orthanc

SAY_AGAIN_S: Final = 60.0
"""The same trouble is logged again after this time at the earliest."""


class ServerHealth:
    """The standing with one server."""

    def __init__(self, settings: OrthancSection, client: OrthancClient, orthanc: Orthanc) -> None:
        self.orthanc = orthanc
        self._settings = settings
        self._client = client
        self._log = structlog.get_logger().bind(server=settings.label)
        self._until = 0.0
        self._backoff = Backoff(settings.pause_s, settings.max_pause_s)
        self.is_known = False
        """Whether it answered when it was last asked."""
        self._trouble = ""
        self._said: tuple[str, float] = ("", 0.0)
        self._version = ""
        self._file_was: tuple[int, int, int] | None = None

    def reload(self, settings: OrthancSection) -> None:
        """Take over other pauses, and try at once."""
        self._settings = settings
        self._backoff = Backoff(settings.pause_s, settings.max_pause_s, self._backoff.failures)
        self._until = 0.0

    def is_open(self) -> bool:
        """Whether the server may be asked; makes the contact where a pause has ended.

        Raises:
            OrthancTrouble: The contact was not made; tell `failed`.
        """
        if self.is_known:
            return True
        is_mended = self._trouble == CredentialsRefused.word and self._file() != self._file_was
        if time.monotonic() < self._until and not is_mended:
            return False
        self._file_was = self._file()
        self._client.read_credentials()
        system = self.orthanc.system()
        self.is_known = True
        self._trouble = ""
        if system.version != self._version:
            self._version = system.version
            self._log.info("orthanc answers", version=system.version)
            self._warn(system)
        return True

    def succeeded(self) -> None:
        """The server does its work: the next pause is a short one again."""
        self._backoff.reset()
        if self._said[0] and self.is_known:
            self._log.info("orthanc does its work again", after=self._said[0])
            self._said = ("", 0.0)

    def failed(self, trouble: OrthancTrouble) -> None:
        """Begin a pause; several troubles of the same moment are one."""
        pause_s = self._pause(trouble.word)
        if trouble.retry_after_s is not None:
            self._until = max(self._until, time.monotonic() + trouble.retry_after_s)
            pause_s = max(pause_s, trouble.retry_after_s)
        self._say("orthanc is left alone for a while", trouble.word, problem=str(trouble), pause_s=round(pause_s, 1))

    def failed_inside(self, event: str, why: str) -> None:
        """The same for a trouble of our own."""
        pause_s = self._pause("inside")
        self._say(event, "inside", problem=why, pause_s=round(pause_s, 1))

    def _pause(self, word: str) -> float:
        now = time.monotonic()
        if self.is_known or now >= self._until:
            self._until = now + self._backoff.next_pause() * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self.is_known = False
        self._trouble = word
        return self._until - now

    def _say(self, event: str, word: str, **more: str | float) -> None:
        said, at = self._said
        now = time.monotonic()
        if word != said or now - at >= SAY_AGAIN_S:
            self._said = (word, now)
            self._log.error(event, why=word, **more)

    def _file(self) -> tuple[int, int, int] | None:
        """What changes when the credentials file does."""
        path = self._settings.credentials_file
        try:
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)

    def _warn(self, system: System) -> None:
        """Say once what is unsafe about this server."""
        settings = self._settings
        if self._client.credentials_are_default:
            self._log.warning(
                "orthanc has its default credentials: whoever knows Orthanc can read and delete everything"
            )
        if settings.credentials_file is None:
            if not settings.is_loopback or system.is_secure is False:
                self._log.warning(
                    "orthanc asks nobody for credentials: whoever reaches it can read and delete everything"
                )
        elif self._lets_anybody_in():
            self._log.warning(
                "orthanc answers without credentials too: whoever reaches it can read and delete everything"
            )
        if settings.url.startswith("http:") and not settings.is_loopback:
            self._log.warning("orthanc is spoken to without TLS: credentials and images can be read on the way")
        if settings.delete_after_spooling and system.overwrites:
            self._log.warning(
                "orthanc overwrites instances, and those we have are deleted from it: content that replaces an instance"
                " in the very moment of its deletion is lost; set OverwriteInstances to false"
            )

    def _lets_anybody_in(self) -> bool:
        try:
            return self.orthanc.lets_anybody_in()
        except OrthancTrouble:
            return False
