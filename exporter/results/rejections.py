"""Rejections: what rejection notes (IHE IOCM) do to the instances that they name, whichever comes first.

Contract: what a note says is durable before the note has its outcome, and before any instance that comes with it or
after it is published. `Rejections.verdict` decides about an instance that is about to be published;
`Rejections.carry_out` withdraws or flags those that were published before, in small transactions. Every step can be
repeated: the ledger knows how far each rejection was carried out, and the next start of an exporter goes on there.

- `withdraw`: media and the volumes of the series go, the instance becomes skipped (`rejected`), and a line with the
  status `withdrawn`, reason and time follows. An instance that comes later is refused: it is skipped (`rejected`).
  Instances rejected because their retention expired (113039) may be sent again: such a later copy is exported and
  flagged. Files at rest have no order of arrival: none of them is a later copy.
- `flag`: media stay; a line with `export.rejection` follows, and later lines of the instance have it, too.
- `ignore`: nothing, until the setting says something else.

A rejection applies to an instance only where study and series are those that the note names.

Must never: rewrite earlier lines, or act on what a note says of instances of another study.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from exporter.errors import SkipReason
from exporter.outcome import REJECTION_TITLES, RETENTION_EXPIRED, Skipped
from exporter.results.ledger.types import InstanceStatus, SettledRejection
from exporter.results.line import line, with_rejection
from exporter.results.withdrawal import series_places, volume_names, withdraw_volumes
from listener.spool.names import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from exporter.outcome import InstanceIdentity
    from exporter.results.ledger import InstanceRow, Ledger
    from exporter.results.ledger.types import InstanceRejection
    from exporter.results.stores.contract import MediaStore

    WithdrawVolumes = Callable[[list[str]], None]
    """Withdraws volumes of series, by their names below `series/`."""

MESSAGE: Final = "withdrawn: a rejection note names it"
WITHDRAWN_VOLUME: Final = Skipped(SkipReason.REJECTED, "withdrawn: it held a rejected instance", record="{}")
"""Outcome of the volume of a series of which an instance is withdrawn."""
_BATCH: Final = 500


class OnRejection(StrEnum):
    """Values of `media.on_rejection`."""

    WITHDRAW = "withdraw"
    FLAG = "flag"
    IGNORE = "ignore"


_LEFT_TO_DO: Final = {
    OnRejection.WITHDRAW: (SettledRejection.NOT_YET, SettledRejection.FLAGGED, SettledRejection.WITHDRAWING),
    OnRejection.FLAG: (SettledRejection.NOT_YET, SettledRejection.WITHDRAWING),
}
"""How far rejections are that have to be carried out further."""


@dataclass(slots=True)
class _Changes:
    """Changes of one transaction, and what follows it."""

    withdrawn: dict[str, tuple[str, str, bytes]] = field(default_factory=dict)
    """Name, message and line of each instance that is withdrawn, by name."""
    flagged: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """Name and line of each instance that is flagged, by name."""
    reached: dict[SettledRejection, list[InstanceRejection]] = field(default_factory=lambda: defaultdict(list))
    waiting: list[Path] = field(default_factory=list)
    """Copies of withdrawn instances that are kept for volumes."""


class Rejections:
    """What is done about rejections in one output folder."""

    def __init__(self, ledger: Ledger, store: MediaStore, output: Path, mode: OnRejection, version: str) -> None:
        """Carry out rejections of one ledger.

        Args:
            ledger: Of the output.
            store: Where media are kept.
            output: The data or output folder, with the volumes of series.
            mode: `media.on_rejection`.
            version: Of this program, for the lines.
        """
        self._ledger = ledger
        self._store = store
        self._output = output
        self._mode = mode
        self._version = version
        self.withdraw_volumes: WithdrawVolumes = self._withdraw_volumes
        """How volumes are withdrawn; an exporter that has their ledger open puts its own way here."""

    def prepare(self) -> None:
        """Have a backfill read refused and withdrawn inputs again, if the setting no longer withdraws; at start.

        Raises:
            LedgerUnusable, OutOfSpace: The ledger cannot be written.
        """
        if self._ledger.has_rejections and self._mode is not OnRejection.WITHDRAW:
            self._ledger.look_again([SkipReason.REJECTED])

    def verdict(self, name: str, identity: InstanceIdentity | None) -> tuple[OnRejection, dict[str, str]] | None:
        """Decide about an instance.

        Args:
            name: Of the instance in the ledger.
            identity: Its UIDs.

        Returns:
            Whether it is withdrawn or flagged, and the rejection in words for its line; None if neither.

        Raises:
            LedgerUnusable: The ledger cannot be read.
        """
        if self._mode is OnRejection.IGNORE or identity is None or not self._ledger.has_rejections:
            return None
        found: dict[OnRejection, dict[str, str]] = {}
        for one in self._ledger.rejections_of(identity.sop_instance_uid):
            if (one.study_uid, one.series_uid) == (identity.study_instance_uid, identity.series_instance_uid):
                is_flagged = self._mode is OnRejection.FLAG or _is_sent_again(name, one)
                found.setdefault(OnRejection.FLAG if is_flagged else OnRejection.WITHDRAW, _words(one))
        for mode in (OnRejection.WITHDRAW, OnRejection.FLAG):
            if mode in found:
                return mode, found[mode]
        return None

    def carry_out(self) -> int:
        """Withdraw or flag some of the instances that rejections name and that are published.

        Returns:
            Number of rejections that were carried out; 0 if nothing is left to do.

        Raises:
            LedgerUnusable, OutOfSpace: The ledger cannot be written; what is left follows later.
            OSError: Volumes of series cannot be removed now.
        """
        if self._mode is OnRejection.IGNORE or not self._ledger.has_rejections:
            return 0
        rejections = self._ledger.unsettled_rejections(_LEFT_TO_DO[self._mode], _BATCH)
        if not rejections:
            return 0
        changes = _Changes()
        for one in rejections:
            self._add(one, changes)
        paths = self._ledger.carry_out_rejections(changes.withdrawn.values(), changes.flagged.values(), changes.reached)
        if any(one.settled is SettledRejection.WITHDRAWING for one in rejections):
            paths = tuple(self._ledger.superseded())  # files that could not be removed before
        self._store.remove(paths)
        self._ledger.forget_superseded(paths)
        for path in changes.waiting:
            path.unlink(missing_ok=True)
        withdrawing = changes.reached.get(SettledRejection.WITHDRAWING, [])
        if withdrawing:
            self.withdraw_volumes(self._volumes_of(withdrawing))
            self._ledger.carry_out_rejections((), (), {SettledRejection.WITHDRAWN: withdrawing})
        return len(rejections)

    def _add(self, rejection: InstanceRejection, changes: _Changes) -> None:
        """Add to `changes` what a rejection means for the published instances that it names."""
        has_withdrawn = rejection.settled is SettledRejection.WITHDRAWING
        for row in self._published(rejection):
            found = self.verdict(row.name, row.identity)
            if found is None:
                continue
            mode, words = found
            if mode is OnRejection.WITHDRAW:
                changes.waiting += self._waiting_of(row)
                changes.withdrawn[row.name] = (row.name, MESSAGE, self.withdrawn_line(row.name, row.ae_title, words))
                has_withdrawn = True
            elif (text := self._flagged_line(row, words)) is not None:
                changes.flagged[row.name] = (row.name, text)
        is_flag = self._mode is OnRejection.FLAG and not has_withdrawn
        end = SettledRejection.FLAGGED if is_flag else SettledRejection.WITHDRAWN
        changes.reached[SettledRejection.WITHDRAWING if has_withdrawn else end].append(rejection)

    def withdrawn_line(self, name: str, ae_title: str, words: dict[str, str]) -> bytes:
        """The line of an instance that a rejection withdraws or refuses."""
        outcome = Skipped(SkipReason.REJECTED, MESSAGE, record="{}")
        return line(
            outcome, dicom_file=name, version=self._version, ae_title=ae_title, is_withdrawn=True, rejection=words
        )

    def _published(self, rejection: InstanceRejection) -> Iterable[InstanceRow]:
        """Instances with the UID of a rejection that have a line or media."""
        for row in self._ledger.entries_of(rejection.sop_instance_uid):
            if row.state not in {InstanceStatus.ACTIVE, InstanceStatus.DEFERRED} and (
                row.line_seq is not None or self._ledger.media(row.name)
            ):
                yield row

    def _flagged_line(self, row: InstanceRow, words: dict[str, str]) -> bytes | None:
        text = None if row.line_seq is None else self._ledger.line(row.line_seq)
        return None if text is None else with_rejection(text, words)

    def _waiting_of(self, row: InstanceRow) -> list[Path]:
        """Copies of a received instance that its series may keep for a volume."""
        if row.identity is None:
            return []
        volumes = volume_names(self._output, row.identity.study_instance_uid, row.identity.series_instance_uid)
        return [place / row.name for name in volumes for place in _waiting_places(self._output, name)]

    def _volumes_of(self, rejections: Iterable[InstanceRejection]) -> list[str]:
        pairs = dict.fromkeys((one.study_uid, one.series_uid) for one in rejections)
        return [name for pair in pairs for name in volume_names(self._output, *pair)]

    def _withdraw_volumes(self, names: list[str]) -> None:
        for name in names:  # written anew, from the instances that are left
            for waiting in _waiting_places(self._output, name):
                waiting.with_name(f"{waiting.name}.tried").unlink(missing_ok=True)
        withdraw_volumes(self._output, names, WITHDRAWN_VOLUME, self._version)


def _waiting_places(output: Path, volume: str) -> list[Path]:
    """Folders in which the received instances of a volume may wait (`exporter.series.live`)."""
    *above, study, series = volume.split("/")
    return [place.joinpath(*above, ".waiting", study, series) for place in series_places(output)]


def _is_sent_again(name: str, rejection: InstanceRejection) -> bool:
    """Whether an instance arrived after the note that says that the retention of its earlier copy expired."""
    is_later = bool(NAME.fullmatch(name) and NAME.fullmatch(rejection.note)) and name > rejection.note
    return rejection.code == RETENTION_EXPIRED and is_later


def _words(rejection: InstanceRejection) -> dict[str, str]:
    """A rejection as the lines of its instances state it."""
    return {
        "code": rejection.code,
        "meaning": REJECTION_TITLES.get(rejection.code, ""),
        "note": rejection.note,
        "time": datetime.fromtimestamp(rejection.noted_ns / 1e9, UTC).isoformat(timespec="seconds"),
    }
