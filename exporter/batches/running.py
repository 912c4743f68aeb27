"""One start of one batch: its units exported with the engine of every export, its results kept below the batch.

Contract: nothing outside the folder of this start, ``OUT/batches/N/run-K``, is written, and the ledger is in a folder
for temporary files of this host. Media have their bytes and permissions, and names by number (``media/0/17.png``): the
merge gives them their own. Attempts are in the journal before they begin, outcomes when their media are durable. A
start continues where all earlier ones ended, those that still run included.

Must never: touch anything on a host that has another version, another view of the input, or a changed plan.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exporter.batches import journal
from exporter.batches.journal import (
    BEGUN,
    DEFERRED,
    ENDED,
    FINISHED,
    INTERRUPTED,
    WITHDRAWN,
    BatchJournal,
    entry_for,
    new_run,
    run_folder,
    runs_of,
    scan,
)
from exporter.batches.plan import SAMPLE, BatchPlan, BatchUnusable, private
from exporter.batches.source import BatchReader, JournalMemory
from exporter.inputs.backfill import RETRY_AFTER_S, reader_of
from exporter.inputs.entry_source import EntrySource, Progress, exported
from exporter.inputs.scratch import Scratch
from exporter.machine_conditions import storage_error
from exporter.outcome import to_json
from exporter.results.ledger import Ledger
from exporter.results.metadata.jsonl import Appender
from exporter.results.output_names import PARTIAL
from exporter.results.publish import NameChoice, Publisher
from exporter.services.context import media_store, own_version, runners
from exporter.settings.permissions import MediaPermissions
from exporter.work.engine import Engine, EnginePolicy
from exporter.writers.discovery import enabled_writers
from listener.foundation.disk import mapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.batches.journal import JournalEntry
    from exporter.outcome import Exported, InstanceIdentity, Skipped
    from exporter.results.ledger import Completed, InstanceRow, WorkItem
    from exporter.settings.settings import Settings

STATUS: Final = "status.json"
REFUSED: Final = "refused.json"
BEAT_S: Final = 5.0
"""Time between two looks at the progress, which are the sign of life of a start."""
_PER_FOLDER: Final = 1000


class BatchLedger(Ledger):
    """A ledger whose transitions are in a journal before they are in its database."""

    journal: BatchJournal | None = None
    """None while the transitions of earlier starts are made again."""
    places: dict[str, tuple[int, int]]
    """Places of entries by name."""

    def begin_many(self, works: Iterable[WorkItem], numbers: Iterable[int] | None = None) -> list[InstanceRow]:
        """See `Ledger`."""
        works = list(works)
        self._note([(BEGUN, work) for work in works])
        return super().begin_many(works, numbers)

    def interrupt(self, name: str, message: str) -> int:
        """See `Ledger`."""
        self._note_name(INTERRUPTED, name)
        return super().interrupt(name, message)

    def defer(self, name: str, reason: str, message: str, not_before: float) -> None:
        """See `Ledger`."""
        self._note_name(DEFERRED, name)
        super().defer(name, reason, message, not_before)

    def withdraw(self, name: str) -> None:
        """See `Ledger`."""
        self._note_name(WITHDRAWN, name)
        super().withdraw(name)

    def finish_many(self, completed: Iterable[Completed]) -> tuple[str, ...]:
        """See `Ledger`."""
        completed = list(completed)
        if self.journal is not None:
            self.journal.append(*map(self._finished, completed))
        return super().finish_many(completed)

    def _finished(self, one: Completed) -> tuple[dict[str, object], bytes]:
        decided = self._decision(one.work.name)
        identity = decided[0] if decided is not None else None
        values = (
            None
            if identity is None
            else (
                identity.sop_class_uid,
                identity.sop_instance_uid,
                identity.study_instance_uid,
                identity.series_instance_uid,
                identity.content_sha256,
            )
        )
        return entry_for(FINISHED, one.work, self.places[one.work.name], identity=values), to_json(one.outcome)

    def _note(self, events: list[tuple[str, WorkItem]]) -> None:
        if self.journal is not None and events:
            self.journal.append(*((entry_for(event, work, self.places[work.name]), b"") for event, work in events))

    def _note_name(self, event: str, name: str) -> None:
        if self.journal is not None:
            self.journal.append(({"event": event, "name": name}, b""))


class BatchPublisher(Publisher):
    """Gives media names by number, all of them free, and leaves lines to the merge."""

    def __init__(self, folder: Path, ledger: BatchLedger, settings: Settings) -> None:
        """Publish below the folder of a start."""
        permissions = MediaPermissions.of(settings.media.mode, settings.media.group)
        self.store = media_store(settings, folder, permissions)
        self._has_lines = settings.media.store == "shards"
        super().__init__(
            folder,
            ledger,
            NameChoice(settings.media.layout),
            settings_sha256=settings.settings_sha256,
            version=own_version(),
            store=self.store,
        )
        self._places = ledger.places
        self._numbers: dict[str, int] = {}

    def wanted_base(self, work: WorkItem, identity: InstanceIdentity) -> str:  # noqa: ARG002 - names do not depend on it
        """See `Publisher`."""
        number = self._numbers.setdefault(work.name, len(self._numbers))
        return f"media/{number // _PER_FOLDER}/{number}"

    def _base(self, work: WorkItem, identity: InstanceIdentity, suffixes: Iterable[str]) -> str:  # noqa: ARG002
        return self.wanted_base(work, identity)

    def _line(
        self, completed: Completed, outcome: Exported | Skipped, rejection: Mapping[str, str] | None = None
    ) -> bytes:
        return super()._line(completed, outcome, rejection) if self._has_lines else b"{}\n"


class _NoLines(Appender):
    """No metadata file: the merge writes it."""

    def __init__(self) -> None:
        pass

    def publish(self) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """How one start of a batch ended."""

    is_complete: bool
    """Whether every instance of the batch has an outcome."""
    progress: Progress


def run_batch(
    plan: BatchPlan, number: int, *, workers: int | None, progress: Progress, stop: threading.Event
) -> BatchEnd:
    """Export what is left of a batch.

    Args:
        plan: The plan.
        number: Of the batch.
        workers: Worker processes; None for those of the settings.
        progress: Updated during the run, beginning with what earlier starts did.
        stop: When set, no instance begins, and those under way get a moment to finish.

    Raises:
        BatchUnusable: This host must not run it, or the plan was changed; `exporter backfill status` shows why.
        MachineCondition: The disk is full, or a folder of ours has gone.
        LedgerUnusable, WorkerUnstartable, WriterUnusable: Why it cannot run.
    """
    folder = plan.folder_of(number)
    if is_complete(folder):
        return BatchEnd(is_complete=True, progress=progress)
    with _refusal_shown(folder):
        settings, units = plan.settings(), plan.units_of(number)
        refuse_other_host(plan, settings)
        enabled_writers(settings.writers)
    with mapped(lambda error: storage_error(f"folder of the batch {folder}", error)):
        run = new_run(folder)
    earlier = _earlier(folder, run)
    memory = JournalMemory({name: failed for name, (failed, _) in earlier.finished.items()})
    earlier.count(progress)
    request = plan.request(settings)
    reader = BatchReader(reader_of(request), Path(plan.folder), units, memory)
    with ExitStack() as stack:
        here = run_folder(folder, run)
        with mapped(lambda error: storage_error(f"folder of the batch {folder}", error)):
            (folder / REFUSED).unlink(missing_ok=True)
            (here / PARTIAL).mkdir(mode=0o700)
        ledger = stack.enter_context(_ledger(earlier, memory))
        stack.enter_context(_sign_of_life(here, progress))
        scratch = stack.enter_context(Scratch(here / PARTIAL / "copies", settings.archives.copies_bytes))
        ledger.journal = stack.enter_context(BatchJournal(here))
        publisher = BatchPublisher(here, ledger, settings)
        stack.callback(publisher.store.close)
        engine = _engine(here, ledger, publisher, settings, settings.workers if workers is None else workers)
        stack.callback(engine.stop)
        engine.start()
        source = EntrySource(reader, memory, scratch, progress)
        for _ in exported(engine, source, stop):
            pass
        complete = not stop.is_set() and not source.pending
        engine.stop()
        publisher.store.close()
        ledger.journal.append(({"event": ENDED, "complete": complete}, b""))
    shutil.rmtree(here / PARTIAL, ignore_errors=True)
    return BatchEnd(complete, progress)


def is_complete(folder: Path) -> bool:
    """Whether a start of the batch in this folder has finished it."""
    return any(_ended_complete(run_folder(folder, run) / journal.JOURNAL) for run in reversed(runs_of(folder)))


def _ended_complete(path: Path) -> bool:
    """Whether the last line of a journal says so; only its end is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    except OSError:
        return False
    return b'"event":"ended","complete":true' in last


# -- the host --------------------------------------------------------------------------------------------------------


def refuse_other_host(plan: BatchPlan, settings: Settings) -> None:
    """Return where this host does what the one that planned would do.

    Raises:
        BatchUnusable: It does not.
    """
    if own_version() != plan.version:
        hint = "install the version of the plan on every host"
        raise BatchUnusable(f"this host has version {own_version()}, the plan was made by {plan.version}", hint=hint)
    settings.by_ae_title  # noqa: B018 - made now: a setting that is wrong on this host is found before the first file
    root = Path(plan.folder) if Path(plan.folder).is_dir() else Path(plan.folder).parent
    there = [name for name in plan.sample[:: max(1, len(plan.sample) // SAMPLE)] if _is_there(root, name)]
    if not os.path.exists(plan.folder) or (plan.sample and not there):  # noqa: PTH110 - False where it cannot be read
        cause = "it is not mounted here, or is another folder" if plan.sample else "it is not there"
        raise BatchUnusable("this host does not see the input folder as it was planned", cause, "mount it, and resume")


def _is_there(root: Path, planned: tuple[str, int, int]) -> bool:
    try:
        about = (root / planned[0]).lstat()
    except OSError:
        return False
    return (about.st_size, about.st_mtime_ns) == planned[1:]


@contextmanager
def _refusal_shown(folder: Path) -> Iterator[None]:
    """Leave the sentence of a refusal in the folder of the batch, where it can be written."""
    try:
        yield
    except BatchUnusable as error:
        with suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(folder / REFUSED, {"host": socket.gethostname(), "sentence": str(error)})
        raise


def replace_file(path: Path, content: object, *, durable: bool = False) -> None:
    """Write a JSON file whole, or leave the one before it; synced if `durable`, but for its name.

    Raises:
        OSError: It cannot be written.
    """
    fresh = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
    with open(fresh, "w", encoding="ascii", opener=private) as file:
        json.dump(content, file)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)


# -- earlier starts --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Earlier:
    """What the journals of earlier starts say."""

    finished: dict[str, tuple[bool, str]]
    """By name: whether it failed, and its status with its reason (``skipped/no_media``)."""
    sizes: dict[str, int]
    events: list[list[JournalEntry]]
    """Transitions of unfinished instances, start by start."""

    def count(self, progress: Progress) -> None:
        """Count what was finished before."""
        for name, (_, what) in self.finished.items():
            status, _, reason = what.partition("/")
            if status == "exported":
                progress.exported += 1
            else:
                (progress.skipped if status == "skipped" else progress.failed)[reason] += 1
            progress.bytes += self.sizes[name]


def _earlier(folder: Path, run: int) -> _Earlier:
    """Read the journals of all starts before this one.

    Raises:
        BatchUnusable: One cannot be read.
    """
    earlier = _Earlier({}, {}, [])
    try:
        for before in (one for one in runs_of(folder) if one != run):
            entries = scan(folder, before)
            finished = [entry for entry in entries if entry.event == FINISHED]
            for entry, text in zip(finished, journal.outcomes(folder, finished), strict=True):
                said = json.loads(text)
                what = f"{said['status']}/{said.get('reason', '')}"
                earlier.finished.setdefault(entry.name, (said["status"] == "failed", what))
                earlier.sizes.setdefault(entry.name, entry.work.size_bytes)
            earlier.events.append([entry for entry in entries if entry.event not in {FINISHED, ENDED}])
    except OSError as error:
        raise BatchUnusable(f"journals in {folder}", f"{error.strerror}", "check that OUT is mounted") from error
    earlier.events = [[one for one in events if one.name not in earlier.finished] for events in earlier.events]
    return earlier


def _replay(ledger: BatchLedger, earlier: _Earlier) -> None:
    """Make the transitions of unfinished instances again, the end of every start included."""
    for events in earlier.events:
        for entry in events:
            with suppress(LookupError, ValueError):  # a start that runs still, beside a later one
                match entry.event:
                    case journal.BEGUN:
                        ledger.begin_attempt(entry.work)
                    case journal.DEFERRED:
                        ledger.defer(entry.name, "deferred", "", 0)
                    case journal.INTERRUPTED:
                        ledger.interrupt(entry.name, "")
                    case _:
                        ledger.withdraw(entry.name)
        ledger.recover()


@contextmanager
def _ledger(earlier: _Earlier, memory: JournalMemory) -> Iterator[BatchLedger]:
    """The ledger of this start, in a folder for temporary files."""
    base = os.environ.get("SLURM_TMPDIR", "")
    with (
        tempfile.TemporaryDirectory(
            prefix="exporter-batch-", dir=base if base and Path(base).is_dir() else None, ignore_cleanup_errors=True
        ) as folder,
        BatchLedger.open(Path(folder) / "exporter.db") as ledger,
    ):
        ledger.places = memory.places
        _replay(ledger, earlier)
        yield ledger


def _engine(folder: Path, ledger: BatchLedger, publisher: BatchPublisher, settings: Settings, workers: int) -> Engine:
    policy = EnginePolicy(settings.limits.attempts, RETRY_AFTER_S, skip_duplicates=False)
    return Engine(folder, ledger, publisher, _NoLines(), runners=runners(settings, workers), policy=policy)


# -- status ----------------------------------------------------------------------------------------------------------


@contextmanager
def _sign_of_life(folder: Path, progress: Progress) -> Iterator[None]:
    """Write the progress every `BEAT_S`, and at the end; a file system that refuses is noticed elsewhere."""
    done, started, before = threading.Event(), time.monotonic(), progress.settled

    def write() -> None:
        with suppress(OSError):
            replace_file(
                folder / STATUS, _standing(progress, before, time.monotonic() - started, is_over=done.is_set())
            )

    def repeat() -> None:
        while not done.wait(BEAT_S):
            write()

    write()
    thread = threading.Thread(target=repeat, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        write()


def _standing(progress: Progress, before: int, seconds: float, *, is_over: bool) -> dict[str, object]:
    reasons = {
        word: dict(Counter(found)) for word, found in (("skipped", progress.skipped), ("failed", progress.failed))
    }
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "seconds": round(seconds, 1),
        "before": before,
        "is_over": is_over,
        "exported": progress.exported,
        **reasons,
        "bytes": progress.bytes,
    }
