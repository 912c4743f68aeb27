"""What a line says of other instances, and what media are called, depends on the inputs and not on the workers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian

from exporter.inputs.backfill import BackfillRequest, Progress, backfill
from exporter.outcome import InstanceIdentity
from exporter.results.ledger import InstanceStatus, Ledger, WorkItem
from exporter.results.ledger.types import DuplicateCheck
from exporter.settings.settings import Settings
from exporter.work.input_order import InputOrder
from tests.exporter import ledger_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

CT = Path(str(get_testdata_file("CT_small.dcm")))
MR = Path(str(get_testdata_file("MR_small.dcm")))


def identity(uid: str = "1.2.3", content: str = "x") -> InstanceIdentity:
    return InstanceIdentity("1.2.840.10008.5.1.4.1.1.7", uid, "1.2", "1.2.1", content)


def write(path: Path, uid: str, *, side: int = 16, patient: str = "one") -> None:
    """One instance whose picture takes the longer to write the larger it is."""
    dataset = pydicom.dcmread(CT)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.PatientID = patient
    dataset.Rows = dataset.Columns = side
    noise = np.random.default_rng(side).integers(0, 4096, (side, side), np.int16)
    dataset.set_pixel_data(noise, "MONOCHROME2", 16, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs whose first file takes much longer than the second, and several inputs of one stem."""
    root = tmp_path / "in"
    for number in range(2):
        write(root / f"{number}-a", f"1.2.{number}", side=1000)
        write(root / f"{number}-b", f"1.2.{number}", patient="another")
        shutil.copy(root / f"{number}-b", root / f"{number}-c")
        write(root / "stems" / f"{number}", f"1.3.{number}.1", side=1000)
        write(root / "stems" / f"{number}.dcm", f"1.3.{number}.2")
        write(root / "stems" / f"{number}.ima", f"1.3.{number}.3")
    return root


def run(folder: Path, output: Path, workers: int, stop: threading.Event | None = None, **sections: Any) -> set[bytes]:
    """The metadata lines of one whole run."""
    request = BackfillRequest(folder, output, Settings.model_validate(sections), workers=workers)
    for _ in backfill(request, Progress(), stop or threading.Event()):
        pass
    return set((output / "metadata.jsonl").read_bytes().splitlines())


def relations(lines: set[bytes]) -> dict[str, tuple[str | None, str | None]]:
    told = map(json.loads, lines)
    return {one["dicom_file"]: (one["export"]["duplicate_of"], one["export"]["conflict_with"]) for one in told}


def test_any_number_of_workers_writes_the_same_lines(folder: Path, tmp_path: Path) -> None:
    one = run(folder, tmp_path / "one", 1)
    assert len(one) == 12
    assert relations(one)["0-a"] == (None, None)
    assert relations(one)["0-b"] == (None, "0-a")
    assert relations(one)["0-c"] == ("0-b", "0-a")
    for workers in (0, 2, 4):
        assert run(folder, tmp_path / str(workers), workers) == one


def test_the_first_of_one_stem_has_the_plain_name_and_the_others_keep_their_extension(
    folder: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in run(folder, tmp_path / "out", 4)]
    names = {line["dicom_file"]: line["media_file"] for line in lines if line["dicom_file"].startswith("stems/")}
    assert names == {
        f"stems/{number}{extension}": f"stems/{number}{extension}.png"
        for number in range(2)
        for extension in ("", ".dcm", ".ima")
    }


@pytest.mark.slow
def test_other_settings_find_the_same_relations(folder: Path, tmp_path: Path) -> None:
    first = relations(run(folder, tmp_path / "out", 4))
    again = run(folder, tmp_path / "out", 4, image={"extension": ".jpg"})
    assert len(again) == 24
    changed = {line for line in again if b".jpg" in line}
    assert relations(changed) == first


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_lines_of_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    whole = run(folder, tmp_path / "whole", 2)
    stop = threading.Event()
    request = BackfillRequest(folder, tmp_path / "out", Settings(), workers=4)
    for _ in backfill(request, Progress(), stop):
        stop.set()
    assert run(folder, tmp_path / "out", 3) == whole


# -- the ledger ------------------------------------------------------------------------------------------------------


def begin(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger_rows.begin(ledger, name, size_bytes=1, mtime_ns=1, source="folder")


def finish(ledger: Ledger, name: str, relation: DuplicateCheck, content: str) -> None:
    ledger_rows.finish(
        ledger,
        name,
        state=InstanceStatus.EXPORTED,
        identity=identity(content=content),
        duplicate_of=relation.duplicate_of,
        conflict=relation.conflict_with,
    )


def test_an_attempt_that_a_crash_cut_short_finds_the_relation_it_would_have_had(tmp_path: Path) -> None:
    path = tmp_path / "exporter.db"
    with Ledger.open(path) as ledger:
        begin(ledger, "a", "b", "c")
        assert ledger.identify("a", identity(content="x")) == DuplicateCheck()
        assert ledger.identify("b", identity(content="x")) == DuplicateCheck("a")
        relation = ledger.identify("c", identity(content="y"))
        finish(ledger, "c", relation, "y")
    with Ledger.open(path) as ledger:  # as if killed before the first two were finished
        ledger.recover()
        begin(ledger, "a", "b")
        assert ledger.identify("a", identity(content="x")) == DuplicateCheck()
        assert ledger.identify("b", identity(content="x")) == DuplicateCheck("a")


def test_a_conflict_is_flagged_though_the_first_was_identified_last(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        begin(ledger, "a", "b")
        ledger.defer("a", "timeout", "", not_before=0)
        finish(ledger, "b", ledger.identify("b", identity(content="y")), "y")
        begin(ledger, "a")
        assert ledger.identify("a", identity(content="x")) == DuplicateCheck(None, "b")


def test_an_instance_that_is_put_off_is_still_known_to_those_after_it(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        begin(ledger, "a", "b")
        ledger.identify("a", identity(content="x"))
        ledger.defer("a", "timeout", "", not_before=0)
        assert ledger.identify("b", identity(content="y")) == DuplicateCheck(None, "a")
        begin(ledger, "a")
        assert ledger.identify("a", identity(content="x")) == DuplicateCheck()


# -- the order -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "exporter.db") as opened:
        yield opened


def work(name: str) -> WorkItem:
    return WorkItem(name, Path(name), 1, 1, "folder", mirrors=name)


def order_of(ledger: Ledger, told: list[str] | None = None) -> InputOrder:
    said = told if told is not None else []
    return InputOrder(ledger, lambda work, _: work.name, lambda: said.append("decided"))


def test_an_instance_waits_for_the_identity_of_those_before_it_and_not_for_their_pixels(ledger: Ledger) -> None:
    told: list[str] = []
    order = order_of(ledger, told)
    first, second = order.enter(work("a")), order.enter(work("b"))
    order.identify(second, identity())
    assert order.ready([second]) == []
    assert told == []
    order.identify(first, identity())
    assert told == ["decided"]
    assert order.ready([second]) == [second]
    assert second.relation == DuplicateCheck("a")


def test_one_that_fails_early_or_is_put_off_keeps_nobody_waiting(ledger: Ledger) -> None:
    order = order_of(ledger)
    failed, put_off, last = (order.enter(work(name)) for name in "abc")
    order.identify(last, identity())
    order.identify(failed, None)
    assert order.ready([last]) == []
    order.leave(put_off)
    assert order.ready([last]) == [last]


def test_one_that_takes_too_long_to_be_identified_comes_after_the_others(ledger: Ledger) -> None:
    order = InputOrder(ledger, lambda work, _: work.name, lambda: None, patience_s=30)
    slow, other = order.enter(work("a")), order.enter(work("b"))
    order.identify(other, identity(content="y"))
    assert order.ready([other]) == []
    slow.begun_at = time.monotonic() - 29
    assert order.ready([other]) == []
    slow.begun_at = time.monotonic() - 31
    assert order.ready([other]) == [other]
    order.identify(slow, identity(content="x"))
    assert order.ready([slow]) == [slow]
    assert (other.relation, slow.relation) == (DuplicateCheck(), DuplicateCheck(None, "b"))


@pytest.mark.parametrize(
    ("earlier", "later", "waits"),
    [
        ("1", "1", True),
        ("1", "1.frames/2", True),
        ("1.raw", "1", True),
        ("1", "1-2", True),
        ("1", "10", False),
        ("a/1", "b/1", False),
    ],
)
def test_only_an_output_name_that_an_earlier_one_may_want_is_waited_for(
    ledger: Ledger, earlier: str, later: str, *, waits: bool
) -> None:
    order = order_of(ledger)
    first, second = order.enter(work(earlier)), order.enter(work(later))
    order.identify(first, identity("1.1"))
    order.identify(second, identity("1.2"))
    assert order.ready([second]) == ([] if waits else [second])
    assert order.ready([second, first]) == [first, second]
    order.leave(first)
    assert order.ready([second]) == [second]
