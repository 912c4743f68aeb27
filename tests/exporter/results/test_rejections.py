"""Rejection notes take the media of what they name out of an output, whatever comes first and whatever is cut off."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from exporter.batches.merging import merge
from exporter.batches.plan import make_plan
from exporter.batches.running import run_batch
from exporter.inputs.backfill import BackfillRequest, Progress, backfill
from exporter.page.condition import standing_of
from exporter.results import rejections
from exporter.results.ledger import Ledger
from exporter.results.rebuild import rebuild
from exporter.results.reconcile import Folders, reconcile
from exporter.results.stores.files import FilesStore
from exporter.settings.settings import Settings
from listener.settings.listener import DataFolder
from tests.exporter.rejecting import SERIES, STUDY, TITLES, image_uid, note, save_image, save_note

if TYPE_CHECKING:
    from pathlib import Path

FIRST, LAST = "a.dcm", "z.dcm"
"""Names of a note that is read before the images, and of one that is read after them."""


class Output:
    """An input folder and its backfill."""

    def __init__(self, root: Path) -> None:
        self.input, self.data = root / "in", DataFolder(root / "out")
        self.folders = Folders(self.data.ledger, self.data.media, self.data.metadata)

    def export(self, mode: str = "withdraw", **sections: Any) -> None:
        backfilled = BackfillRequest(self.input, self.data.root, settings(mode, **sections))
        for _ in backfill(backfilled, Progress(), threading.Event()):
            pass

    @property
    def images(self) -> list[str]:
        return sorted(path.name for path in self.data.media.rglob("*.png"))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.metadata.read_text().splitlines()]

    def newest(self, name: str) -> dict[str, Any]:
        export: dict[str, Any] = [line for line in self.lines if line["dicom_file"] == name][-1]["export"]
        return export

    def check(self) -> None:
        """Record, ledger and media agree."""
        assert reconcile(self.folders, deep=True).faults == []
        series = self.data.root / "series"
        if series.is_dir():
            found = Folders(self.data.root / "series.db", series, self.data.root / "series.jsonl")
            assert reconcile(found, deep=True).faults == []


def settings(mode: str, **sections: Any) -> Settings:
    return Settings.model_validate({"num_workers": 0, "media": {"on_rejection": mode}, **sections})


@pytest.fixture
def output(tmp_path: Path) -> Output:
    made = Output(tmp_path)
    for number in (1, 2, 3):
        save_image(made.input, number)
    return made


@pytest.mark.parametrize("name", [FIRST, LAST])
@pytest.mark.parametrize("title", TITLES)
def test_what_a_note_names_is_withdrawn_whichever_comes_first(output: Output, title: str, name: str) -> None:
    save_note(output.input, name, note([image_uid(2)], title))
    output.export()
    assert output.images == ["m1.png", "m3.png"]
    said = output.newest("m2.dcm")
    assert (said["status"], said["reason"], said["media"]) == ("withdrawn", "rejected", [])
    assert (said["rejection"]["code"], said["rejection"]["note"]) == (title, name)
    assert said["rejection"]["time"].endswith("+00:00")
    assert output.newest(name)["rejects"]["code"] == title
    standing = standing_of(output.data.root)
    assert (standing.rejected, standing.reasons["skipped"]) == (1, {"rejected": 1})
    output.check()
    before = output.data.metadata.read_bytes()
    output.export()
    assert output.data.metadata.read_bytes() == before


@pytest.mark.parametrize("name", [FIRST, LAST])
def test_what_a_note_names_is_flagged_and_stays(output: Output, name: str) -> None:
    save_note(output.input, name, note([image_uid(2)], "113037"))
    output.export("flag")
    assert output.images == ["m1.png", "m2.png", "m3.png"]
    said = output.newest("m2.dcm")
    assert (said["status"], said["rejection"]["meaning"]) == ("exported", "Rejected for Patient Safety Reasons")
    assert output.newest("m1.dcm")["rejection"] is None
    assert standing_of(output.data.root).rejected == 1
    output.check()
    before = output.data.metadata.read_bytes()
    output.export("flag", image={"extension": ".png"})
    assert output.data.metadata.read_bytes() == before


def test_the_default_flags() -> None:
    assert Settings().media.on_rejection == "flag"


@pytest.mark.parametrize("name", [FIRST, LAST])
def test_a_change_of_the_setting_counts_for_earlier_notes(output: Output, name: str) -> None:
    save_note(output.input, name, note([image_uid(2)]))
    output.export("ignore")
    assert (len(output.images), output.newest("m2.dcm")["rejection"]) == (3, None)
    assert standing_of(output.data.root).rejected == 0
    output.export("flag")
    assert output.newest("m2.dcm")["rejection"] is not None
    output.export("withdraw")
    assert output.images == ["m1.png", "m3.png"]
    output.check()
    output.export("flag")
    assert len(output.images) == 3
    assert (output.newest("m2.dcm")["status"], output.newest("m2.dcm")["rejection"]["code"]) == ("exported", "113001")
    output.check()


def test_a_second_note_and_the_same_note_twice_withdraw_nothing_more(output: Output) -> None:
    save_note(output.input, FIRST, note([image_uid(2)]))
    save_note(output.input, "b.dcm", note([image_uid(2)]))
    save_note(output.input, LAST, note([image_uid(2), image_uid(3)], "113038", number=2))
    output.export()
    assert output.images == ["m1.png"]
    assert [line["dicom_file"] for line in output.lines if line["export"]["status"] == "withdrawn"].count("m2.dcm") == 1
    output.check()


def test_every_copy_under_a_rejected_uid_goes(output: Output) -> None:
    save_image(output.input, 2, "n2.dcm")
    save_note(output.input, "m9.dcm", note([image_uid(2)]))
    output.export()
    assert output.images == ["m1.png", "m3.png"]
    assert output.newest("n2.dcm")["status"] == output.newest("m2.dcm")["status"] == "withdrawn"


OTHER = "1.2.9"


@pytest.mark.parametrize(
    ("made", "warns"),
    [
        (note(["1.2.77"]), None),
        (note([image_uid(2)], study=OTHER), "to other studies"),
        (note([image_uid(2)], own_study=OTHER), "to other studies"),
        (note([image_uid(2)], own_study=OTHER, study=OTHER), None),
        (note([image_uid(2)], series=OTHER), None),
        (note(["1.2.3.3.1"]), "to itself"),
        (note(["1" * 70]), "missing or malformed"),
        (note([]), "names no instance"),
        (note([image_uid(2)], title="113000"), None),
    ],
)
def test_a_note_that_names_nothing_of_ours_changes_nothing_and_says_so(
    output: Output, made: Any, warns: str | None
) -> None:
    save_note(output.input, LAST, made)
    output.export()
    assert output.images == ["m1.png", "m2.png", "m3.png"]
    assert [warns for warning in output.newest(LAST)["warnings"] if warns is not None and warns in warning] == [
        *filter(None, [warns])
    ]
    output.check()


def test_a_note_without_evidence_or_with_bytes_in_its_place_withdraws_nothing(output: Output) -> None:
    absent, odd = note([image_uid(2)]), note([image_uid(2)], number=2)
    del absent.CurrentRequestedProcedureEvidenceSequence
    odd.add_new(0x0040A375, "OB", b"\1\2\3\4")
    save_note(output.input, FIRST, absent)
    save_note(output.input, LAST, odd)
    output.export()
    assert len(output.images) == 3
    output.check()


@pytest.mark.slow
def test_the_volume_of_a_series_is_written_anew_without_what_was_withdrawn(output: Output) -> None:
    volume = output.data.root / "series" / STUDY / f"{SERIES}.nii.gz"
    output.export(volume={"series": True})
    before = volume.read_bytes()
    save_note(output.input, LAST, note([image_uid(3)]))
    output.export(volume={"series": True})
    assert volume.read_bytes() != before
    assert image_uid(3) not in volume.with_name(f"{SERIES}.series.json").read_text()
    output.check()
    save_note(output.input, "y.dcm", note([image_uid(2)], number=2))
    output.export(volume={"series": True})
    assert not volume.exists()  # one plane is no volume
    output.check()


class CutError(Exception):
    """The exporter ends here."""


@pytest.mark.parametrize(
    "step",
    ["record", "carry out", "remove", *(pytest.param(one, marks=pytest.mark.slow) for one in ("volumes", "settle"))],
)
def test_a_withdrawal_that_is_cut_off_is_finished_by_the_next_start(
    output: Output, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    series = step in {"volumes", "settle"}
    output.export(volume={"series": series})
    save_note(output.input, LAST, note([image_uid(3)]))
    with monkeypatch.context() as cut:
        calls = 0

        def ends(*_: object, **__: object) -> None:
            raise CutError

        def ends_later(ledger: Ledger, *arguments: Any) -> tuple[str, ...]:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise CutError
            return carry_out(ledger, *arguments)

        carry_out = Ledger.carry_out_rejections
        match step:
            case "record":
                cut.setattr(Ledger, "finish_many", ends)
            case "carry out":
                cut.setattr(Ledger, "carry_out_rejections", ends)
            case "remove":
                cut.setattr(FilesStore, "remove", ends)
            case "volumes":
                cut.setattr(rejections, "withdraw_volumes", ends)
            case _:
                cut.setattr(Ledger, "carry_out_rejections", ends_later)
        with pytest.raises(CutError):
            output.export(volume={"series": series})
    output.export(volume={"series": series})
    assert output.images == ["m1.png", "m2.png"]
    assert [line["export"]["status"] for line in output.lines if line["dicom_file"] == "m3.dcm"] == [
        "exported",
        "withdrawn",
    ]
    if series:
        assert image_uid(3) not in (output.data.root / "series" / STUDY / f"{SERIES}.series.json").read_text()
    output.check()


def test_a_ledger_made_anew_knows_the_rejections(output: Output) -> None:
    save_note(output.input, LAST, note([image_uid(2)]))
    output.export()
    rebuild(output.folders)
    save_image(output.input, 2, "n2.dcm")
    output.export()
    assert output.images == ["m1.png", "m3.png"]
    assert output.newest("n2.dcm")["status"] == "withdrawn"
    output.check()


@pytest.mark.parametrize("name", [FIRST, LAST])
def test_a_merge_of_batches_withdraws_what_a_note_of_another_batch_names(output: Output, name: str) -> None:
    save_note(output.input, name, note([image_uid(2)]))
    plan = make_plan(BackfillRequest(output.input, output.data.root, settings("withdraw")), 2)
    for batch in plan.batches:
        run_batch(plan, batch.number, workers=0, progress=Progress(), stop=threading.Event())
    merge(output.data.root)
    assert output.images == ["m1.png", "m3.png"]
    assert output.newest("m2.dcm")["status"] == "withdrawn"
    output.check()


def test_a_ledger_of_the_schema_without_rejections_is_brought_up_to_date(output: Output) -> None:
    output.export()
    with closing(sqlite3.connect(output.data.ledger)) as connection:
        connection.execute("DROP TABLE rejection")
        connection.execute("PRAGMA user_version=4")
        connection.commit()
    save_note(output.input, LAST, note([image_uid(2)]))
    output.export()
    assert output.images == ["m1.png", "m3.png"]


@pytest.mark.slow
def test_a_note_of_many_thousand_instances_is_carried_out_in_small_steps(output: Output) -> None:
    save_note(output.input, LAST, note([image_uid(number) for number in range(20_000)]))
    output.export(report={"text": False})
    assert output.images == []
    assert standing_of(output.data.root).rejected == 3
    output.check()
