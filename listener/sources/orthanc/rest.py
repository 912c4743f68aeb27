"""The questions we put to Orthanc: one method per resource of its REST interface, each with the bound of its answer.

Contract: an identifier goes into a path only in the spelling made from its bytes; `Path` and other links in answers are
never used. Raises `OrthancTrouble`; what the server does not hold is None.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from listener.sources.orthanc import answers
from listener.sources.orthanc.identifiers import spelled
from listener.sources.orthanc.troubles import BadAnswer, CutOff, Unfit, WrongChecksum

if TYPE_CHECKING:
    from collections.abc import Callable

    from listener.sources.orthanc.answers import (
        Changes,
        ListedInstance,
        OrthancSeries,
        OrthancStudy,
        RemoteInstance,
        System,
    )
    from listener.sources.orthanc.client import OrthancClient

MOST_PAGE_BYTES: Final = 32 << 20
"""Longest JSON that is read: a page of 2000 expanded instances has some 2 MiB, a series of 100,000 some 5 MiB."""
MOST_INSTANCE_BYTES: Final = 1 << 20
MOST_TEXT_BYTES: Final = 4096
MOST_SYSTEM_BYTES: Final = 64 << 10
CHANGES_PER_PAGE: Final = 500
IDENTIFIERS_PER_PAGE: Final = 5000
EXPANDED_PER_PAGE: Final = 2000


class Orthanc:
    """One server's REST interface; safe for use by many threads."""

    def __init__(self, client: OrthancClient) -> None:
        self._client = client

    def system(self) -> System:
        """What it says of itself."""
        return answers.system(self._there("/system", MOST_SYSTEM_BYTES))

    def lets_anybody_in(self) -> bool:
        """Whether it answers without credentials."""
        return self._client.get("/system", MOST_SYSTEM_BYTES, anonymous=True) is not None

    def changes(self, since: int) -> Changes:
        """The changes after a number, oldest first, a page of them."""
        content = self._there(f"/changes?since={since}&limit={CHANGES_PER_PAGE}", MOST_PAGE_BYTES)
        return answers.changes(content, since)

    def listed(self, since: int, *, expanded: bool) -> tuple[ListedInstance, ...]:
        """A page of the list of all instances, from an offset on; empty at the end.

        Args:
            since: How many to leave out.
            expanded: With the attachment of each, which costs the server several look-ups per instance.
        """
        limit = EXPANDED_PER_PAGE if expanded else IDENTIFIERS_PER_PAGE
        path = f"/instances?since={since}&limit={limit}{'&expand' if expanded else ''}"
        return answers.listed(self._there(path, MOST_PAGE_BYTES), expanded=expanded)

    def instance(self, instance: bytes) -> RemoteInstance | None:
        """One instance; None where it is not there."""
        content = self._client.get(f"/instances/{spelled(instance)}", MOST_INSTANCE_BYTES)
        return None if content is None else answers.held(content, instance)

    def md5(self, instance: bytes) -> bytes | None:
        """MD5 sum of its file, uncompressed; None where the server keeps none, or the instance is not there."""
        content = self._client.get(f"/instances/{spelled(instance)}/attachments/dicom/md5", MOST_TEXT_BYTES)
        return None if content is None or not content.strip() else answers.md5(content)

    def remote_ae_title(self, instance: bytes) -> str:
        """AE title of who sent it; empty where it did not come over DICOM."""
        content = self._client.get(f"/instances/{spelled(instance)}/metadata/RemoteAET", MOST_TEXT_BYTES)
        return (content or b"").decode("ascii", "replace").strip()

    def series(self, series: bytes) -> OrthancSeries | None:
        """One series; None where it is not there."""
        content = self._client.get(f"/series/{spelled(series)}", MOST_PAGE_BYTES)
        return None if content is None else answers.series(content)

    def study(self, study: bytes) -> OrthancStudy | None:
        """One study; None where it is not there."""
        content = self._client.get(f"/studies/{spelled(study)}", MOST_PAGE_BYTES)
        return None if content is None else answers.study(content)

    def download(
        self, instance: bytes, held: RemoteInstance, md5: bytes | None, write: Callable[[bytes], None]
    ) -> bytes | None:
        """The file of an instance, in pieces, checked against its length and MD5.

        Args:
            instance: Which.
            held: What the server said of it.
            md5: Its MD5 as the server keeps it; None where it keeps none.
            write: Takes the pieces; what it raises is raised here.

        Returns:
            MD5 of what came; None where the instance is not there any more.

        Raises:
            CutOff, WrongChecksum: What came is not the file; forget it.
        """
        total, found = 0, hashlib.md5(usedforsecurity=False)
        with self._client.open(f"/instances/{spelled(instance)}/file") as body:
            if body is None:
                return None
            if body.length not in {None, held.size_bytes}:
                raise CutOff(f"the file says it has {body.length} bytes, the index {held.size_bytes}")
            for piece in body.pieces(held.size_bytes):
                found.update(piece)
                total += len(piece)
                write(piece)
        if total != held.size_bytes:
            raise CutOff(f"the file ended after {total} of {held.size_bytes} bytes")
        if md5 is not None and found.digest() != md5:
            raise WrongChecksum("the file is not what its MD5 says")
        return found.digest()

    def delete(self, instance: bytes) -> bool:
        """Delete an instance.

        Returns:
            Whether it was there.
        """
        return self._client.delete(f"/instances/{spelled(instance)}")

    def _there(self, path: str, most_bytes: int) -> bytes:
        content = self._client.get(path, most_bytes)
        if content is None:
            raise BadAnswer(f"there is no {path.partition('?')[0]}: is `orthanc.url` that of Orthanc's REST interface?")
        return content


def needs_labels(labels: frozenset[str] | None) -> frozenset[str]:
    """The labels of something, where a filter asks for them.

    Raises:
        Unfit: The server has none.
    """
    if labels is None:
        raise Unfit("`only.labels` needs Orthanc 1.12.0 or newer: nothing is taken from this one")
    return labels
