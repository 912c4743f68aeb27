"""A DICOMDIR says what should be there: what is missing is told, and nothing outside its folder is ever looked at."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from exporter.errors import ExportError
from exporter.inputs.backfill import BackfillRequest, plan
from exporter.inputs.fileset import MediaFolder, is_dicomdir_name, references
from exporter.outcome import Failed, Skipped
from exporter.results.ledger import Ledger
from exporter.settings.settings import Settings
from tests.exporter.inputs.making import CT, lines, media, run

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
SETS = Path(str(get_testdata_file("DICOMDIR"))).parent
EVERY_SET = [
    "DICOMDIR",
    "DICOMDIR-bigEnd",
    "DICOMDIR-implicit",
    "DICOMDIR-nopatient",
    "DICOMDIR-reordered",
    "TINY_ALPHA/DICOMDIR",
]


@pytest.fixture
def cd(tmp_path: Path) -> Path:
    """A medium of 7 instances."""
    root = tmp_path / "cd"
    shutil.copytree(SETS / "77654033", root / "77654033")
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 7
    (root / "DICOMDIR").write_bytes(forged(*(b"\\".join(map(os.fsencode, path.parts)) for path in files)))
    return root


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def forged(*file_ids: bytes, undefined: bool = False, in_use: int = 0xFFFF) -> bytes:
    """A DICOMDIR with one record for each File ID."""
    meta = dcmread(SETS / "DICOMDIR").file_meta
    del meta
    head = (SETS / "DICOMDIR").read_bytes()
    head = head[: head.index(b"\x04\x00\x20\x12SQ")]
    records = b""
    for file_id in file_ids:
        padded = file_id + b" " * (len(file_id) % 2)
        record = struct.pack("<HH2sHL", 4, 0x1400, b"UL", 4, 0) + struct.pack("<HH2sHH", 4, 0x1410, b"US", 2, in_use)
        record += struct.pack("<HH2sH", 4, 0x1500, b"CS", len(padded)) + padded
        if undefined:
            icon = struct.pack("<HH2sHL", 0x88, 0x200, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
                "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
            )
            icon += struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 1) + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
            record += icon + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
            records += struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + record + struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
        else:
            records += struct.pack("<HHL", 0xFFFE, 0xE000, len(record)) + record
    length = 0xFFFFFFFF if undefined else len(records)
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if undefined else b""
    return head + struct.pack("<HH2sHL", 4, 0x1220, b"SQ", 0, length) + records + end


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY_SET)
def test_references_are_those_that_pydicom_finds_and_all_are_there(name: str) -> None:
    found = list(references((SETS / name).read_bytes()))
    records = dcmread(SETS / name).DirectoryRecordSequence
    values = [record.ReferencedFileID for record in records if "ReferencedFileID" in record]
    assert found == [(value,) if isinstance(value, str) else tuple(value) for value in values]
    folder = MediaFolder((SETS / name).parent)
    assert all(folder.find(components) == "/".join(components) for components in found)


def until_the_error(content: bytes) -> tuple[list[tuple[str, ...]], str]:
    found = []
    try:
        for one in references(content):
            found.append(one)  # noqa: PERF402 - those before the error count
    except ExportError as error:
        return found, str(error)
    return found, ""


def test_a_directory_that_is_cut_gives_what_it_has_and_says_so() -> None:
    name = "DICOMDIR-nooffset"
    found, problem = until_the_error((SETS / name).read_bytes())
    assert "cut" in problem
    assert found == [
        tuple(one.ReferencedFileID) for one in dcmread(SETS / name).DirectoryRecordSequence if "ReferencedFileID" in one
    ]
    assert len(until_the_error((SETS / name).read_bytes()[:5000])[0]) == 12


def test_records_of_undefined_length_are_read_and_unused_ones_are_not() -> None:
    assert list(references(forged(b"A\\B", b"C", undefined=True))) == [("A", "B"), ("C",)]
    assert list(references(forged(b"A\\B", b"A\\B"))) == [("A", "B")]
    assert list(references(forged(b"A", in_use=0))) == []


def test_any_damage_ends_in_an_error_of_ours() -> None:
    chance = random.Random(5)  # noqa: S311 - the same in every run
    seeds = [(SETS / name).read_bytes() for name in EVERY_SET] + [forged(b"A\\B", b"C", undefined=True)]
    for _ in range(1500):
        content = bytearray(chance.choice(seeds))
        for _ in range(chance.choice((1, 3, 10))):
            at = chance.randrange(130, len(content))
            if chance.random() < 0.2:
                del content[at:]
                break
            content[at] = chance.choice((0, 0xFF, chance.randrange(256)))
        try:
            for components in references(bytes(content)):
                assert any(components)
        except ExportError:
            pass


def test_names_of_the_directory_are_known_in_every_spelling() -> None:
    for name in ("DICOMDIR", "dicomdir", "Dicomdir;1", "DICOMDIR.", "DICOMDIR.;1"):
        assert is_dicomdir_name(name)
    for name in ("DICOMDIR2", "DICOMDIR.bak", "DICOMDIR-empty.dcm"):
        assert not is_dicomdir_name(name)


# -- resolving -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [str.lower, str.upper, "{};1".format, "{}.;1".format, "{}.".format])
def test_names_of_mounted_media_are_found_in_every_spelling(spelling: object, tmp_path: Path) -> None:
    assert callable(spelling)
    place = tmp_path / "pat001" / spelling("Im0001")
    place.parent.mkdir()
    place.touch()
    assert MediaFolder(tmp_path).find(("PAT001", "IM0001")) == f"pat001/{place.name}"


def test_what_leads_elsewhere_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    root = tmp_path / "cd"
    root.mkdir()
    (root / "LINK").symlink_to(tmp_path / "secret")
    (root / "FOLDER").symlink_to(tmp_path)
    os.mkfifo(root / "PIPE")
    folder = MediaFolder(root)
    for components in (
        ("..", "secret"),
        ("..", "cd", "x"),
        ("../secret",),
        ("", "secret"),
        (str(tmp_path / "secret"),),
        ("LINK",),
        ("FOLDER", "secret"),
        ("PIPE",),
        ("a\0b",),
        (".",),
        ("LINK", "x"),
    ):
        assert folder.find(components) is None


def test_the_exact_spelling_wins(tmp_path: Path) -> None:
    for name in ("im1", "IM1"):
        (tmp_path / name).touch()
    assert MediaFolder(tmp_path).find(("IM1",)) == "IM1"
    assert MediaFolder(tmp_path).find(("im1",)) == "im1"


# -- runs ------------------------------------------------------------------------------------------------------------


def test_a_whole_medium_has_no_failures(cd: Path, out: Path) -> None:
    tally, _ = run(cd, out)
    assert (tally.exported, dict(tally.skipped), dict(tally.failed)) == (7, {"dicomdir": 1}, {})
    assert tally.total == tally.settled == 8
    again, results = run(cd, out)
    assert (again.unchanged, results) == (8, {})


def test_a_missing_file_is_told_until_it_is_there(cd: Path, out: Path) -> None:
    gone = cd / "77654033" / "CT2" / "17106"
    content = gone.read_bytes()
    gone.unlink()
    shutil.rmtree(cd / "77654033" / "CR1")
    tally, results = run(cd, out)
    names = {"DICOMDIR//77654033/CT2/17106", "DICOMDIR//77654033/CR1/6154"}
    assert {name for name, one in results.items() if isinstance(one.outcome, Failed)} == names
    outcome = results["DICOMDIR//77654033/CT2/17106"].outcome
    assert isinstance(outcome, Failed)
    assert outcome.reason == "unreadable"
    assert "not there" in outcome.message
    assert tally.settled == tally.total
    again, results = run(cd, out)
    assert (again.failed_before, results) == (2, {})
    gone.write_bytes(content)
    third, results = run(cd, out)
    assert results.keys() == {"77654033/CT2/17106", "DICOMDIR//77654033/CT2/17106"}
    assert isinstance(results["DICOMDIR//77654033/CT2/17106"].outcome, Skipped)
    assert third.failed_before == 1
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        assert ledger.counts().failed == 1
    gone.unlink()
    fourth, _ = run(cd, out)
    assert fourth.failed.total() == 1, "it is missing again"


def test_the_directory_given_by_itself_exports_what_it_references_only(cd: Path, out: Path) -> None:
    (cd / "extra").write_bytes(CT)
    (cd / "77654033" / "CT2" / "17106").rename(cd / "77654033" / "CT2" / "moved")
    tally, results = run(cd / "DICOMDIR", out)
    assert tally.exported == 6
    assert dict(tally.failed) == {"unreadable": 1}
    assert "extra" not in results
    assert tally.settled == tally.total
    assert "77654033/CR1/6154.png" in media(out)
    whole, results = run(cd, out)
    assert set(results) == {"extra", "77654033/CT2/moved"}
    assert whole.unchanged == 8


def test_a_hostile_directory_leads_nowhere_and_each_reference_has_one_outcome(tmp_path: Path, out: Path) -> None:
    root = tmp_path / "cd"
    root.mkdir()
    (tmp_path / "secret.dcm").write_bytes(CT)
    (root / "IM1").write_bytes(CT)
    ids = (
        b"..\\SECRET.DCM",
        b"..\\..\\ETC\\PASSWD",
        b"/etc/passwd",
        b"IM1",
        b"im1",
        b".\\IM1",
        b"..",
        b".",
        b"\\\\host\\x",
    )
    (root / "DICOMDIR").write_bytes(forged(*ids))
    tally, results = run(root, out)
    assert tally.exported == 1
    assert dict(tally.failed) == {"unreadable": 6}
    assert all(name.startswith("DICOMDIR") or name == "IM1" for name in results)
    assert len(lines(out)) == 1
    assert run(root, out)[1] == {}
    assert run(root / "DICOMDIR", tmp_path / "other")[0].exported == 1


def test_a_directory_that_cannot_be_read_to_its_end_is_a_failure(cd: Path, out: Path) -> None:
    content = (cd / "DICOMDIR").read_bytes()
    (cd / "DICOMDIR").write_bytes(content[:-70])
    tally, results = run(cd, out)
    assert "DICOMDIR//*" in results
    assert tally.exported == 7
    (cd / "DICOMDIR").write_bytes(content)
    _, results = run(cd, out)
    assert isinstance(results["DICOMDIR//*"].outcome, Skipped)
    with Ledger.open_read_only(out / "exporter.db") as ledger:
        assert ledger.counts().failed == 0


def test_dry_run_tells_what_is_missing(cd: Path, out: Path) -> None:
    (cd / "77654033" / "CT2" / "17106").unlink()
    steps = {step.name: (step.action, step.detail) for step in plan(BackfillRequest(cd, out, Settings()))}
    assert steps["DICOMDIR//77654033/CT2/17106"] == ("fail", "unreadable")
    assert steps["DICOMDIR"] == ("skip", "dicomdir")
    assert not out.exists()


def test_media_as_another_program_writes_them_are_whole(peer: Callable[[str], str], tmp_path: Path, out: Path) -> None:
    root = tmp_path / "cd"
    (root / "SUB").mkdir(parents=True)
    for name, source in (("IM1", "CT_small.dcm"), ("SUB/IM2", "MR_small.dcm")):
        shutil.copy(str(get_testdata_file(source)), root / name)
    make = [peer("dcmmkdir"), "+r", "+id", str(root), "+D", str(root / "DICOMDIR"), "-Pgp", "+I"]
    made = subprocess.run(make, capture_output=True, text=True, check=False, timeout=100, cwd=root)
    assert (root / "DICOMDIR").is_file(), made.stderr
    assert sorted(references((root / "DICOMDIR").read_bytes())) == [("IM1",), ("SUB", "IM2")]
    tally, _ = run(root, out)
    assert (tally.exported, dict(tally.failed)) == (2, {})


def test_the_command_says_that_a_medium_is_not_whole(cd: Path, out: Path) -> None:
    (cd / "77654033" / "CT2" / "17106").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "exporter", "backfill", str(cd), "--output", str(out), "--workers", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 3, done.stderr
    assert "failed 1 (unreadable 1)" in done.stdout
