"""Withdrawal: what a changed list of patients forbids leaves an output that has it already.

Contract: run at start, before anything is exported. Every instance whose line the lists forbid loses its media and the
volumes of its series, becomes skipped (`excluded`), and gets a line with the status `withdrawn`; line and loss of the
media are one transaction, and files that a crash leaves are removed at the next start, as superseded ones are. The
ledger keeps a digest of the lists once all is withdrawn: lists that did not change cost nothing. The next backfill
looks again at inputs that a list kept out, and at those withdrawn.

Must never: name a patient in a message, or rewrite earlier lines.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import orjson

from exporter.errors import SkipReason
from exporter.outcome import Skipped
from exporter.results import intents
from exporter.results.ledger import Ledger
from exporter.results.line import line
from exporter.results.metadata.jsonl import Appender
from exporter.results.output_names import uid_component
from exporter.results.stores.files import remove_media

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from exporter.privacy.lists import PatientLists
    from exporter.results.ledger import InstanceRow

_DIGEST: Final = "privacy_lists"
_BATCH: Final = 500
MESSAGE: Final = "withdrawn: a list of the configuration (`privacy.exclude`, `privacy.pseudonyms`) no longer permits it"
_PATIENT_ID: Final = 0x00100020
_STUDY: Final = 0x0020000D


@dataclass(frozen=True, slots=True)
class _Forbidden:
    """One instance that must not be in the output any more."""

    row: InstanceRow
    ae_title: str | None


def withdraw_forbidden(lists: PatientLists, ledger: Ledger, media: Path, output: Path, version: str) -> int:
    """Withdraw from an output what the lists forbid, if they have changed since the last start.

    Args:
        lists: As they are now.
        ledger: Of the output, with no attempt under way.
        media: The media folder.
        output: The data or output folder, with the volumes of series.
        version: Of this program, for the lines.

    Returns:
        Number of instances.

    Raises:
        LedgerUnusable, OutOfSpace: The ledger cannot be written; the next start goes on.
        OSError: A file cannot be removed.
    """
    before = ledger.progress().get(_DIGEST, 0)
    if before == lists.digest:
        return 0
    count, forbidden = 0, _forbidden(lists, ledger)
    while some := list(islice(forbidden, _BATCH)):
        _remove_volumes(output, [one.row for one in some], version)
        paths = ledger.revoke_many([(one.row.name, MESSAGE, _line(one.row, version, one.ae_title)) for one in some])
        remove_media(media, paths)
        ledger.forget_superseded(paths)
        count += len(some)
    ledger.look_again([SkipReason.EXCLUDED, "privacy_unknown"])
    ledger.remember({_DIGEST: lists.digest})
    return count


def _forbidden(lists: PatientLists, ledger: Ledger) -> Iterator[_Forbidden]:
    """The instances with a line in force that the lists forbid."""
    from exporter.results.metadata.dicom_json import text_in  # loads pydicom, which most starts need not

    for row in ledger.entries():
        if row.line_seq is None or row.reason in {SkipReason.EXCLUDED, SkipReason.REJECTED}:
            continue
        text = ledger.line(row.line_seq)
        said = orjson.loads(text) if text is not None else {}
        told = said.get("export") or {}
        keyed = (told.get("privacy") or {}).get("patient")
        patient, study = text_in(said, _PATIENT_ID), text_in(said, _STUDY)
        if lists.forbids(patient, study, keyed):
            yield _Forbidden(row, told.get("ae_title"))


def _line(row: InstanceRow, version: str, ae_title: str | None = None) -> bytes:
    outcome = Skipped(SkipReason.EXCLUDED, MESSAGE, record="{}")
    return line(outcome, dicom_file=row.name, version=version, ae_title=ae_title or "", is_withdrawn=True)


def _remove_volumes(output: Path, rows: Sequence[InstanceRow], version: str) -> None:
    """Withdraw the volumes of the series that instances belong to, and remove what waits for them."""
    names: dict[str, None] = {}
    for identity in filter(None, (row.identity for row in rows)):
        study, base = uid_component(identity.study_instance_uid), uid_component(identity.series_instance_uid)
        names |= dict.fromkeys(volume_names(output, identity.study_instance_uid, identity.series_instance_uid))
        for above in series_places(output):
            for root in _roots(above):
                shutil.rmtree(root / ".waiting" / study / base, ignore_errors=True)
                (root / ".waiting" / study / f"{base}.tried").unlink(missing_ok=True)
    withdraw_volumes(output, names, Skipped(SkipReason.EXCLUDED, MESSAGE, record="{}"), version)


def series_places(output: Path) -> tuple[Path, Path]:
    """Folder of series volumes, and that of the originals that wait for them where volumes are de-identified."""
    return output / "series", output / "spool" / "series"


def volume_names(output: Path, study_uid: str, series_uid: str) -> list[str]:
    """Names of the volumes that one series may have: at the top level, and for AE titles with their own settings."""
    study, base = uid_component(study_uid), uid_component(series_uid)
    names: dict[str, None] = {}
    for above in series_places(output):
        names |= {(root.relative_to(above) / study / base).as_posix(): None for root in _roots(above)}
    return [*names]


def withdraw_volumes(output: Path, names: Iterable[str], outcome: Skipped, version: str) -> None:
    """Withdraw volumes of series from an output whose folder of volumes no exporter has open.

    Args:
        output: The data or output folder.
        names: Of the volumes, below `series/` and without suffix.
        outcome: Of the volumes from now on.
        version: Of this program, for the lines.

    Raises:
        LedgerUnusable, OutOfSpace: Their ledger cannot be written.
    """
    if not (output / "series.db").is_file():
        return
    with Ledger.open(output / "series.db") as ledger:
        paths = revoke_volumes(ledger, output / "series", names, outcome, version)
        with Appender(output / "series.jsonl", ledger, append=True) as appender:
            appender.publish()
    for path in paths:
        with suppress(OSError):
            (output / "series" / path).parent.rmdir()


def revoke_volumes(ledger: Ledger, root: Path, names: Iterable[str], outcome: Skipped, version: str) -> Sequence[str]:
    """Withdraw volumes by their names, in their open ledger and folder.

    Returns:
        Paths of the files that they had.

    Raises:
        LedgerUnusable, OutOfSpace: The ledger cannot be written.
    """
    rows = [row for row in map(ledger.entry, names) if row is not None and row.line_seq is not None]
    revoked = [
        (row.name, outcome.message, line(outcome, dicom_file=row.name, version=version, is_withdrawn=True))
        for row in rows
        if row.reason != outcome.reason
    ]
    paths = ledger.revoke_many(revoked, outcome.reason)
    intents.remove(root, paths)
    ledger.forget_superseded(paths)
    return paths


def _roots(series: Path) -> Iterator[Path]:
    """Folder of series volumes, and those of AE titles in it, as far as they are there."""
    if series.is_dir():
        yield series
        yield from series.glob("ae-*")
