"""A plan lists what is to be done without opening it, and is refused once it is not what it was."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from exporter.batches.plan import BatchPlan, BatchSizing, BatchUnusable, make_plan
from exporter.batches.rounds import RoundState
from tests.exporter.batches.conftest import request, run_all

if TYPE_CHECKING:
    from pathlib import Path

WATCHED: list[tuple[str, list[str]]] = []
"""Folders of which opened files are noted."""


def note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and WATCHED and isinstance(arguments[0], str) and arguments[0].startswith(WATCHED[0][0]):
        WATCHED[0][1].append(arguments[0])


sys.addaudithook(note_opened)


def test_planning_opens_no_file(tree: Path, tmp_path: Path) -> None:
    opened: list[str] = []
    WATCHED.append((f"{tree}/", opened))
    try:
        make_plan(request(tree, tmp_path / "out"))
        assert opened == []
        (tree / "notes.txt").read_text()
        assert opened, "the test sees what is opened"
    finally:
        WATCHED.clear()


@pytest.mark.parametrize("batches", [1, 2, 7, 1000])
def test_batches_are_ranges_of_the_walk(tree: Path, tmp_path: Path, batches: int) -> None:
    plan = make_plan(request(tree, tmp_path / "out"), batches)
    units = [unit for batch in plan.batches for unit in plan.units_of(batch.number)]
    assert [unit.index for unit in units] == list(range(plan.units))
    assert {unit.name for unit in units} >= {"link", "c.zip", "odd\n'\udcff.dcm", "a/x.dcm"}
    assert len(plan.batches) == min(batches, plan.units)
    assert sum(batch.bytes for batch in plan.batches) == plan.bytes
    again = BatchPlan.read(tmp_path / "out")
    assert again == plan
    assert again.settings() == request(tree, tmp_path / "out").settings


def test_batches_take_the_time_that_they_are_to_take(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        (tmp_path / "in" / f"{number:02}").write_bytes(bytes(100 if number % 4 else 5000))
    (tmp_path / "in" / "link").symlink_to("00")
    sizing = BatchSizing(20.0, {7: 1.0, 13: 7.0})  # 30 and 70 s
    plan = make_plan(request(tmp_path / "in", tmp_path / "out"), sizing=sizing)
    taken = [sum(map(sizing.seconds_of, plan.units_of(batch.number))) for batch in plan.batches]
    assert len(taken) == 5
    assert sum(taken) == 100
    assert max(taken) < 30
    assert plan.bytes == sum(batch.bytes for batch in plan.batches) == 30 * 100 + 10 * 5000 + 2
    assert len(make_plan(request(tmp_path / "in", tmp_path / "out"), most=3, sizing=sizing).batches) == 3
    assert len(make_plan(request(tmp_path / "in", tmp_path / "out"), 7, most=3, sizing=sizing).batches) == 7
    assert len(make_plan(request(tmp_path / "in", tmp_path / "out"), most=3).batches) == 1, "a task costs seconds"


@pytest.mark.parametrize("damage", ["edited", "truncated", "deleted", "settings", "plan"])
def test_a_plan_that_was_changed_is_refused_with_the_file_at_fault(tree: Path, tmp_path: Path, damage: str) -> None:
    make_plan(request(tree, tmp_path / "out"), 2)
    root = tmp_path / "out" / "batches"
    file = root / {"settings": "settings.json", "plan": "plan.json"}.get(damage, "units-2")
    text = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(text[:-10])
    else:
        file.write_bytes(text.replace(b'"', b"'", 1))
    with pytest.raises(BatchUnusable, match=file.name):  # noqa: PT012 - which step finds it depends on the file
        plan = BatchPlan.read(tmp_path / "out")
        plan.settings()
        plan.units_of(2)


def test_a_plan_of_which_something_ran_is_not_replaced(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = make_plan(request(tree, output))
    assert make_plan(request(tree, output)).id != first.id, "nothing of it has run"
    plan = BatchPlan.read(output)
    RoundState("slurm", 3).claim(plan)
    with pytest.raises(BatchUnusable, match="submitted already"):
        RoundState("slurm", 3).claim(plan)
    with pytest.raises(BatchUnusable, match="under way"):
        make_plan(request(tree, output))
    (plan.root / "rounds.json").unlink()
    (plan.root / "1" / "run-1").mkdir(parents=True)
    with pytest.raises(BatchUnusable, match="backfill resume"):
        make_plan(request(tree, output))


def test_what_batches_keep_is_never_input(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "one.dcm").write_bytes((tree / "s0.dcm").read_bytes())
    run_all(folder, folder, 1)  # the output is the input folder
    (folder / "batches" / "rounds.json").write_text(json.dumps({}))
    names = [unit.name for unit in BatchPlan.read(folder).units_of(1)]
    assert names == ["one.dcm"]
