"""The source that watches one folder: one thread that looks, waits until files are quiet, and takes them.

Contract: a file is taken once it has been the same at two looks that are at least `quiet_s` apart by our own clock;
no clock of a file server is asked. Each look passes over the whole folder: looks are the truth, and there is no other
signal, so that network folders work like local ones. The pause between looks grows with what a look costs. What is
committed to the spool is remembered before it is moved, deleted or looked at again; a crash in between makes a
duplicate, which the exporter finds by its content, and never a loss.

Must never: end because the folder is gone, or write names of files to the log (they often name patients).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

from listener.foundation.errors import SourceUnusable
from listener.settings.watch import overlap
from listener.sources.watch.folder import Candidate, FolderScan, ScanOptions, Signature, open_root, scan, status_of
from listener.sources.watch.memory import FileState, MemoryFailed, WatchState
from listener.sources.watch.taking import PIECE_BYTES, CopyResult, CopySource, copy_into_spool, delete, move, open_done
from listener.spool.errors import SpoolWriteFailed
from listener.spool.space import SpaceLevel

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSettings
    from listener.settings.watch import WatchSection
    from listener.sources.contract import Surroundings

log = structlog.get_logger()

MOST_WAITING: Final = 10_000
"""So many files are waited for at a time, the oldest; more wait until these are through."""
BATCH: Final = 32
"""So many taken files are remembered together: after a crash at most these come twice."""
BATCH_S: Final = 1.0
SHARE: Final = 9
"""Time between looks in terms of the time that one takes."""
TRY_AGAIN_S: Final = 60.0
"""Pause before a file with which there was trouble is tried again, unless it changes."""
AFTER_TROUBLE_S: Final = 5.0
STUCK_S: Final = 5.0
"""Time that a call to the file system is given when we are to stop at once."""
DONE: Final = ".done"


class WatchSource:
    """One watched folder."""

    def __init__(
        self,
        section: WatchSection,
        settings: ListenerSettings,
        surroundings: Surroundings,
        *,
        try_again_s: float = TRY_AGAIN_S,
    ) -> None:
        self._section = self._wanted_section = section
        self._most_bytes = settings.listener.limits.max_instance_bytes
        self._surroundings = surroundings
        self._try_again_s = try_again_s
        self._path = Path(os.path.abspath(section.watch))  # noqa: PTH100 - pathlib would follow links
        key = hashlib.sha256(os.fsencode(self._path)).hexdigest()[:16]
        self._memory_path = surroundings.state / "watch" / f"{key}.db"
        self._memory: WatchState | None = None
        self._stopping = threading.Event()
        self._abandon = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._seen: dict[str, tuple[Signature, float]] = {}
        self._unsaved: dict[str, tuple[Candidate, FileState, float]] = {}
        self._reported: set[str] = set()
        self._buffer = bytearray(PIECE_BYTES)
        self.looks = 0
        """Times that it has gone round."""

    def start(self) -> str:
        """Begin to look; raises `SourceUnusable` where the folder must not be watched."""
        self._refuse_own_folders()
        try:
            self._memory = WatchState(self._memory_path)
        except MemoryFailed as error:
            raise SourceUnusable(f"what was taken from {self._path} cannot be remembered: {error}") from error
        self._thread.start()
        return f"files in {self._path}"

    def is_alive(self) -> bool:
        """Whether the thread goes round; a file server that hangs is no reason to start everything again."""
        return self._thread.is_alive() and not self._stopping.is_set()

    def reload(self, settings: ListenerSettings) -> None:
        """The new entry for the same folder counts from the next look on; folders are not added or removed."""
        mine = (s for s in settings.sources if os.path.abspath(s.watch) == str(self._path))  # noqa: PTH100 - see above
        found = next(mine, None)
        if found is None:
            log.warning("watched folder is no longer in the configuration: it is watched until the next start")
            return
        self._wanted_section = found
        self._most_bytes = settings.listener.limits.max_instance_bytes

    def stop(self, within_s: float) -> int:
        """Take no further file; the one under way is given up after `within_s` and stays where it is."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(within_s)
            self._abandon.set()
            self._thread.join(STUCK_S)
        if self._thread.is_alive():
            return 1
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        return 0

    def _refuse_own_folders(self) -> None:
        watched = os.path.realpath(self._path)
        if os.path.lexists(watched) and not os.path.isdir(watched):  # noqa: PTH112 - as text, like the rest
            raise SourceUnusable(f"{self._path} is no folder: name the folder under `sources`, `watch`")
        data = os.path.realpath(self._surroundings.spool.root.parent)
        if overlap(watched, data):
            raise SourceUnusable(
                f"the watched folder {self._path} and the data folder {data} lie inside each other: "
                "our own files would come in again; watch another folder, or choose another data folder with --data"
            )
        if self._section.done is not None and overlap(os.path.realpath(self._section.done), data):
            raise SourceUnusable(f"`done` of the watched folder {self._path} and the data folder lie inside each other")

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            pause = self._section.look_every_s
            looked_s = 0.0
            try:
                if self._has_room():
                    self._section = self._wanted_section  # one for the whole round, whatever a reload does meanwhile
                    looked_s = self._go_round()
            except MemoryFailed as error:
                self._tell("memory", "memory of a watched folder fails, nothing is taken", problem=str(error))
                pause = AFTER_TROUBLE_S
            except SpoolWriteFailed as error:
                self._tell("spool", "watched folder waits: the spool cannot be written", problem=str(error))
                pause = AFTER_TROUBLE_S
            except OSError as error:
                self._tell("folder", "watched folder cannot be looked at", problem=error.strerror or "")
            else:
                self._reported -= {"memory", "spool"}
            self.looks += 1
            self._stopping.wait(max(pause, SHARE * looked_s - (time.monotonic() - started)))

    def _has_room(self) -> bool:
        """Whether the spool takes more; what waits stays in the folder."""
        space = self._surroundings.space
        if space.state is SpaceLevel.ENOUGH and not space.queue_full:
            if "room" in self._reported:
                self._reported.discard("room")
                log.info("watched folder goes on", folder=str(self._path))
            return True
        self._tell("room", "watched folder waits: there is no room in the spool")
        return False

    def _go_round(self) -> float:
        """Look once and take what is complete; the seconds that looking took."""
        root = open_root(self._path)
        try:
            self._save()  # what could not be remembered last time comes first
            if "folder" in self._reported:
                self._reported.discard("folder")
                log.info("watched folder is back", folder=str(self._path))
            started = time.monotonic()
            asked = ScanOptions(MOST_WAITING, self._stopping.is_set, self._done_folder(root))
            found = scan(root, self._section, self._is_wanted, asked)
            looked_s = time.monotonic() - started
            self._tell_of(found)
            self._take_all(CopySource(root, self._surroundings.spool, self._abandon.is_set), self._quiet(found))
            # An unmounted folder is an empty one: what is remembered of it must outlast that.
            if found.complete and found.entries and self._memory is not None:
                self._memory.clean(lambda name: status_of(root, name) is not None)
            return looked_s
        finally:
            os.close(root)

    def _done_path(self) -> str:
        """Where files are moved to; a relative path is below the watched folder."""
        done = self._section.done
        return DONE if done is None else os.path.abspath(done)  # noqa: PTH100 - as above

    def _done_folder(self, root: int) -> tuple[int, int] | None:
        """The folder that is not looked into, where there is one. It is made when it is needed, no earlier."""
        if self._section.after != "move":
            return None
        try:
            found = os.stat(self._done_path(), dir_fd=root)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _is_wanted(self, candidate: Candidate) -> bool:
        assert self._memory is not None  # noqa: S101 - `start` made it
        remembered = self._memory.find(candidate.name)
        if remembered is None:
            return True
        if remembered.known is FileState.TAKEN:
            if not remembered.signature.is_same_content(candidate.signature):
                return True
            return self._section.after != "leave" and remembered.is_due(time.time())
        return remembered.signature != candidate.signature or remembered.is_due(time.time())

    def _quiet(self, found: FolderScan) -> list[Candidate]:
        """The files that have been the same for long enough; what was seen is kept for the next look."""
        now = time.monotonic()
        seen: dict[str, tuple[Signature, float]] = {}
        quiet = []
        for candidate in found.candidates:
            signature, since = self._seen.get(candidate.name, (None, now))
            if signature != candidate.signature:
                since = now
            seen[candidate.name] = candidate.signature, since
            if now - since >= self._section.quiet_s:
                quiet.append(candidate)
        self._seen = seen
        return quiet

    def _take_all(self, source: CopySource, candidates: list[Candidate]) -> None:
        """Take files, oldest first, until all are taken, there is no room, or we are to stop."""
        started = time.monotonic()
        saved_at = started
        taken = taken_bytes = 0
        away: list[Candidate] = []
        try:
            for candidate in candidates:
                if self._stopping.is_set() or not self._has_room():
                    break
                if self._take(source, candidate):
                    taken += 1
                    taken_bytes += candidate.signature.size_bytes
                    away.append(candidate)
                elif self._was_taken(candidate):
                    away.append(candidate)
                if len(self._unsaved) + len(away) >= BATCH or time.monotonic() - saved_at >= BATCH_S:
                    self._settle(source.root, away)
                    away, saved_at = [], time.monotonic()
        finally:
            self._settle(source.root, away)
            if taken:
                seconds = round(time.monotonic() - started, 3)
                log.info("files taken", folder=str(self._path), files=taken, bytes=taken_bytes, seconds=seconds)

    def _was_taken(self, candidate: Candidate) -> bool:
        """Whether the file is in the spool since earlier, and only waits to be taken away."""
        assert self._memory is not None  # noqa: S101 - `start` made it
        remembered = self._memory.find(candidate.name)
        if remembered is None or remembered.known is not FileState.TAKEN:
            return False
        return remembered.signature.is_same_content(candidate.signature)

    def _take(self, source: CopySource, candidate: Candidate) -> bool:
        """Copy one file; whether it is in the spool now. What becomes of it is remembered by `_save`."""
        if self._was_taken(candidate):
            return False
        counters = self._surroundings.counters
        if candidate.signature.size_bytes > self._most_bytes:
            self._trouble(candidate, FileState.TOO_LARGE)
            return False
        fate = copy_into_spool(source, candidate, self._buffer)
        if fate is CopyResult.STORED:
            counters.add("files_taken")
            counters.arrived(str(self._section.watch))
            counters.add("bytes_stored", candidate.signature.size_bytes)
            self._unsaved[candidate.name] = candidate, FileState.TAKEN, 0.0
        elif fate is CopyResult.UNREADABLE:
            self._trouble(candidate, FileState.UNREADABLE)
        elif fate is CopyResult.CHANGED:
            counters.add("files_changed_while_copied")
        self._seen.pop(candidate.name, None)
        return fate is CopyResult.STORED

    def _trouble(self, candidate: Candidate, trouble: FileState) -> None:
        """Remember that a file cannot be taken as it is, and say so once for each state of it."""
        assert self._memory is not None  # noqa: S101 - `start` made it
        remembered = self._memory.find(candidate.name)
        if remembered is None or (remembered.signature, remembered.known) != (candidate.signature, trouble):
            word = trouble.name.lower()
            self._surroundings.counters.add(f"files_{word}")
            log.warning("file not taken", folder=str(self._path), file=token(candidate.name), why=word)
        self._unsaved[candidate.name] = candidate, trouble, time.time() + self._try_again_s

    def _settle(self, root: int, away: list[Candidate]) -> None:
        """Remember what was taken, then take away what is to go."""
        self._save()
        if self._section.after == "leave" or not away:
            return
        gone: list[str] = []
        with ExitStack() as stack:
            done: int | None = None
            for candidate in away:
                try:
                    if self._section.after == "delete":
                        delete(root, candidate)
                    else:
                        if done is None:
                            done = open_done(self._done_path(), root)
                            stack.callback(os.close, done)
                        move(root, candidate, done)
                    gone.append(candidate.name)
                except OSError as error:
                    self._surroundings.counters.add("files_not_taken_away")
                    self._tell("away", "files cannot be taken away and stay", problem=error.strerror or "")
                    self._unsaved[candidate.name] = candidate, FileState.TAKEN, time.time() + self._try_again_s
        if len(gone) == len(away):
            self._reported.discard("away")
        self._save()
        assert self._memory is not None  # noqa: S101 - `start` made it
        self._memory.forget(gone)

    def _save(self) -> None:
        if self._unsaved and self._memory is not None:
            self._memory.remember(self._unsaved.values())
            self._unsaved.clear()

    # -- telling -----------------------------------------------------------------------------------------------------

    def _tell(self, what: str, event: str, **more: str) -> None:
        """Say something once, until it is over."""
        if what not in self._reported:
            self._reported.add(what)
            log.warning(event, folder=str(self._path), **more)

    def _tell_of(self, found: FolderScan) -> None:
        """Say once what kinds of entries are passed over, other than by their names."""
        kinds = found.skipped.keys() - {"ignored", "other_name", "folder"}
        for kind in kinds - self._reported:
            log.info("entries not taken", folder=str(self._path), why=kind, count=found.skipped[kind])
        if found.complete:
            self._reported -= _KINDS - kinds
        self._reported |= kinds


_KINDS: Final = frozenset({"empty", "not_regular", "too_deep", "unreadable", "unreadable_folder"})


def token(name: str) -> str:
    """What stands for a file in the log: the beginning of the SHA-256 of its path below the watched folder."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
