"""Publication, the last step of every export: media get their final names, and the outcome is committed.

Contract: in this order, each step durable before the next: media files (fsynced by the writer or here) -> their final
names in the media store, with the permissions of the settings -> outcome, media and metadata line in one transaction of
the ledger -> media of an earlier export deleted. A batch shares the fsyncs. The next start repairs what a crash between
two of these steps has left (`exporter.results.intents`).

Must never: replace a file that is not the instance's own (unless `overwrite`), or trust a name that a worker gives.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from exporter.errors import BadWorkerAnswer, OutOfSpace, SkipReason, StorageUnavailable
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, Failed, Skipped
from exporter.results.ledger.types import DuplicateCheck
from exporter.results.line import line
from exporter.results.output_names import identity_base, output_bases
from exporter.results.rejections import MESSAGE, OnRejection
from exporter.results.stores.contract import InstanceMedia
from exporter.results.stores.files import PARTIAL_NAME, FilesStore
from exporter.settings.permissions import MediaPermissions
from listener.foundation.disk import is_out_of_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from exporter.outcome import InstanceIdentity, MediaFile, Outcome
    from exporter.results.ledger import Completed, Ledger, WorkItem
    from exporter.results.rejections import Rejections
    from exporter.results.stores.contract import MediaStore

SUFFIX: Final = re.compile(r"(\.[A-Za-z0-9_-]{1,24}){1,4}/?")


@dataclass(frozen=True, slots=True)
class NameChoice:
    """How output names are made."""

    layout: str
    """Template for received instances; the output of a folder's files mirrors their paths."""
    overwrite: bool = False
    """Whether existing files that the ledger does not list may be replaced."""


@dataclass(frozen=True, slots=True)
class AETitleProfile:
    """Settings of the instances that were sent to one of our AE titles."""

    layout: str
    settings_sha256: str


class Publisher:
    """Gives media their final names and commits outcomes, for one media folder and from one thread."""

    def __init__(
        self,
        media: Path,
        ledger: Ledger,
        names: NameChoice,
        *,
        settings_sha256: str,
        version: str,
        profiles: Mapping[str, AETitleProfile] | None = None,
        permissions: MediaPermissions | None = None,
        rejections: Rejections | None = None,
        store: MediaStore | None = None,
    ) -> None:
        """Publish below `media`.

        Args:
            media: The media folder.
            ledger: Where outcomes are committed.
            names: How output names are made.
            settings_sha256: Hash of the top-level settings.
            version: Of this program, for the metadata lines.
            profiles: Layout and settings of the AE titles that have their own, by AE title.
            permissions: Of media files and folders.
            rejections: What rejection notes do; None where somebody else looks after that.
            store: Where media are kept; default: as files below `media`.
        """
        self._media = media
        self._store = store or FilesStore(media, permissions or MediaPermissions())
        self._ledger = ledger
        self._names = names
        self._default_profile = AETitleProfile(names.layout, settings_sha256)
        self._profiles = profiles or {}
        self._version = version
        self._rejections = rejections
        self._placed: dict[str, Completed] = {}

    def publish(self, batch: Sequence[Completed]) -> list[Outcome | StorageUnavailable]:
        """Rename, sync and commit. May be repeated after `OutOfSpace`.

        Returns:
            For each instance its outcome with final names; or, if the media folder cannot be used, why it was not
            published: then nothing of it is committed, and it has to be exported again.

        Raises:
            OutOfSpace: Disk or quota are full; completed steps are kept, and the same batch can be published later.
            LedgerUnusable: The ledger cannot be written.
        """
        conditions: dict[str, StorageUnavailable] = {}
        self._store.take_back()
        for one in batch:
            if isinstance(one.outcome, Exported | Skipped) and one.outcome.rejects is not None:
                self._ledger.record_rejections(one.work.name, one.outcome.rejects)  # before its neighbours are placed
        for one in batch:
            name = one.work.name
            if name not in self._placed:
                try:
                    if self._is_written_out(one, conditions):
                        self._placed[name] = self._place(one)
                except OSError as error:
                    conditions[name] = self._condition(error)
                    self._store.forget()
        try:
            self._store.sync()
        except OSError as error:
            condition = self._condition(error)
            conditions.update(dict.fromkeys((one.work.name for one in batch), condition))
            self._store.forget()
        for name in conditions:
            self._abandon(name)
        kept = [self._placed[one.work.name] for one in batch if one.work.name not in conditions]
        superseded = self._ledger.finish_many(kept) if kept else ()
        placed, self._placed = self._placed, {}
        self._tidy(superseded, [one.folder for one in kept if one.media])
        return [conditions.get(one.work.name) or placed[one.work.name].outcome for one in batch]

    def _is_written_out(self, one: Completed, conditions: dict[str, StorageUnavailable]) -> bool:
        """Make sure that files are on the disk that a worker left to its batch.

        One that could not be written is never tried again: the system says so once. Its instance is exported anew.

        Returns:
            Whether they are; the condition is noted otherwise.
        """
        if one.folder is None or not isinstance(one.outcome, Exported):
            return True
        try:
            self._store.write_out(one.folder, one.outcome.media)
        except OSError as error:
            conditions[one.work.name] = StorageUnavailable(f"media folder {self._media}", error)
            return False
        return True

    def _abandon(self, name: str) -> None:
        """Remove the media of an instance that is not published, now or before the next batch."""
        self._placed.pop(name, None)
        self._store.take_back(name)

    def _tidy(self, superseded: Sequence[str], folders: Iterable[Path | None]) -> None:
        """Remove superseded media and notes after the commit; what cannot be removed now goes at the next start.

        No error may leave this function: the batch would be published again, without its partial files.
        """
        with suppress(OSError, OutOfSpace):
            self._store.remove(superseded)
            self._ledger.forget_superseded(superseded)
        self._store.finish([folder for folder in folders if folder is not None])

    # -- one instance ------------------------------------------------------------------------------------------------

    def _place(self, completed: Completed) -> Completed:
        """Rename the media to their final names, and make the metadata line."""
        work, outcome = completed.work, completed.outcome
        completed = replace(completed, settings_sha256=self._profile(work).settings_sha256)
        if isinstance(outcome, Failed) or (isinstance(outcome, Skipped) and not _has_line(outcome)):
            return completed
        try:
            found = self._rejections.verdict(work.name, outcome.identity) if self._rejections is not None else None
            rejection = None if found is None else found[1]
            if self._rejections is not None and found is not None and found[0] is OnRejection.WITHDRAW:
                refused = Skipped(SkipReason.REJECTED, MESSAGE, rejects=outcome.rejects)
                text = self._rejections.withdrawn_line(work.name, work.ae_title, found[1])
                return replace(completed, outcome=refused, relation=DuplicateCheck(), line=text)
            if isinstance(outcome, Exported):
                return self._exported(completed, outcome, rejection)
            return replace(completed, line=self._line(completed, outcome, rejection))
        except BadWorkerAnswer as error:
            return replace(completed, outcome=Failed.of(error, outcome.identity))

    def _profile(self, work: WorkItem) -> AETitleProfile:
        return self._profiles.get(work.ae_title, self._default_profile)

    def _exported(self, completed: Completed, outcome: Exported, rejection: Mapping[str, str] | None) -> Completed:
        work, folder = completed.work, completed.folder
        if folder is None:
            raise BadWorkerAnswer("the worker process had no folder for media")
        self._store.undo(work.name, folder)
        self._check(outcome.media, folder)
        base = self.reserve_base(work, outcome.identity, [medium.suffix for medium in outcome.media])
        media = tuple(replace(medium, file=base + medium.suffix) for medium in outcome.media)
        final = replace(outcome, media=media)
        text = self._line(completed, final, rejection)
        self._put(InstanceMedia(work.name, folder, outcome.media, media, outcome.identity.study_instance_uid, text))
        return replace(completed, outcome=final, line=text)

    def _line(
        self, completed: Completed, outcome: Exported | Skipped, rejection: Mapping[str, str] | None = None
    ) -> bytes:
        work, relation = completed.work, completed.relation
        return line(
            outcome,
            dicom_file=work.name,
            version=self._version,
            duplicate_of=relation.duplicate_of,
            conflict_with=relation.conflict_with,
            ae_title=work.ae_title,
            rejection=rejection,
        )

    def carry_out_rejections(self) -> bool:
        """Withdraw or flag some of the published instances that rejection notes name.

        Returns:
            Whether there was something to do; called until there is not.

        Raises:
            OutOfSpace, StorageUnavailable: Disk or folder cannot be used now; what is left is done later.
            LedgerUnusable: The ledger cannot be written.
        """
        if self._rejections is None:
            return False
        try:
            return self._rejections.carry_out() > 0
        except OSError as error:
            raise self._condition(error) from error

    # -- names and folders -------------------------------------------------------------------------------------------

    def wanted_base(self, work: WorkItem, identity: InstanceIdentity) -> str:
        """Output base that an instance gets unless another instance has it."""
        if work.mirrors is not None:
            return output_bases(work.mirrors)[0]
        uids = {
            "StudyInstanceUID": identity.study_instance_uid,
            "SeriesInstanceUID": identity.series_instance_uid,
            "SOPInstanceUID": identity.sop_instance_uid,
            "SOPClassUID": identity.sop_class_uid,
        }
        return identity_base(self._profile(work).layout, uids)

    def reserve_base(self, work: WorkItem, identity: InstanceIdentity, suffixes: Iterable[str]) -> str:
        """The output base that an instance gets; it is the instance's until its attempt ends."""
        wanted = self.wanted_base(work, identity)
        others = [] if work.mirrors is None else output_bases(work.mirrors)[1:]
        return self._ledger.reserve_base(
            wanted,
            work.name,
            suffixes=suffixes,
            alternatives=_alternatives(wanted, others, work.name),
            taken=self._taken,
        )

    def _taken(self, path: str) -> bool:
        """Whether a foreign file or folder is in the way of an output file or folder."""
        return self._store.is_taken(path, may_replace=self._names.overwrite)

    def _check(self, media: Sequence[MediaFile], folder: Path) -> None:
        """Check partial files; see `check_media`."""
        check_media(media, folder)

    def _put(self, media: InstanceMedia) -> None:
        """Bring media to their final names."""
        self._store.put(media)

    def _condition(self, error: OSError) -> StorageUnavailable:
        """Condition of the machine that an error of the media folder means.

        Raises:
            OutOfSpace: Disk or quota are full.
        """
        what = f"media folder {self._media}"
        if is_out_of_space(error):
            raise storage_error(what, error) from error
        return StorageUnavailable(what, error)


def _has_line(outcome: Skipped) -> bool:
    """Whether an instance that is skipped has a line all the same."""
    return outcome.reason is SkipReason.NO_MEDIA and outcome.record is not None


def _alternatives(wanted: str, others: Sequence[str], name: str) -> Iterator[str]:
    """Further output bases to try; the last is taken only if somebody has made such a file on purpose."""
    yield from others
    yield from (f"{wanted}-{number}" for number in range(2, 10))
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    yield from (f"{wanted}-{digest[:16]}", f"~other/{digest[:32]}")


def check_media(media: Sequence[MediaFile], folder: Path) -> None:
    """Check the media that a worker reports: malicious input may have taken control of the worker.

    Raises:
        BadWorkerAnswer: The report is impossible or does not match the files.
        OSError: The folder cannot be read.
    """
    if not media:
        raise BadWorkerAnswer("the worker process named no media")
    if len({medium.suffix for medium in media}) != len(media) or len({medium.file for medium in media}) != len(media):
        raise BadWorkerAnswer("the worker process gave two media one name")
    for medium in media:
        if not PARTIAL_NAME.fullmatch(medium.file) or not SUFFIX.fullmatch(medium.suffix):
            raise BadWorkerAnswer("the worker process gave a medium an impossible name")
        try:
            there = (folder / medium.file).lstat()
        except FileNotFoundError:
            folder.stat()  # raises if the folder itself is gone, which is not the fault of the worker
            raise BadWorkerAnswer("the worker process named a medium that is not there") from None
        if medium.suffix.endswith("/"):
            if not stat.S_ISDIR(there.st_mode):
                raise BadWorkerAnswer("the worker process named a folder that is not a folder")
        elif not stat.S_ISREG(there.st_mode) or there.st_size != medium.bytes:
            raise BadWorkerAnswer("the worker process named a file of another size or kind")
