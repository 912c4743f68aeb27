"""Batches as tasks of a Dask cluster that is there already.

Contract: a task starts ``exporter batch run OUT N`` as a child process of a Dask worker, so that a worker needs this
package and a view of OUT and of the input. No more tasks are in flight than twice the cluster's threads. Dask runs the
task of a lost worker again, which is harmless: every start of a batch writes a journal of its own.

Must never: wait for a scheduler that does not answer longer than `ANSWER_S`.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from exporter.batches.engines.contract import EngineUnusable
from exporter.inputs.backfill import BATCHES
from listener.foundation.processes import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

ANSWER_S: Final = 20.0
GRACE_S: Final = 30.0
"""Time that a batch gets to end after SIGTERM."""
_POLL_S: Final = 0.2


def run_task(output: str, number: int, cancelled: str) -> int | None:
    """Run one batch in a worker of the cluster.

    Args:
        output: The output folder.
        number: Of the batch.
        cancelled: Path of a file whose presence says that the batch is to end.

    Returns:
        The exit code of the command; None where it did not end.
    """
    child = ChildProcess("exporter", "batch", "run", output, str(number), "--workers", "1")
    log = os.open(Path(output) / BATCHES / f"log-{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child.start(prints_to=log)
    finally:
        os.close(log)
    while child.exit_code() is None:
        if os.path.lexists(cancelled):
            child.send_signal(signal.SIGTERM)
            return child.end(GRACE_S, GRACE_S)
        time.sleep(_POLL_S)
    return child.end()


def _answered(ask: Callable[[], T]) -> T:
    """Answer of a scheduler, which Dask would wait for without end where a connection stands and nothing comes.

    Raises:
        TimeoutError: There is none within `ANSWER_S`; the thread that waits for it ends with this process.
        OSError, ValueError, RuntimeError, TypeError: What the call raises.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="dask", daemon=True).start()
    try:
        return answer.result(ANSWER_S)
    except TimeoutError:
        if answer.done():
            raise
        raise TimeoutError(f"no answer within {ANSWER_S:.0f} s") from None


class DaskEngine:
    """A `BatchEngine` of Dask tasks."""

    def __init__(self, output: Path, scheduler: str | None) -> None:
        """Connect to a scheduler.

        Raises:
            EngineUnusable: Dask is not installed, the scheduler does not answer, or its versions differ.
        """
        try:
            from distributed import Client
        except ImportError:
            hint = "install the extra: pip install 'dicom-media-exporter[dask]'"
            raise EngineUnusable("Dask is not installed here", hint=hint) from None
        if scheduler is None:
            hint = "give --scheduler tcp://HOST:PORT, or set engine.scheduler"
            raise EngineUnusable("no Dask scheduler is named", hint=hint)
        hint = "check that it runs there, with the versions of this host (`pip list`)"
        try:
            self._client: Any = _answered(lambda: Client(scheduler, timeout=ANSWER_S, set_as_default=False))  # type: ignore[no-untyped-call]  # it has no annotations
            _answered(lambda: self._client.get_versions(check=True))
        except (OSError, ValueError, TimeoutError) as error:
            raise EngineUnusable(f"Dask scheduler {scheduler}", " ".join(str(error).split())[:300], hint) from None
        self._output = output.absolute()
        self._cancelled = self._output / BATCHES / f"cancelled-{secrets.token_hex(8)}"
        self._waiting: deque[int] = deque()
        self._tasks: dict[int, Any] = {}

    def submit(self, batches: Sequence[int]) -> None:
        """See `BatchEngine`."""
        self._waiting.extend(batches)
        self.alive()

    def alive(self) -> frozenset[int]:
        """See `BatchEngine`; submits tasks in the place of those that have ended."""
        if self._client.status not in {"running", "connecting"}:
            raise EngineUnusable("the Dask scheduler is gone", hint="start it, then `exporter backfill resume OUT`")
        self._tasks = {number: task for number, task in self._tasks.items() if task.status == "pending"}
        try:
            threads: dict[str, int] = _answered(self._client.nthreads)
        except OSError as error:
            hint = "look after it, then `exporter backfill resume OUT`"
            raise EngineUnusable("the Dask scheduler does not answer", str(error), hint) from None
        most = max(2, 2 * sum(threads.values()))
        while self._waiting and len(self._tasks) < most:
            number = self._waiting.popleft()
            arguments = (os.fspath(self._output), number, os.fspath(self._cancelled))
            key = f"exporter-batch-{number}-{secrets.token_hex(4)}"
            self._tasks[number] = self._client.submit(run_task, *arguments, key=key, pure=False, retries=3)
        return frozenset((*self._waiting, *self._tasks))

    def cancel(self) -> None:
        """See `BatchEngine`."""
        self._waiting.clear()
        if not self._tasks:
            return
        self._cancelled.touch(mode=0o600)
        until = time.monotonic() + 2 * GRACE_S
        with suppress(EngineUnusable):
            while self.alive() and time.monotonic() < until:
                time.sleep(_POLL_S)
        self._cancelled.unlink(missing_ok=True)
        self._tasks.clear()
