"""What a result means for what is remembered of its instance, and the word it is counted under.

Contract: pure. An MD5 and a UUID that are remembered are those of content that was taken, whatever came after; so that
the same content is not taken again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from listener.sources.orthanc.downloads import AlreadyStored, Deleted, Gone, LeftOut, Taken, Troubled
from listener.sources.orthanc.memory import InstanceState, KnownInstance

if TYPE_CHECKING:
    from listener.sources.orthanc.downloads import DownloadJob, Verdict


def outcome(result: Verdict) -> tuple[str, KnownInstance | None]:  # noqa: PLR0911 - one per kind of result
    """The word to count, and what is to be remembered; None where nothing of it changes."""
    noted = _before(result.job)
    match result:
        case Taken(_, uuid, md5, _, is_verified):
            return "taken" if is_verified else "taken_unverified", replace(noted, uuid=uuid, md5=md5)
        case AlreadyStored(_, uuid, md5):
            return "known_already", replace(noted, uuid=uuid, md5=md5)
        case Gone():
            return "gone", replace(noted, state=InstanceState.GONE)
        case LeftOut(_, why, uuid):
            md5 = noted.md5 if noted.uuid == uuid else None
            return "left_out", replace(noted, state=InstanceState.FILTERED, uuid=uuid, md5=md5, why=why)
        case Deleted(_, is_done):
            return "deleted" if is_done else "not_deleted", None
        case Troubled(job, trouble):
            if job.delete is not None:
                return "not_deleted", None
            word = "failed_again" if job.is_retry else "failed"
            return word, replace(noted, state=InstanceState.FAILED, why=trouble.word)


def _before(job: DownloadJob) -> KnownInstance:
    """What is remembered so far, with the number of the newest change that the job settles."""
    if job.known is None:
        return KnownInstance(job.instance, InstanceState.TAKEN, job.epoch, max(job.seqs, default=0))
    known = replace(job.known, state=InstanceState.TAKEN, why=None)
    return replace(known, epoch=job.epoch, seq=max(job.seqs)) if job.seqs else known
