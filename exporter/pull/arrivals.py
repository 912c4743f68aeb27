"""Instances that have arrived: in the spool by the file meta information, after that by the ledger.

Contract: `held` says that an instance is here only if its bytes are in `new/`, `active/` or quarantine, or the
ledger has it as exported, skipped, failed or quarantined. The spool is looked at before the ledger: the exporter
commits an outcome there before it lets go of the file.

The index of the spool is durable and grows by what is new: a look reads the names in three folders, and the first
KiB of files it does not know. Names rise with time, so that a look leaves out what is much older than the newest
known one; before anything is called missing, every name is looked at.
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING, Final

from exporter.privacy.input_names import InputNames
from listener.intake.file_meta import SOP_INSTANCE, elements_of
from listener.spool.names import NAME, received_at
from listener.spool.view import folders

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from exporter.pull.finding import PullTarget
    from exporter.pull.journal import PullJournal
    from exporter.results.ledger import Ledger

SLACK_NS: Final = 600 * 10**9
"""Largest age of a new name before the newest known one: several processes make names, each before its commit."""
SETTLED_NS: Final = 100_000_000
"""A folder that was changed so lately may change again without a new time of change."""
MOST_REMEMBERED: Final = 200_000
META_BYTES: Final = 1024
_UID: Final = re.compile(rb"[0-9.]{1,64}")


class Arrivals:
    """The index of one data folder's spool, and its ledger; safe for many threads."""

    def __init__(
        self, journal: PullJournal, spool_root: Path, ledger_path: Path, names: InputNames | None = None
    ) -> None:
        """Make an index without any name; `names` are those that the ledger has."""
        self._in_ledger = names or InputNames()
        self._journal = journal
        self._root = spool_root
        self._ledger_path = ledger_path
        self._ledger: Ledger | None = None
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self._newest_ns = 0
        self._unchanged: dict[Path, int] = {}
        self.count = 0
        """Instances that came since the first look."""

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def start(self) -> None:
        """The first look: every name of the spool, and those that are gone are forgotten."""
        with self._lock:
            self._journal.begin_census()
            self._take_in(self._names(oldest_ns=0), census=True)
            self._journal.end_census()

    def take_in_new(self, *, thorough: bool = False) -> int:
        """Add the files that have come since the last look.

        Returns:
            Number of files.
        """
        with self._lock:
            if thorough:
                self._unchanged.clear()
            oldest_ns = 0 if thorough else self._newest_ns - SLACK_NS
            came = self._take_in(self._names(oldest_ns))
            self.count += came
            return came

    def held(self, uids: Iterable[str]) -> set[str]:
        """The instances among those given that are here; call `take_in_new` first."""
        wanted = [*dict.fromkeys(uids)]
        here = self._journal.arrived(wanted)
        rest = [uid for uid in wanted if uid not in here]
        ledger = self._open_ledger() if rest else None
        if ledger is None:
            return here
        asked = {form: uid for uid in rest for form in (uid, self._in_ledger.uid(uid))}
        return here | {asked[form] for form in ledger.finished_instances(asked)}

    def counted(self, target: PullTarget, since: int) -> int:
        """Instances of a study or series that came after arrival `since`, or that the ledger has; reads headers."""
        here: set[str] = set()
        for name, uid in self._journal.arrivals_after(since):
            belongs = self._belongs(name)
            if belongs is not None and belongs[0] == target.study and target.series in {"", belongs[1]}:
                here.add(uid)
        ledger = self._open_ledger()
        if ledger is None:
            return len(here)
        here |= ledger.instances_of(target.study, target.series)
        study, series = self._in_ledger.uid(target.study), target.series and self._in_ledger.uid(target.series)
        return len({self._in_ledger.uid(uid) for uid in here} | ledger.instances_of(study, series))

    def _open_ledger(self) -> Ledger | None:
        with self._lock:
            if self._ledger is None and self._ledger_path.is_file():
                from exporter.results.ledger import Ledger

                self._ledger = Ledger.open_read_only(self._ledger_path)
            return self._ledger

    # -- the spool ---------------------------------------------------------------------------------------------------

    def _names(self, oldest_ns: int) -> Iterator[tuple[Path, str]]:
        for folder in folders(self._root):
            started_ns = time.time_ns()
            try:
                changed_ns = folder.stat().st_mtime_ns
                if self._unchanged.get(folder) == changed_ns:
                    continue
                with os.scandir(folder) as entries:
                    for entry in entries:
                        name = entry.name
                        if NAME.fullmatch(name) and received_at(name) >= oldest_ns:
                            yield folder, name
            except FileNotFoundError:
                continue
            if abs(started_ns - changed_ns) > SETTLED_NS:
                self._unchanged[folder] = changed_ns

    def _take_in(self, names: Iterable[tuple[Path, str]], *, census: bool = False) -> int:
        came = 0
        batch: list[tuple[Path, str]] = []
        for folder, name in names:
            if name not in self._seen:
                batch.append((folder, name))
            if len(batch) >= 500:
                came += self._note(batch, census=census)
                batch = []
        return came + self._note(batch, census=census)

    def _note(self, batch: list[tuple[Path, str]], *, census: bool) -> int:
        if not batch:
            return 0
        names = [name for _, name in batch]
        known = self._journal.known_names(names)
        fresh = [(name, _uid_of(folder / name)) for folder, name in batch if name not in known]
        # A file that went on to the next folder in between is met there, or in the ledger.
        read = [(name, uid) for name, uid in fresh if uid is not None]
        self._journal.note_arrivals(read, names if census else None)
        self._seen.update(known, (name for name, _ in read))
        newest = max((received_at(name) for name in (*known, *(name for name, _ in read))), default=0)
        self._newest_ns = max(self._newest_ns, min(newest, time.time_ns()))
        if len(self._seen) > MOST_REMEMBERED:
            oldest = self._newest_ns - SLACK_NS
            self._seen = {name for name in self._seen if received_at(name) >= oldest}
        return len(read)

    def _belongs(self, name: str) -> tuple[str, str] | None:
        """Study and series of a file of the spool; None where it is gone or cannot be read."""
        from exporter.dicom.elements import READING_ERRORS, quiet_reading

        for folder in folders(self._root):
            try:
                with (folder / name).open("rb") as file, quiet_reading():
                    import pydicom

                    wanted = ["StudyInstanceUID", "SeriesInstanceUID"]
                    header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=wanted, force=True)
                    return str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", ""))
            except FileNotFoundError:
                continue
            except READING_ERRORS:
                return None
        return None


def _uid_of(path: Path) -> str | None:
    """(0002,0003) of a file; "" where it has none, None where it is gone."""
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(META_BYTES)
    except FileNotFoundError:
        return None
    except OSError:
        return ""
    return media_storage_uid(head)


def media_storage_uid(head: bytes) -> str:
    """(0002,0003) Media Storage SOP Instance UID of a Part 10 file, from its first KiB; "" where it is not there."""
    value = dict(elements_of(head)).get(SOP_INSTANCE, b"").rstrip(b"\0 ")
    return value.decode("ascii") if _UID.fullmatch(value) else ""
