"""The body of one store request: from multipart parts to instances in the spool, on a thread that may wait for disks.

Contract: whatever has been answered by `finish` is durable. A request that breaks off leaves the instances that were
complete in the spool, and nothing of the one under way; its client has no answer and sends them again, and the exporter
finds duplicates by their content.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from listener.intake import store_status
from listener.sources.dicomweb.multipart import Malformed, Multipart, media_type
from listener.sources.dicomweb.part10 import Upload, UploadTerms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from listener.intake.store_status import StoreStatus
    from listener.sources.dicomweb.part10 import Answer

DICOM: Final = "application/dicom"
MOST_KEPT: Final = 16
"""Most parts of one request that are kept in quarantine although they are no DICOM files: each costs a sync."""
PLAIN_ENCODINGS: Final = frozenset({"", "binary", "8bit", "7bit", "identity"})


class TooManyInstances(Exception):
    """More parts than one request may have."""


class Intake:
    """Takes the parts of one body; its methods are called one after the other, from any thread."""

    def __init__(self, boundary: str, terms: UploadTerms, most: int) -> None:
        self._terms = terms
        self._most = most
        self._multipart = Multipart(boundary, self)
        self._upload: Upload | None = None
        self._malformed = 0
        self._lock = threading.Lock()
        self._given_up = False
        self.answers: list[Answer] = []

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            Malformed: It is no multipart body.
            TooManyInstances: It has too many parts.
        """
        with self._lock:
            if not self._given_up:
                self._multipart.feed(piece)

    def finish(self) -> list[Answer]:
        """The body is complete: what became of each instance.

        Raises:
            Malformed: It ends before its last boundary.
        """
        with self._lock:
            self._multipart.finish()
            return self.answers

    def discard(self) -> None:
        """Leave nothing of an instance under way; waits for a call that still runs. Harmless after `finish`."""
        with self._lock:
            self._given_up = True
            if self._upload is not None:
                self._upload.discard()
                self._upload = None

    # -- what `Multipart` tells --------------------------------------------------------------------------------------

    def begin_part(self, header: Mapping[str, str]) -> None:
        """A part begins."""
        if len(self.answers) >= self._most:
            raise TooManyInstances
        keeps = self._malformed < MOST_KEPT
        self._upload = Upload(self._terms, _refusal(header), keeps_malformed=keeps)

    def data(self, piece: memoryview) -> None:
        """Bytes of the part."""
        assert self._upload is not None  # noqa: S101 - `begin` comes first
        self._upload.write(piece)

    def end_part(self) -> None:
        """The part is complete."""
        assert self._upload is not None  # noqa: S101 - `begin` comes first
        upload, self._upload = self._upload, None
        try:
            self.answers.append(upload.answer())
            self._malformed += upload.is_malformed
        finally:
            upload.discard()


def _refusal(header: Mapping[str, str]) -> StoreStatus | None:
    """Why a part cannot be an instance; a part that does not say what it is, is one like the others."""
    encodings = {header.get(name, "").lower() for name in ("content-transfer-encoding", "content-encoding")}
    if not encodings <= PLAIN_ENCODINGS:
        return store_status.NOT_ENCODED_SO
    said = header.get("content-type")
    try:
        return store_status.NOT_ENCODED_SO if said and media_type(said).name != DICOM else None
    except Malformed:
        return store_status.NOT_ENCODED_SO
