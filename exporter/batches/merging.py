"""The merge: what the batches left becomes one output folder, equal to that of a local run.

Contract: relations, output names and metadata lines are decided here, for all instances in walk order, by the ledger
that decides them in a local run, so that they do not depend on batches, workers or order of finishing. Of several
outcomes of one instance, that of the first start counts. The merge has two halves:

- `_prepare` changes nothing that was exported. It makes the new ledger and a list of moves in ``OUT/batches/merge``,
  which appears whole.
- `_apply` renames media, removes those that are superseded, writes series volumes and metadata lines, and puts the new
  ledger in place. Every step can be repeated, so that a merge that was killed is finished by the next one.

The ledger is worked on in a folder for temporary files of this host; only the finished file comes to OUT.

Must never: replace a file that is not the exporter's, or lose an outcome that a journal has.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from exporter.batches.journal import chosen, outcomes, run_folder, sizes_of
from exporter.batches.plan import MERGED, BatchPlan, BatchUnusable, is_merged, private
from exporter.batches.running import is_complete, replace_file
from exporter.batches.shards import MergeShards, apply_shards, forget_index_lines
from exporter.errors import StorageUnavailable
from exporter.inputs.backfill import reader_of
from exporter.inputs.scratch import Scratch
from exporter.machine_conditions import storage_error
from exporter.outcome import Exported, Failed, Skipped, from_json
from exporter.results import intents, ownership
from exporter.results.ledger import Completed, Ledger
from exporter.results.metadata.jsonl import Appender
from exporter.results.output_names import PARTIAL
from exporter.results.publish import NameChoice, Publisher
from exporter.results.rejections import OnRejection, Rejections
from exporter.results.stores.files import FilesStore, remove_media
from exporter.results.stores.shard_removal import remove_members
from exporter.results.stores.shards import ShardLimits
from exporter.services.context import own_version
from exporter.settings.permissions import MediaPermissions
from listener.foundation.disk import mapped
from listener.foundation.durable import fsync_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from exporter.batches.journal import JournalEntry
    from exporter.outcome import MediaFile, Outcome
    from exporter.results.stores.contract import InstanceMedia
    from exporter.services.context import OutputPaths
    from exporter.settings.settings import Settings

T = TypeVar("T")

MERGE: Final = "merge"
_MOVES: Final = "moves"
_SUPERSEDED: Final = "superseded"
_REPORT: Final = "report.json"
_LEDGER: Final = "exporter.db"
_PLACED: Final = "merged_plan"
"""Key of the ledger's progress with the id of the plan that was merged last."""
_CHUNK: Final = 500
"""Instances of one transaction."""


@dataclass(slots=True)
class MergeReport:
    """Counts of a merge."""

    exported: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    conflicts: int = 0
    left: list[int] = field(default_factory=list)
    """Numbers of batches that are not complete: their other instances are left for another plan."""

    def add(self, completed: Completed) -> None:
        """Count one outcome."""
        match completed.outcome:
            case Exported():
                self.exported += 1
            case Skipped(reason=reason):
                self.skipped[reason] += 1
            case Failed(reason=reason):
                self.failed[reason] += 1
        self.duplicates += completed.relation.duplicate_of is not None
        self.conflicts += completed.relation.conflict_with is not None

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


class MergeStopped(BatchUnusable):
    """A merge was asked to stop before it was done; the next one goes on."""

    exit_code = 130


class MergeLedger(Ledger):
    """A ledger that remembers which plan was merged into it."""

    def note_merged(self, plan_id: int) -> None:
        """Remember a plan, durably."""
        statement = "INSERT OR REPLACE INTO progress VALUES (?, ?)"
        self._write(lambda connection: connection.execute(statement, (_PLACED, plan_id)))


def merge(
    output: Path, *, incomplete: bool = False, take_over: bool = False, stop: threading.Event | None = None
) -> MergeReport:
    """Merge what the batches of a plan left; a plan that is merged stays as it is.

    Args:
        output: The output folder.
        incomplete: Whether batches that are not complete are merged as far as they are.
        take_over: Whether to take the media folder from an exporter that cannot be reached.
        stop: When set, the merge ends soon; the next one goes on.

    Raises:
        MergeStopped: `stop` was set.
        BatchUnusable: Batches are not complete, or what they left was changed.
        MediaFolderTaken: Another exporter works on the output.
        MachineCondition: The disk is full, or a folder is gone; the same call goes on from here.
    """
    plan, stop = BatchPlan.read(output), stop or threading.Event()
    if is_merged(plan.root):
        _remove_leftovers(plan)
        return _read_report(plan.root / MERGED)
    if own_version() != plan.version:
        raise BatchUnusable(
            f"this host has version {own_version()}, the plan was made by {plan.version}",
            hint="merge with the version of the plan",
        )
    settings = plan.settings()
    places = plan.request(settings).places
    with ExitStack() as stack:
        stack.enter_context(mapped(lambda error: storage_error(f"merge in {plan.output}", error)))
        permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
        permissions.make_folders(places.media)
        media = places.media.resolve()
        has_locks = stack.enter_context(ownership.locked(media))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exporter-merge-")))
        making: Path | None = None
        with _working_copy(places.ledger, scratch / _LEDGER) as ledger:
            owns = stack.enter_context(ownership.owned(media, ledger, has_locks=has_locks, take_over=take_over))
            preparation = _Preparation(plan, settings, ledger, media, stop)
            if not (plan.root / MERGE).is_dir():
                left = _refuse_incomplete(plan, incomplete=incomplete)
                remove_members(media, ledger.superseded())
                intents.recover(media, ledger)
                ledger.recover()
                making = preparation.prepare(left)
        if making is not None:
            preparation.seal(making)
        _Application(plan, settings, media, permissions, owns, stop=stop).apply(scratch)
    return _read_report(plan.root / MERGED)


def _refuse_incomplete(plan: BatchPlan, *, incomplete: bool) -> list[int]:
    """Numbers of batches that are not complete.

    Raises:
        BatchUnusable: There are, and `incomplete` is false.
    """
    left = [batch.number for batch in plan.batches if not is_complete(plan.folder_of(batch.number))]
    if left and not incomplete:
        hint = "run what is left (`exporter batch commands OUT` lists it), or merge with --incomplete"
        raise BatchUnusable(f"{len(left)} of {len(plan.batches)} batches are not complete", hint=hint)
    return left


def _heed(stop: threading.Event, plan: BatchPlan) -> None:
    """Return while the merge may go on.

    Raises:
        MergeStopped: It was asked to stop.
    """
    if stop.is_set():
        raise MergeStopped(f"the merge in {plan.output} was stopped", hint="the same command goes on")


def _read_report(path: Path) -> MergeReport:
    said = json.loads(path.read_bytes())
    said["skipped"], said["failed"] = Counter(said["skipped"]), Counter(said["failed"])
    return MergeReport(**said)


@contextmanager
def _working_copy(path: Path, copy: Path) -> Iterator[MergeLedger]:
    """A copy of a ledger, or a new one, open in a folder for temporary files.

    Raises:
        LedgerUnusable: It cannot be used.
    """
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size:
        Ledger.open(path).close()  # an exporter was killed: its log is moved into the database
    if path.exists():
        shutil.copyfile(path, copy)
    with MergeLedger.open(copy) as ledger:
        yield ledger


# -- first half ------------------------------------------------------------------------------------------------------


class MergePublisher(Publisher):
    """A publisher that notes which media to move and which to delete, and does neither."""

    def __init__(self, media: Path, ledger: MergeLedger, settings: Settings, making: Path) -> None:
        """Note moves and superseded files in the folder `making`."""
        super().__init__(
            media,
            ledger,
            NameChoice(settings.media.layout, overwrite=settings.media.overwrite),
            settings_sha256=settings.settings_sha256,
            version=own_version(),
            rejections=_rejections(settings, ledger, media, media),
        )
        self._root = making.parent
        self._media_folder = media
        self.shards: MergeShards | None = None
        if settings.media.store == "shards":
            permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
            limits = ShardLimits(settings.media.shard_bytes, settings.media.shard_instances)
            self.shards = MergeShards(media, making, permissions, limits)
        self._moves = open(making / _MOVES, "wb", opener=private)  # noqa: SIM115 - `close` closes it
        self._deletions = open(making / _SUPERSEDED, "wb", opener=private)  # noqa: SIM115 - likewise

    def close(self) -> None:
        """Make the notes durable."""
        if self.shards is not None:
            self.shards.close()
        for file in (self._moves, self._deletions):
            file.flush()
            os.fsync(file.fileno())
            file.close()

    def _check(self, media: Sequence[MediaFile], folder: Path) -> None:
        if self.shards is None:
            super()._check(media, folder)

    def _put(self, media: InstanceMedia) -> None:
        if self.shards is not None:
            for path, target in self.shards.put(run_of(media.folder), media):
                self._moves.write(_noted([_from(self._root, path), target]))
            for one in media.final:
                if os.path.lexists(self._media_folder / one.file):  # an earlier export was kept in files
                    self._deletions.write(_noted(one.file))
            return
        source = media.folder.relative_to(self._root)
        for before, after in zip(media.partial, media.final, strict=True):
            self._moves.write(_noted([f"{source}/{before.file}", after.file]))

    def _tidy(self, superseded: Sequence[str], folders: Iterable[Path | None]) -> None:  # noqa: ARG002
        for path in superseded:
            self._deletions.write(_noted(path))


def _rejections(settings: Settings, ledger: Ledger, media: Path, output: Path) -> Rejections:
    store = FilesStore(media, MediaPermissions.of(settings.media.mode, settings.media.group))
    return Rejections(ledger, store, output, OnRejection(settings.media.on_rejection), own_version())


def run_of(folder: Path) -> Path:
    """Folder of the start whose media have names in this folder (`exporter.batches.running`)."""
    return folder.parents[1]


def _from(root: Path, path: Path) -> str:
    """Path relative to the folder of the plan; the folder that a preparation makes has the merge's name by then."""
    first, *others = path.relative_to(root).parts
    return "/".join([MERGE if first.startswith(f".{MERGE}-") else first, *others])


def _noted(value: object) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"


class _Preparation:
    """Decides relations, names and lines; changes nothing but the ledger and the folder that it makes."""

    def __init__(
        self, plan: BatchPlan, settings: Settings, ledger: MergeLedger, media: Path, stop: threading.Event
    ) -> None:
        self._stop = stop
        self._plan = plan
        self._settings = settings
        self._ledger = ledger
        self._media = media
        self._report = MergeReport()

    def prepare(self, left: list[int]) -> Path:
        """Decide everything.

        Returns:
            The folder with the notes, which `seal` makes that of the merge.

        Raises:
            BatchUnusable: What a batch left was changed.
            MergeStopped: It was asked to stop.
        """
        for old in self._plan.root.glob(f".{MERGE}-*"):
            shutil.rmtree(old)
        self._report.left = left
        making = self._plan.root / f".{MERGE}-{secrets.token_hex(8)}"
        making.mkdir(mode=0o700)
        with closing(MergePublisher(self._media, self._ledger, self._settings, making)) as publisher:
            for batch in self._plan.batches:
                self._publish_batch(batch.number, publisher)
        self._ledger.forget_superseded(self._ledger.superseded())
        self._ledger.note_merged(self._plan.id)
        return making

    def seal(self, making: Path) -> None:
        """Add the ledger, which is closed, and let the folder of the merge appear."""
        _copy_durably(self._ledger.path, making / _LEDGER)
        replace_file(making / _REPORT, self._report.as_json(), durable=True)
        fsync_folder(making)
        making.rename(self._plan.root / MERGE)
        fsync_folder(self._plan.root)

    def _results(self, number: int, shards: MergeShards | None = None) -> Iterator[tuple[JournalEntry, Outcome, Path]]:
        """Outcomes of one batch in the order of a local run, with the folder of its media.

        Raises:
            BatchUnusable: A batch that is complete lacks some, or a medium is gone.
        """
        folder = self._plan.folder_of(number)
        found = chosen(folder, sizes_of(folder))
        hint = f"remove {folder} and resume: the batch is run again"
        if number not in self._report.left:
            units = self._plan.units_of(number)
            lacking = sum(unit.name not in found for unit in units)
            if lacking:
                raise BatchUnusable(f"batch {number}", f"its journals lack {lacking} of {len(units)} outcomes", hint)
        entries = sorted(found.values(), key=lambda entry: entry.place)
        for entry, text in zip(entries, outcomes(folder, entries), strict=True):
            outcome, media = from_json(text), run_folder(folder, entry.run)
            if isinstance(outcome, Exported):
                media /= outcome.media[0].file.rstrip("/").rpartition("/")[0]
                names = tuple(replace(one, file=one.file.rstrip("/").rpartition("/")[2]) for one in outcome.media)
                outcome = replace(outcome, media=names)
                if shards is None:
                    gone = [one.file for one in names if not os.path.lexists(media / one.file)]
                else:
                    gone = [] if shards.has(run_of(media), entry.name) else [names[0].file]
                if gone:
                    raise BatchUnusable(f"batch {number}", f"media of start {entry.run} are gone: {gone[0]}", hint)
            yield entry, outcome, media

    def _publish_batch(self, number: int, publisher: MergePublisher) -> None:
        if publisher.shards is not None:
            publisher.shards.begin_batch(self._plan.folder_of(number))
        for chunk in _chunks(self._results(number, publisher.shards), _CHUNK):
            _heed(self._stop, self._plan)
            self._publish(chunk, publisher)
        if publisher.shards is not None:
            publisher.shards.end_batch()

    def _publish(self, results: Sequence[tuple[JournalEntry, Outcome, Path]], publisher: MergePublisher) -> None:
        works = [entry.work for entry, _, _ in results]
        self._ledger.begin_many(works)
        completed = []
        for work, (entry, outcome, folder) in zip(works, results, strict=True):
            relation = self._ledger.identify(work.name, entry.identity, work.ae_title)
            completed.append(Completed(work, outcome, relation, folder))
            self._report.add(completed[-1])
        refused = [one for one in publisher.publish(completed) if isinstance(one, StorageUnavailable)]
        if refused:
            raise refused[0]


def _remove_leftovers(plan: BatchPlan) -> None:
    """Remove what the batches of a plan that is merged have left."""
    for batch in plan.batches:
        shutil.rmtree(plan.folder_of(batch.number), ignore_errors=True)
        (plan.root / f"units-{batch.number}").unlink(missing_ok=True)
    shutil.rmtree(plan.root / MERGE, ignore_errors=True)


def _chunks(values: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(values, size)):
        yield chunk


def _copy_durably(source: Path, target: Path) -> None:
    with source.open("rb") as file, open(target, "wb", opener=private) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())


# -- second half -----------------------------------------------------------------------------------------------------


class _Application:
    """Does what a preparation decided; every step can be repeated."""

    def __init__(
        self,
        plan: BatchPlan,
        settings: Settings,
        media: Path,
        permissions: MediaPermissions,
        owns: ownership.Ownership,
        *,
        stop: threading.Event,
    ) -> None:
        self._owns = owns
        self._stop = stop
        self._plan = plan
        self._settings = settings
        self._media = media
        self._permissions = permissions
        self._folder = plan.root / MERGE
        self._unsynced: set[Path] = set()
        self._made: set[Path] = set()

    def apply(self, scratch: Path) -> None:
        """Bring media, series volumes, lines and ledger to their places, and remove what the batches left."""
        places = self._plan.request(self._settings).places
        if not self._is_placed(places.ledger):
            forget_index_lines(self._folder, self._media)
            self._move()
            self._delete()
            apply_shards(self._folder, self._media, self._permissions)
            ledger_file = scratch / "applied.db"
            shutil.copyfile(self._folder / _LEDGER, ledger_file)
            with MergeLedger.open(ledger_file) as ledger:
                self._write_series(ledger)
                _heed(self._stop, self._plan)
                self._append_lines(ledger, places.metadata)
            self._place(ledger_file, places.ledger)
        self._carry_out_rejections(places)
        replace_file(self._plan.root / MERGED, json.loads((self._folder / _REPORT).read_bytes()), durable=True)
        fsync_folder(self._plan.root)
        _remove_leftovers(self._plan)

    def _carry_out_rejections(self, places: OutputPaths) -> None:
        """Withdraw or flag what was published before the rejection note that names it."""
        with Ledger.open(places.ledger) as ledger:
            rejections = _rejections(self._settings, ledger, self._media, places.ledger.parent)
            while rejections.carry_out():
                pass
            with Appender(places.metadata, ledger, append=self._settings.metadata.append) as appender:
                appender.publish()

    def _is_placed(self, path: Path) -> bool:
        if not path.exists():
            return False
        with Ledger.open_read_only(path) as ledger:
            return ledger.progress().get(_PLACED) == self._plan.id

    def _move(self) -> None:
        with (self._folder / _MOVES).open("rb") as file:
            for number, text in enumerate(file):
                if number % 100 == 0:
                    self._owns.confirm()
                    _heed(self._stop, self._plan)
                source, target = json.loads(text)
                self._move_one(self._plan.root / source, self._media / target, number)
                if number % 1000 == 999:
                    self._sync()
        self._sync()

    def _move_one(self, source: Path, target: Path, number: int) -> None:
        if not os.path.lexists(source):
            if not os.path.lexists(target):
                hint = "restore it, or remove the batch's folder and the folder `merge` beside it, and resume"
                raise BatchUnusable(f"medium {source}", "it was removed while it was merged", hint)
            return  # an earlier merge has moved it
        if target.parent not in self._made:
            self._permissions.make_folders(target.parent)
            self._made.add(target.parent)
            self._unsynced |= {target.parent, target.parent.parent}
        if source.is_dir() and target.is_dir():
            target.rename(self._folder / f"former-{number}")  # a folder with files cannot be replaced at once
        source.rename(target)
        self._unsynced.add(target.parent)

    def _sync(self) -> None:
        for folder in self._unsynced:
            fsync_folder(folder)
        self._unsynced.clear()
        self._made.clear()

    def _delete(self) -> None:
        """Remove media of earlier exports that nothing owns any more."""
        with (self._folder / _SUPERSEDED).open("rb") as file:
            for paths in _chunks(map(json.loads, file), _CHUNK):
                remove_media(self._media, paths)

    def _append_lines(self, ledger: Ledger, metadata: Path) -> None:
        """Append the lines of the merge.

        The copy of the ledger does not know what an interrupted merge has appended: a mark says that the file may hold
        lines of ours already, and every line in it is compared.
        """
        begun = self._folder / "lines-begun"
        with Appender(metadata, ledger, append=self._settings.metadata.append or begun.exists()) as appender:
            begun.touch(mode=0o600)
            fsync_folder(self._folder)
            appender.publish()

    def _write_series(self, ledger: Ledger) -> None:
        """Write volumes of whole series, as a local run does at its end."""
        if not self._settings.volume.series:
            return
        from exporter.series.folder import open_series_folder
        from exporter.series.found import write_found

        request = self._plan.request(self._settings)
        reader = reader_of(request)
        copies = self._media / PARTIAL / f"copies-{ledger.mark}-{os.getpid()}"
        with (
            Scratch(copies, self._settings.archives.copies_bytes) as scratch,
            open_series_folder(request.target.output, self._settings, own_version()) as folder,
        ):

            def together(names: Sequence[str]) -> AbstractContextManager[list[Path]]:
                return reader.together(names, scratch)

            write_found(together, folder, ledger, self._settings, self._stop)

    def _place(self, ledger_file: Path, path: Path) -> None:
        """Put the new ledger in its place; SQLite files that go with the old one, which is whole, are removed first."""
        self._owns.confirm()
        fresh = path.with_name(f"{path.name}.merged")
        _copy_durably(ledger_file, fresh)
        for suffix in ("-wal", "-shm"):
            path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
        fresh.replace(path)
        fsync_folder(path.parent)
