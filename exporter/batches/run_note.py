"""Run notes: a backfill that runs can be asked to stop from any host that sees its output folder.

Contract: each command that exports into an output folder at rest, or merges there, keeps a file of its own,
``OUT/exporter.db.run-TOKEN``: it says which process of which host the command is, and is touched every `BEAT_S`.
`cancel` renames it to ``exporter.db.stop-TOKEN``; the command sees that, stops as after SIGTERM, and removes the file
when it has ended. No two commands share a file, and none needs a lock. Where the note cannot be written, the command
runs, and cannot be cancelled.

Must never: stop a command for a file that is only missing.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from exporter.inputs.backfill import BATCHES
from listener.foundation.process_identity import boot_id, is_running, process_namespace, start_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BEAT_S: Final = 10.0
SILENT_S: Final = 180.0
"""Time without a sign of life after which a process of another host counts as ended. NFS may show one a minute late."""
POLL_S: Final = 1.0
"""Time between two looks for a request to stop."""
_UNTIL_MADE_S: Final = 0.1
_LEDGER: Final = "exporter.db"
_RUN: Final = f"{_LEDGER}.run-"
_STOP: Final = f"{_LEDGER}.stop-"


@contextmanager
def cancellable(output: Path, stop: threading.Event) -> Iterator[None]:
    """Set `stop` when somebody cancels what runs in an output folder, while the block runs.

    The folder need not exist: the note is made once there is something of ours in it.
    """
    note, ended = _RunNote(output.absolute()), threading.Event()
    thread = threading.Thread(target=note.keep, args=(stop, ended), name="run note", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        note.remove()


def running(output: Path) -> list[str]:
    """Processes that work on an output folder, as far as can be known here; each in words."""
    return [_in_words(path) for path in _notes(output) if _is_alive(path)]


def cancel(output: Path, *, waits: bool = True) -> int:
    """Ask all that works on an output folder to stop.

    Args:
        output: The folder.
        waits: Whether to return only when it has ended, as far as can be known here.

    Returns:
        Number of commands that were asked.

    Raises:
        OSError: The folder cannot be written.
    """
    asked = [_ask(path) for path in _notes(output)]  # one that stands still may wake
    waiting = alive = [path for path in asked if _is_alive(path)]
    while waits and (waiting := [path for path in waiting if _is_alive(path)]):
        time.sleep(POLL_S / 4)
    return len(alive)


def file_system_time(folder: Path) -> float:
    """Time by the clock of the file system; that of this host where nothing can be written."""
    probe = folder / f".now-{secrets.token_hex(8)}"
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):
            probe.unlink()


class _RunNote:
    """The note of this command."""

    def __init__(self, output: Path) -> None:
        token = secrets.token_hex(8)
        self._output = output
        self._run, self._stop = output / f"{_RUN}{token}", output / f"{_STOP}{token}"
        self._is_made = False
        self._beaten_at = 0.0

    def keep(self, stop: threading.Event, ended: threading.Event) -> None:
        """Make the note, keep it alive, and look for a request to stop, until `ended` is set."""
        while True:
            with suppress(OSError):
                if self._is_made:
                    self._look(stop)
                elif (self._output / _LEDGER).exists() or (self._output / BATCHES).is_dir():
                    self._make()
            if ended.wait(POLL_S if self._is_made else _UNTIL_MADE_S):
                return

    def _make(self) -> None:
        for left in _notes(self._output):
            if not _is_alive(left):
                left.unlink(missing_ok=True)
        about = [socket.gethostname(), boot_id(), process_namespace(), os.getpid(), start_of(os.getpid())]
        with os.fdopen(os.open(self._run, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            self._is_made = True
            json.dump(about, file)
        self._beaten_at = time.monotonic()

    def _look(self, stop: threading.Event) -> None:
        if os.path.lexists(self._stop):
            stop.set()
        if time.monotonic() - self._beaten_at < BEAT_S:
            return
        try:
            os.utime(self._stop if os.path.lexists(self._stop) else self._run)
            self._beaten_at = time.monotonic()
        except FileNotFoundError:  # this command stood still, and was taken for dead
            self._is_made = False

    def remove(self) -> None:
        """Remove the note."""
        for path in (self._run, self._stop):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _notes(output: Path) -> list[Path]:
    return [path for kind in (_RUN, _STOP) for path in output.glob(f"{kind}*")]


def _ask(path: Path) -> Path:
    """Ask the command of a note to stop; the note as it is called now."""
    asked = path.with_name(path.name.replace(_RUN, _STOP))
    with suppress(FileNotFoundError):  # it has just ended, or somebody else has asked
        path.rename(asked)
    return asked


def _is_alive(path: Path) -> bool:
    """Whether the command of a note runs, as far as can be known here."""
    try:
        _, boot, processes, pid, started = json.loads(path.read_bytes())
        if boot and (boot, processes) == (boot_id(), process_namespace()):
            return is_running(pid, started) is not False
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        pass  # it is being written
    with suppress(FileNotFoundError):
        return file_system_time(path.parent) - path.stat().st_mtime < SILENT_S
    return False


def _in_words(path: Path) -> str:
    try:
        host, _, _, pid, _ = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return "a process of an unknown host"
    return f"process {pid} on {host}"
