"""Publication, the last step of every export: media get their final names, and the outcome is committed.

Contract: in this order, each step durable before the next: media files (fsynced by the writer or here) -> rename to
their final names, with the permissions of the settings -> fsync of the folders -> outcome, media and metadata line in
one transaction of the ledger -> files of an earlier export deleted. A batch shares the fsyncs. The next start repairs
what a crash between two of these steps has left (`exporter.results.intents`).

Files that a worker left to its batch need no fsync of their own where names follow files
(`listener.foundation.durable`): they are written out before the rename, and the fsync of the folder makes content and
name durable at once.

Must never: replace a file that is not the instance's own (unless `overwrite`), or trust a name that a worker gives.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.errors import BadWorkerAnswer, OutOfSpace, SkipReason, StorageUnavailable
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, Failed, Skipped
from exporter.results import intents
from exporter.results.intents import Intent
from exporter.results.line import line
from exporter.results.output_names import PARTIAL, identity_base, output_bases
from exporter.settings.permissions import MediaPermissions
from listener.foundation.disk import is_out_of_space
from listener.foundation.durable import fsync_folder, names_follow_files, write_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from exporter.outcome import InstanceIdentity, MediaFile, Outcome
    from exporter.results.ledger import Completed, Ledger, WorkItem

SUFFIX: Final = re.compile(r"(\.[A-Za-z0-9_-]{1,24}){1,4}/?")
PARTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_KNOWN_FOLDERS: Final = 4096


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
    """Renames media and commits outcomes, for one media folder and from one thread."""

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
        """
        self._media = media
        self._partial = media / PARTIAL
        self._ledger = ledger
        self._names = names
        self._default_profile = AETitleProfile(names.layout, settings_sha256)
        self._profiles = profiles or {}
        self._version = version
        self._permissions = permissions or MediaPermissions()
        self._folders: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._placed: dict[str, Completed] = {}
        self._half_done: dict[str, list[tuple[Path, Path]]] = {}
        """Renames done in an attempt that failed half-way, by instance: (partial, final) paths."""
        self._renamed: dict[str, dict[str, tuple[int, int]]] = {}
        """Files renamed and not yet committed, by instance: final path, and (device, inode)."""
        self._stray: dict[str, tuple[int, int]] = {}
        """Files of abandoned instances that could not be removed yet: final path, and (device, inode)."""

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
        self._remove_strays()
        for one in batch:
            name = one.work.name
            if name not in self._placed:
                try:
                    if self._is_written_out(one, conditions):
                        self._placed[name] = self._place(one)
                except OSError as error:
                    conditions[name] = self._condition(error)
                    self._folders.clear()  # a folder remembered as present may be gone
        try:
            self._sync()
        except OSError as error:
            condition = self._condition(error)
            conditions.update(dict.fromkeys((one.work.name for one in batch), condition))
            self._unsynced.clear()
            self._folders.clear()
        for name in conditions:
            self._abandon(name)
        kept = [self._placed[one.work.name] for one in batch if one.work.name not in conditions]
        superseded = self._ledger.finish_many(kept) if kept else ()
        placed, self._placed = self._placed, {}
        self._renamed.clear()
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
        for medium in one.outcome.media:
            if medium.is_durable or not PARTIAL_NAME.fullmatch(medium.file):
                continue
            try:
                self._write_out(one.folder / medium.file)
            except OSError as error:
                conditions[one.work.name] = StorageUnavailable(f"media folder {self._media}", error)
                return False
        return True

    def _write_out(self, path: Path) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
                return  # the worker's answer does not match its files, which `_check` reports
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return
            if self._names_follow:
                write_out(descriptor)
            else:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @cached_property
    def _names_follow(self) -> bool:
        """Whether the fsync of a folder makes files durable that were written out before they were renamed into it."""
        folder = os.open(self._partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return names_follow_files(folder)
        finally:
            os.close(folder)

    def _abandon(self, name: str) -> None:
        """Remove the renamed files of an instance that is not published, now or before the next batch."""
        self._placed.pop(name, None)
        self._half_done.pop(name, None)
        self._stray.update(self._renamed.pop(name, {}))
        self._remove_strays()

    def _remove_strays(self) -> None:
        for path, file in list(self._stray.items()):
            with suppress(OSError):  # the media folder is not back yet
                self._partial.stat()
                with suppress(FileNotFoundError):
                    if _identity_of(self._media / path) == file:  # still the file that was renamed here
                        intents.remove(self._media, [path])
                del self._stray[path]

    def _tidy(self, superseded: Sequence[str], folders: Iterable[Path | None]) -> None:
        """Remove superseded files and intents after the commit; those that cannot be removed now go at the next start.

        No error may leave this function: the batch would be published again, without its partial files.
        """
        with suppress(OSError, OutOfSpace):
            intents.remove(self._media, superseded)
            self._ledger.forget_superseded(superseded)
        for folder in folders:
            if folder is not None:
                with suppress(OSError):
                    intents.clear(folder)

    # -- one instance ------------------------------------------------------------------------------------------------

    def _place(self, completed: Completed) -> Completed:
        """Rename the media to their final names, and make the metadata line."""
        work, outcome = completed.work, completed.outcome
        completed = replace(completed, settings_sha256=self._profile(work).settings_sha256)
        try:
            if isinstance(outcome, Exported):
                return self._exported(completed, outcome)
            if isinstance(outcome, Skipped) and outcome.reason is SkipReason.NO_MEDIA and outcome.record is not None:
                return replace(completed, line=self._line(completed, outcome))
        except BadWorkerAnswer as error:
            return replace(completed, outcome=Failed.of(error, outcome.identity))
        return completed

    def _profile(self, work: WorkItem) -> AETitleProfile:
        return self._profiles.get(work.ae_title, self._default_profile)

    def _exported(self, completed: Completed, outcome: Exported) -> Completed:
        work, folder = completed.work, completed.folder
        if folder is None:
            raise BadWorkerAnswer("the worker process had no folder for media")
        self._undo(work, folder)
        _check(outcome.media, folder)
        base = self.reserve_base(work, outcome.identity, [medium.suffix for medium in outcome.media])
        media = tuple(replace(medium, file=base + medium.suffix) for medium in outcome.media)
        final = replace(outcome, media=media)
        text = self._line(completed, final)
        self._rename(work, folder, outcome.media, media)
        return replace(completed, outcome=final, line=text)

    def _line(self, completed: Completed, outcome: Exported | Skipped) -> bytes:
        work, relation = completed.work, completed.relation
        return line(
            outcome,
            dicom_file=work.name,
            version=self._version,
            duplicate_of=relation.duplicate_of,
            conflict_with=relation.conflict_with,
            ae_title=work.ae_title,
        )

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
        target = self._media / path
        # A folder remembered as present may be something else by now: then the rename fails, and all are forgotten.
        unseen = () if target.parent in self._folders else target.relative_to(self._media).parents
        for above in unseen:
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR((self._media / above).lstat().st_mode) and above != Path():
                    return True
        try:
            there = target.lstat()
        except FileNotFoundError:
            return False
        same_kind = stat.S_ISDIR(there.st_mode) == path.endswith("/")
        return not (self._names.overwrite and same_kind)

    def _rename(self, work: WorkItem, folder: Path, partial: Sequence[MediaFile], final: Sequence[MediaFile]) -> None:
        """Record the intent, then rename; undone where the file system fails half-way."""
        try:
            intents.record(folder, Intent(work.name, tuple(medium.file for medium in final)))
        except FileExistsError:
            raise BadWorkerAnswer("the worker process left files that it was not asked for") from None
        done = self._half_done[work.name] = []
        renamed = self._renamed[work.name] = {}
        try:
            for number, (before, after) in enumerate(zip(partial, final, strict=True)):
                source, target = folder / before.file, self._media / after.file
                above, there = target.parent, source.lstat()
                self._make_folder(above)
                self._permissions.apply(source, there)
                if after.suffix.endswith("/") and target.is_dir():
                    target.rename(folder / f"{number}.old")  # a folder with files cannot be replaced at once
                renamed[after.file] = there.st_dev, there.st_ino
                source.rename(target)
                done.append((source, target))
                self._stray.pop(after.file, None)
                self._unsynced.add(above)
        except OSError:
            self._undo(work, folder)
            raise
        del self._half_done[work.name]

    def _undo(self, work: WorkItem, folder: Path) -> None:
        """Undo the renames of an earlier attempt; those that fail now are undone before the next attempt.

        Raises:
            OSError: The file system fails again.
        """
        done = self._half_done.get(work.name)
        if done is None:
            return
        while done:
            source, target = done[-1]
            target.rename(source)
            done.pop()
        with suppress(FileNotFoundError):
            intents.clear(folder)
        del self._half_done[work.name]

    def _make_folder(self, folder: Path) -> None:
        if folder in self._folders:
            return
        if folder != self._media:
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                self._permissions.make_folder(folder)
                self._unsynced |= {folder, folder.parent}
        if len(self._folders) >= _KNOWN_FOLDERS:
            self._folders.clear()
        self._folders.add(folder)

    def _sync(self) -> None:
        """Make the new names durable."""
        while self._unsynced:
            folder = next(iter(self._unsynced))
            fsync_folder(folder)
            self._unsynced.remove(folder)  # not `pop`: it may remove another element than `next(iter(...))` gave

    def _condition(self, error: OSError) -> StorageUnavailable:
        """Condition of the machine that an error of the media folder means.

        Raises:
            OutOfSpace: Disk or quota are full.
        """
        what = f"media folder {self._media}"
        if is_out_of_space(error):
            raise storage_error(what, error) from error
        return StorageUnavailable(what, error)


def _alternatives(wanted: str, others: Sequence[str], name: str) -> Iterator[str]:
    """Further output bases to try; the last is taken only if somebody has made such a file on purpose."""
    yield from others
    yield from (f"{wanted}-{number}" for number in range(2, 10))
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()
    yield from (f"{wanted}-{digest[:16]}", f"~other/{digest[:32]}")


def _check(media: Sequence[MediaFile], folder: Path) -> None:
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


def _identity_of(path: Path) -> tuple[int, int]:
    """(device, inode) of the file or folder at a path."""
    there = path.lstat()
    return there.st_dev, there.st_ino
