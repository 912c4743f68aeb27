"""Supervision of one worker process: starts it, gives it one job at a time, limits it from outside, and ends it.

Contract: `Worker.run` returns an `Outcome` whatever the input does to the process: a crash, an endless loop, too much
memory and invalid messages are outcomes too. They cost this one process; the next job gets a new one. Each `Worker`
belongs to one thread; only `cancel` may be called from another.

Must never: trust a message of a worker beyond its form, show what a worker printed, or leave a process behind.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.errors import DecoderCrash, ExportTimeout, OutOfSpace, ProcessorTimeSpent, StorageUnavailable
from exporter.outcome import Failed, InstanceIdentity, Outcome, from_json
from exporter.privacy.input_names import InputNames
from exporter.work.protocol import message_of
from exporter.work.worker_server import WORKER_VARIABLES, WORKERS
from exporter.writers.discovery import installed_writers
from listener.foundation.errors import Unusable
from listener.foundation.processes import ChildProcess, exit_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.settings.settings import Settings
    from exporter.work.protocol import Decide, WorkerJob

PIPELINE: Final = "exporter.work.pipeline:Pipeline"
START_TRIES: Final = 3
START_S: Final = 120.0
"""Longest time that a process may take to load its libraries."""
GROWTH_BYTES: Final = 160 << 20
"""Growth of its memory since its start after which a process is replaced."""
LONGEST_MESSAGE_BYTES: Final = 256 << 20
"""Longer than any record, since headers and the values taken from them are limited."""
TICK_S: Final = 1.0
_CHUNK: Final = 1 << 20
_LAST_WORDS_BYTES: Final = 4096
_DEATH_S: Final = 5.0
"""A process closes its pipe a moment before its end."""


class WorkerUnstartable(Unusable):
    """Worker processes do not start: nothing can be exported, through no fault of an instance."""


class Cancelled(Exception):
    """The exporter stops: the job was aborted and has no outcome."""


class WorkerKilled(Exception):
    """The process was killed from outside, most likely because memory is short: the job has no outcome."""


class SetAside(Exception):
    """The job took long while others waited: it was aborted and has no outcome."""


def _always() -> bool:
    return True


def key_fingerprint_of(settings: Settings) -> str | None:
    """Check the key and the programs of de-identification, without loading its libraries where it is off.

    Returns:
        Fingerprint of the key; None where no instance is de-identified.

    Raises:
        KeyUnusable, TextDetectionMissing: Instances cannot be de-identified as the settings say.
    """
    if not settings.deidentifies:
        return None
    from exporter.privacy.profile import checked_fingerprint

    return checked_fingerprint(settings)


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """Settings and limits of a worker process."""

    settings: Mapping[str, Any]
    """Settings for the target, as JSON values."""
    memory_bytes: int = 2 << 30
    file_bytes: int = 64 << 30
    """Largest file that a worker may write."""
    cpu_s: float = 600.0
    """Processor time that any job may take."""
    cpu_base_s: float = math.inf
    """Processor time that a job may take however small its file is, and seconds for each megabyte."""
    cpu_s_per_mb: float = 0.0
    wall_s: float = 900.0
    target: str = PIPELINE
    """``module:function`` that makes the export function from the settings."""
    start_s: float = START_S
    growth_bytes: int = GROWTH_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Make it from the settings, those of single AE titles included.

        Raises:
            KeyUnusable, TextDetectionMissing: Instances cannot be de-identified as the settings say.
        """
        limits = settings.limits
        names = InputNames.of(settings)
        own = {names.ae_title(title): _worker_settings(one) for title, one in settings.by_ae_title.items()}
        writers = [asdict(one.origin) for one in installed_writers()]
        return cls(
            {
                **_worker_settings(settings),
                "by_ae_title": own,
                "installed_writers": writers,
                "key_fingerprint": key_fingerprint_of(settings),
            },
            memory_bytes=limits.memory_mb << 20,
            cpu_s=limits.cpu_s,
            cpu_base_s=limits.cpu_base_s,
            cpu_s_per_mb=limits.cpu_s_per_mb,
            wall_s=limits.wall_s,
        )

    def hello(self) -> dict[str, Any]:
        """First message to the process."""
        return {
            "target": self.target,
            "settings": self.settings,
            "limits": {
                "memory_bytes": self.memory_bytes,
                "file_bytes": self.file_bytes,
                "cpu_s": self.cpu_s,
                "cpu_base_s": min(self.cpu_s, self.cpu_base_s),
                "cpu_s_per_mb": self.cpu_s_per_mb,
                "growth_bytes": self.growth_bytes,
            },
        }


def _worker_settings(settings: Settings) -> dict[str, Any]:
    return {"media": settings.media_settings.model_dump(mode="json"), "settings_sha256": settings.settings_sha256}


class Worker:
    """One worker process after another, for the thread that creates this object."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._setup = setup
        self._child = ChildProcess("exporter.work.worker", environment=WORKER_VARIABLES, fork=WORKERS.fork)
        self._lock = threading.Lock()  # between `cancel` and the start of a process
        self._cancelled = False
        self._may_continue: Callable[[], bool] = _always
        self._received = bytearray()
        self._last_words = b""
        self.last_progress = time.monotonic()
        """Monotonic time of the last progress, for the watchdog."""

    @property
    def has_process(self) -> bool:
        """Whether there is a process, busy or idle."""
        return self._child.exists

    @property
    def starts(self) -> int:
        """Number of processes started so far."""
        return self._child.starts

    # -- life of the process -----------------------------------------------------------------------------------------

    def ensure_ready(self) -> None:
        """Start a process if there is none, and wait until it is ready.

        Raises:
            WorkerUnstartable: It ends or sends nothing before it is ready, several times in a row.
            WorkerKilled: It is killed before it is ready, several times in a row.
            Cancelled: `cancel` was called.
        """
        if self._child.exit_code() is not None:
            self._child.end()  # it died while idle: not the fault of an instance
        tries = 0
        while not self._child.exists:
            try:
                self._try_start()
            except (WorkerUnstartable, WorkerKilled):
                tries += 1
                if tries == START_TRIES:
                    raise

    def _try_start(self) -> None:
        self._start()
        try:
            self._send(self._setup.hello())
            word, _ = self._message(time.monotonic() + self._setup.start_s, "start")
        except (DecoderCrash, ExportTimeout) as gone:
            # No instance was opened yet, so what it printed can be shown.
            last_line = self._last_words.decode("utf-8", "replace").strip().rpartition("\n")[2]
            hint = last_line[:300] or "it printed nothing; raise limits.memory_mb if it is low"
            raise WorkerUnstartable(f"worker processes do not start ({gone}): {hint}") from None
        if word != "ready":
            self._child.end()
            raise WorkerUnstartable(f"a worker process answered {word!r} instead of 'ready'")
        self._last_words = b""

    def _start(self) -> None:
        WORKERS.await_loaded(lambda: not self._cancelled)
        with self._lock:
            if self._cancelled:
                raise Cancelled
            self._child.start(with_pipes=True)
        self._received.clear()
        self._last_words = b""

    def close(self) -> None:
        """End the process, if there is one."""
        self._child.end()

    def cancel(self) -> None:
        """Abort the current job and refuse others; from any thread."""
        self._cancelled = True
        with self._lock:
            self._child.kill()

    # -- one job -----------------------------------------------------------------------------------------------------

    def run(self, job: WorkerJob, decide: Decide, may_continue: Callable[[], bool] = _always) -> Outcome:
        """Export one instance; the time that `decide` takes does not count against its limit.

        Args:
            job: What to export.
            decide: Called once the identity is known.
            may_continue: Called every `TICK_S`; the job is aborted if it returns False.

        Raises:
            OutOfSpace: The worker found the disk full.
            StorageUnavailable: The worker found a folder of ours missing.
            Cancelled: `cancel` was called.
            SetAside: `may_continue` returned False.
            WorkerKilled: Something else killed the process.
            WorkerUnstartable: There is no process, and none starts.
        """
        self.ensure_ready()
        identity: InstanceIdentity | None = None
        self._may_continue = may_continue
        try:
            deadline = time.monotonic() + self._setup.wall_s
            self._send(message_of(job))
            word, text = self._message(deadline, "export")
            if word == "identity":
                identity = _identity(text)
                if identity is None:
                    raise self._nonsense()
                asked_at = time.monotonic()
                skipped = decide(identity)
                self._send("go" if skipped is None else "stop")
                word, text = self._message(deadline + time.monotonic() - asked_at, "export")
                if skipped is not None and word == "stopped":
                    return skipped
            return self._verdict(word, text)
        except (DecoderCrash, ExportTimeout) as gone:
            return Failed.of(gone, identity)
        finally:
            self._may_continue = _always
            self.last_progress = time.monotonic()

    def _verdict(self, word: str, text: bytes) -> Outcome:
        if word == "space":
            raise OutOfSpace(_text(text))
        if word == "unavailable":
            raise StorageUnavailable(_text(text))
        if word in {"outcome", "final"}:
            with suppress(ValueError):  # pydantic's ValidationError is one; its text would quote values
                outcome = from_json(text)
                if word == "final":
                    self._child.end()
                return outcome
        raise self._nonsense()

    def _nonsense(self) -> DecoderCrash:
        self._child.end()
        return DecoderCrash("the worker process gave an answer that makes no sense")

    # -- the pipe ----------------------------------------------------------------------------------------------------

    def _pipes(self) -> tuple[int, int, int]:
        pipes = self._child.pipes
        if pipes is None:
            raise DecoderCrash("the worker process is gone")
        return pipes

    def _send(self, message: object) -> None:
        requests, _, _ = self._pipes()
        rest = memoryview(json.dumps(message).encode("ascii") + b"\n")
        try:
            while rest:
                rest = rest[os.write(requests, rest) :]
        except BrokenPipeError:
            raise self._death() from None

    def _message(self, deadline: float, operation: str) -> tuple[str, bytes]:
        """Next line, as its word and its JSON text; other output of the process is dropped."""
        _, answers, noise = self._pipes()
        poll = select.poll()
        poll.register(answers, select.POLLIN)
        poll.register(noise, select.POLLIN)
        while (end := self._received.find(b"\n")) < 0:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                self._child.end()
                raise ExportTimeout(f"{operation}: took longer than limits.wall_s permits; stopped")
            if not self._may_continue():
                self._child.end()
                raise SetAside
            if len(self._received) > LONGEST_MESSAGE_BYTES:
                raise self._nonsense()
            for fd, _ in poll.poll(min(left_s, TICK_S) * 1000):
                chunk = os.read(fd, _CHUNK)
                if fd == answers:
                    if not chunk:
                        raise self._death()
                    self._received += chunk
                elif chunk:
                    self._last_words = (self._last_words + chunk)[-_LAST_WORDS_BYTES:]
                else:
                    poll.unregister(noise)
            self.last_progress = time.monotonic()
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        word, _, text = line.partition(b" ")
        return word.decode("ascii", "replace"), text

    def _death(self) -> DecoderCrash | ExportTimeout:
        """Error that says why the process has ended.

        Raises:
            Cancelled: `cancel` ended it.
            WorkerKilled: The kernel killed it because memory is short, or a person did.
        """
        code = self._child.end(_DEATH_S) or 0
        if self._cancelled:
            raise Cancelled
        if code == -signal.SIGXCPU:
            message = (
                "used more processor time than is permitted for its size (limits.cpu_s, limits.cpu_base_s, "
                "limits.cpu_s_per_mb, limits.cpu_s_per_megapixel); stopped"
            )
            return ProcessorTimeSpent(message)
        if code == -signal.SIGKILL:
            raise WorkerKilled("a worker process was killed from outside (memory may be short)")
        how = "died of" if code < 0 else "ended with"
        return DecoderCrash(f"the worker process {how} {exit_in_words(code)}")


def _text(text: bytes) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    return value if isinstance(value, str) else "unknown"


def _identity(text: bytes) -> InstanceIdentity | None:
    """Identity in a message of a worker; None if the message is anything else."""
    try:
        values = json.loads(text)
        return InstanceIdentity(**values) if all(isinstance(value, str) for value in values.values()) else None
    except (ValueError, TypeError, AttributeError):
        return None
