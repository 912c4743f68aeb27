"""The command line: quick where it must be quick, one sentence where something is wrong, nothing changed then."""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydicom import examples
from pydicom.data import get_testdata_file

from exporter.commands import ExitCode
from exporter.commands.app import COMMANDS, application, main
from exporter.errors import Reason, SkipReason
from tests.product.running import run, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = ("numpy", "pydicom", "av", "PIL", "imagecodecs", "pynetdicom", "pydantic", "structlog", "rich.progress")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder that was exported, with one image, one file that is no DICOM, one truncated one and a link; and OUT."""
    root = tmp_path_factory.mktemp("finished")
    folder, out = root / "in", root / "out"
    folder.mkdir()
    shutil.copy(examples.get_path("ct"), folder / "ct")
    (folder / "notes.txt").write_text("JOHN^DOE is no DICOM")
    content = Path(examples.get_path("mr")).read_bytes()
    (folder / "cut.dcm").write_bytes(content[:-1000])
    (folder / "link.dcm").symlink_to(folder / "ct")
    done = run("backfill", folder, "--output", out)
    assert done.returncode == 3, done.stderr
    return folder, out


@pytest.fixture
def copied(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, to be changed."""
    shutil.copytree(finished[0], tmp_path / "in", symlinks=True)
    shutil.copytree(finished[1], tmp_path / "out")
    return tmp_path / "in", tmp_path / "out"


def tree(folder: Path) -> dict[str, object]:
    """Everything below a folder: names, sizes, times; to see that nothing changed.

    Files of SQLite beside a database, locks, and the count of starts with a damaged ledger are no change.
    """
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith(("-shm", "-wal", ".lock", ".damage")):
            about = path.lstat()
            found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns if path.is_file() else 0)
    return found


def called(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command in this process."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


# -- status ----------------------------------------------------------------------------------------------------------


def test_status_counts_every_instance_once_and_says_why(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = called(capsys, "status", "--data", finished[1], "--json")
    assert code == ExitCode.DONE
    found = json.loads(text)
    assert {key: found[key] for key in ("pending", "active", "exported", "skipped", "quarantined", "failed")} == {
        "pending": 0,
        "active": 0,
        "exported": 1,
        "skipped": 1,
        "quarantined": 0,
        "failed": 2,
    }
    assert found["duplicates"] == 0
    assert found["reasons"] == {
        "failed": {"corrupt_pixels": 1, "not_dicom": 1},
        "skipped": {"not_regular": 1},
    }


def test_status_for_people_says_the_same(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = called(capsys, "status", "--data", finished[1])
    assert code == ExitCode.DONE
    assert re.search(r"^failed +2   corrupt_pixels 1, not_dicom 1$", text, re.MULTILINE)
    assert re.search(r"^exported +1$", text, re.MULTILINE)


def test_status_looks_only(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(finished[1])
    for command in ("status", "failures", "reconcile"):
        assert called(capsys, command, "--data", finished[1])[0] == ExitCode.DONE
    assert tree(finished[1]) == before


def test_status_works_while_an_exporter_holds_the_ledger(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from exporter.results.ledger import Ledger

    with Ledger.open(finished[1] / "exporter.db"):
        assert called(capsys, "status", "--data", finished[1])[0] == ExitCode.DONE


def test_status_of_a_live_folder_counts_the_spool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from listener.spool.spool import Spool

    with Spool.open(tmp_path / "spool") as spool:
        for _ in range(3):
            incoming = spool.receive()
            incoming.write([b"x" * 200])
            incoming.commit()
        items = list(spool.pending())
        claimed = spool.claim(items[0])
        assert claimed is not None
        claimed = spool.claim(items[1])
        assert claimed is not None
        spool.quarantine(claimed, "not_dicom", {"reason": "not_dicom", "message": "no prefix"})
        being_received = spool.receive()
        (tmp_path / "spool/listener.json").write_text(json.dumps({"pid": 1, "counts": {"stored": 3}}))
        code, text, _ = called(capsys, "status", "--data", tmp_path, "--json")
        being_received.discard()
    assert code == ExitCode.DONE
    found = json.loads(text)
    assert (found["pending"], found["active"], found["quarantined"], found["receiving"]) == (2, 0, 1, 1)
    assert found["reasons"] == {"quarantined": {"not_dicom": 1}}
    assert found["listener"]["counts"] == {"stored": 3}
    assert not (tmp_path / "exporter.db").exists()
    _, text, _ = called(capsys, "failures", "list", "--data", tmp_path, "--json")
    (failure,) = json.loads(text)
    assert (failure["reason"], failure["message"]) == ("not_dicom", "no prefix")


def test_status_says_why_the_exporter_pauses_while_that_is_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from listener.spool.space import SILENT_S, SPACE_FILE, Free, publish_space

    (tmp_path / "spool").mkdir()
    publish_space(tmp_path / "spool", {"output": Free(1, None)}, "too little room for output")
    assert "pauses: too little room for output" in called(capsys, "status", "--data", tmp_path)[1]
    told = json.loads((tmp_path / "spool" / SPACE_FILE).read_text())
    (tmp_path / "spool" / SPACE_FILE).write_text(json.dumps(told | {"updated": told["updated"] - SILENT_S - 1}))
    assert json.loads(called(capsys, "status", "--data", tmp_path, "--json")[1])["paused"] is None


def test_status_imports_nothing_heavy(finished: tuple[Path, Path]) -> None:
    for command in ("status", "failures"):
        program = (
            "import sys; from exporter.commands.app import main;"
            f"code = main([{command!r}, '--data', {str(finished[1])!r}]);"
            f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[] 0"


def test_status_answers_at_once_since_it_imports_nothing_that_is_slow_to_start(finished: tuple[Path, Path]) -> None:
    program = "import sys; from exporter.commands.app import main; main(sys.argv[1:]); print(*sys.modules)"
    command = [sys.executable, "-c", program, "status", "--json", "--data", str(finished[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    slow = {"av", "imagecodecs", "numpy", "pydantic", "pydicom", "pynetdicom", "rich", "structlog", "yaml"}
    assert "exporter.commands.status" in done.stdout.split()
    assert slow & set(done.stdout.split()) == set()


# -- failures --------------------------------------------------------------------------------------------------------


def test_failures_lists_what_failed_with_reason_id_and_message(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, text, _ = called(capsys, "failures", "--data", finished[1])
    assert code == ExitCode.DONE
    assert re.search(r"^corrupt_pixels +cut\.dcm   \(7FE0,0010\)", text, re.MULTILINE)
    assert re.search(r"^not_dicom +notes\.txt   ", text, re.MULTILINE)
    assert text.endswith("2 failed\n")
    assert "JOHN" not in text
    _, listed, _ = called(capsys, "failures", "list", "--data", finished[1], "--reason", "not_dicom", "--json")
    assert [(row["id"], row["attempts"]) for row in json.loads(listed)] == [("notes.txt", 1)]


def test_failures_show_takes_a_part_of_the_id(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = called(capsys, "failures", "show", "cut", "--data", finished[1])
    assert code == ExitCode.DONE
    assert re.search(r"^reason +corrupt_pixels$", text, re.MULTILINE)
    _, text, _ = called(capsys, "failures", "show", "notes.txt", "--json", "--data", finished[1])
    assert json.loads(text)["reason"] == "not_dicom"


def test_a_retried_failure_is_exported_by_the_next_backfill(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = copied
    about = (folder / "cut.dcm").stat()
    # Mended without a trace in size or time, so that only `retry` makes it be read again.
    content = Path(examples.get_path("mr")).read_bytes()
    (folder / "cut.dcm").write_bytes(content)
    os.utime(folder / "cut.dcm", ns=(about.st_atime_ns, about.st_mtime_ns))
    code, text, _ = called(capsys, "failures", "retry", "cut.dcm", "--data", out)
    assert code == ExitCode.DONE
    assert text.startswith("1 to be tried again: run the same `exporter backfill` once more")
    assert '"pending": 1' in called(capsys, "status", "--data", out, "--json")[1]
    assert "exported 1;" in run("backfill", folder, "--output", out).stdout
    _, text, _ = called(capsys, "failures", "list", "--data", out, "--json")
    assert [row["id"] for row in json.loads(text)] == ["notes.txt"]


def test_retry_by_reason_takes_all_of_that_reason(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = copied
    assert called(capsys, "failures", "retry", "--reason", "not_dicom", "--data", out)[0] == ExitCode.DONE
    assert '"reasons": {"failed": {"corrupt_pixels": 1}' in called(capsys, "status", "--data", out, "--json")[1]
    assert run("backfill", folder, "--output", out).returncode == ExitCode.SOME_FAILED
    assert '"corrupt_pixels": 1, "not_dicom": 1' in called(capsys, "status", "--data", out, "--json")[1]


def test_retry_takes_bytes_out_of_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from listener.spool.spool import Spool

    with Spool.open(tmp_path / "spool") as spool:
        incoming = spool.receive()
        incoming.write([b"x" * 200])
        item = spool.claim(incoming.commit())
        assert item is not None
        spool.quarantine(item, "timeout", {"reason": "timeout", "message": "took too long"})
    code, text, _ = called(capsys, "failures", "retry", "--reason", "timeout", "--data", tmp_path)
    assert (code, text) == (ExitCode.DONE, "1 to be tried again\n")
    found = json.loads(called(capsys, "status", "--data", tmp_path, "--json")[1])
    assert (found["pending"], found["quarantined"]) == (1, 0)


# -- reconcile, explain, config --------------------------------------------------------------------------------------


def test_reconcile_ends_with_0_when_sound_and_with_1_when_something_is_missing(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = copied
    code, text, _ = called(capsys, "reconcile", "--deep", "--data", out)
    assert code == ExitCode.DONE
    assert text.endswith("every instance is accounted for\n")
    (medium,) = (out / "media").rglob("*.png")
    medium.unlink()
    code, text, _ = called(capsys, "reconcile", "--data", out)
    assert code == ExitCode.NOT_RUN
    assert text.startswith("no_medium")
    code, text, _ = called(capsys, "reconcile", "--data", out, "--json")
    assert code == ExitCode.NOT_RUN
    assert json.loads(text)["is_sound"] is False


def test_explain_says_what_would_be_done_and_why(tmp_path: Path) -> None:
    cine = run("explain", examples.get_path("ybr_color"))
    assert cine.returncode == ExitCode.DONE
    facts = {line[:16].strip(): line[16:] for line in cine.stdout.splitlines()}
    assert facts["class"].startswith("Ultrasound Multi-frame Image Storage (1.2.840.10008.5.1.4.1.1.3.1)")
    assert facts["syntax"].startswith("JPEG Baseline")
    assert facts["pixels"].startswith("240 rows x 320 columns, 30 frame(s), 3 sample(s) YBR_FULL_422, 8 of 8 bits")
    assert facts["writer"] == "video"
    assert facts["timing"].startswith("FrameTime: 30")
    assert "YBR_FULL_422->RGB" in facts["rendering"]
    assert facts["verdict"] == "would be exported: video"
    still = run("explain", "--json", examples.get_path("mr"))
    assert still.returncode == ExitCode.DONE
    assert "window centre 600 width 1600" in json.loads(still.stdout)["rendering"]
    (tmp_path / "x").write_text("no DICOM")
    pictures = json.loads(run("explain", "--json", str(get_testdata_file("SC_rgb_rle_2frame.dcm"))).stdout)
    assert (pictures["writer"], pictures["timing"]) == ("frames", "none: a set of pictures, not a cine")

    bad = run("explain", tmp_path / "x")
    assert bad.returncode == ExitCode.SOME_FAILED
    assert bad.stdout.startswith("verdict         would fail: not_dicom: ")


def test_explain_shows_no_patients_values(tmp_path: Path) -> None:
    import pydicom

    planted = "ZZPLANTEDZZ"
    dataset = pydicom.dcmread(examples.get_path("ct"))
    for element in dataset:
        if element.VR in {"PN", "LO", "SH", "LT", "ST", "UT"}:
            element.value = planted
    dataset.save_as(tmp_path / "planted.dcm")
    done = run("explain", tmp_path / "planted.dcm")
    assert planted not in done.stdout + done.stderr


@pytest.mark.slow
def test_explain_foretells_what_backfill_does_with_every_real_file(corpus: Path, tmp_path: Path) -> None:
    from exporter.commands.explain import _explain
    from exporter.results.ledger import Ledger
    from exporter.settings.settings import Settings

    folder = corpus / "pydicom-wheel"
    done = run("backfill", folder, "--output", tmp_path / "out")
    assert done.returncode == ExitCode.SOME_FAILED
    settings, told = Settings(), {}
    words = {"would be exported": "exported", "would be skipped": "skipped", "would fail": "failed"}
    with Ledger.open_read_only(tmp_path / "out/exporter.db") as ledger:
        entries = list(ledger.entries())
    assert len(entries) > 50
    for entry in entries:
        facts: list[dict[str, object]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _explain(folder / entry.name, settings, None, facts.append)
        verdict, _, rest = str(facts[0]["verdict"]).partition(": ")
        told[entry.name] = (words[verdict], rest.partition(":")[0] if words[verdict] != "exported" else None)
    assert told == {entry.name: (str(entry.state), entry.reason) for entry in entries}


def _segfault() -> ExitCode:
    faulthandler.disable()  # pytest's would print a stack into the middle of the report
    os.kill(os.getpid(), signal.SIGSEGV)
    return ExitCode.DONE


def _eat() -> ExitCode:
    return ExitCode.DONE if bytearray(1 << 40) else ExitCode.NOT_RUN


def _loop() -> ExitCode:
    while True:
        pass


@pytest.mark.parametrize(
    ("work", "verdict"),
    [
        (_segfault, "would fail: decoder_crash: the process that read it ended by SIGSEGV"),
        (_eat, "would fail: too_large: it needs more than limits.memory_mb permits (4096 MiB)"),
        (_loop, "would fail: timeout: the process that read it ended by SIGXCPU"),
    ],
)
def test_explain_survives_what_kills_its_reader(work: Callable[[], ExitCode], verdict: str) -> None:
    from exporter.commands.explain import _apart
    from exporter.settings.settings import LimitSettings

    facts: list[dict[str, object]] = []
    code = _apart(work, LimitSettings(memory_mb=4096, cpu_s=1), facts.append)
    assert (code, facts) == (ExitCode.SOME_FAILED, [{"verdict": verdict}])


def test_config_check_tells_every_mistake_at_once_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "exporter.yml"
    config.write_text("vidoe: {}\nnum_workers: x\nlistener: {prot: 3}\n")
    for arguments in (("config", "check", config), ("config", "check", "--config", config)):
        code, out, err = called(capsys, *arguments)
        assert (code, out) == (ExitCode.USAGE, "")
        assert [line.split(":")[:2] for line in err.splitlines()] == [[str(config), line] for line in "123"]
        assert "did you mean video?" in err
        assert "did you mean port?" in err
    assert [path.name for path in tmp_path.iterdir()] == ["exporter.yml"]


def test_config_check_is_content_with_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "config", "check")[0] == ExitCode.DONE
    code, text, _ = called(capsys, "config", "check", REPOSITORY / "config/exporter.yml")
    assert code == ExitCode.DONE
    assert text.endswith("all well\n")


def test_config_show_prints_what_is_in_force_and_can_be_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from exporter.settings.settings import load_settings

    config = tmp_path / "exporter.yml"
    config.write_text("limits: {wall_s: 5}\nlistener: {host: 0.0.0.0, peers: [{networks: [10.0.0.0/8]}]}\n")
    code, text, _ = called(capsys, "config", "show", config)
    assert code == ExitCode.DONE
    shown = tmp_path / "shown.yml"
    shown.write_text(text)
    assert load_settings(shown) == load_settings(config)
    assert yaml.safe_load(text)["limits"]["wall_s"] == 5


def test_config_init_writes_every_key_and_never_replaces_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotated = (REPOSITORY / "config/exporter.yml").read_text()
    assert called(capsys, "config", "init")[1] == annotated
    target = tmp_path / "mine.yml"
    assert called(capsys, "config", "init", target)[0] == ExitCode.DONE
    assert target.read_text() == annotated
    target.write_text("mine")
    code, _, err = called(capsys, "config", "init", target)
    assert code == ExitCode.USAGE
    assert "exists and is not replaced" in err
    assert target.read_text() == "mine"


def test_config_schema_accepts_what_the_program_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "config", "schema")[1] == (REPOSITORY / "config/exporter.schema.json").read_text()


# -- backfill --------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(finished: tuple[Path, Path], tmp_path: Path) -> None:
    done = run("backfill", finished[0], "--output", tmp_path / "out", "--dry-run")
    assert done.returncode == ExitCode.DONE
    assert sorted(line.split()[:2] for line in done.stdout.splitlines()[:-1]) == [
        ["export", "ct"],
        ["export", "cut.dcm"],
        ["fail", "notes.txt"],
        ["skip", "link.dcm"],
    ]
    assert not (tmp_path / "out").exists()
    again = run("backfill", *finished[:1], "--output", finished[1], "--dry-run")
    assert again.stdout.endswith("unchanged 4\n")


def test_without_an_output_folder_it_goes_to_the_default_data_folder(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "exporter"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for arguments, code in ((["backfill", str(finished[0])], 3), (["status"], 0), (["reconcile"], 0)):
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
    assert (tmp_path / "dicom-media/media/ct.png").is_file()


def test_a_backfill_that_is_not_on_a_terminal_logs_json_without_file_names(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    done = run("backfill", finished[0], "--output", tmp_path / "out")
    for line in done.stderr.splitlines():
        assert set(json.loads(line)) >= {"event", "level", "timestamp"}
    assert "notes.txt" not in done.stderr
    assert "exported 1; skipped 1 (not_regular 1); failed 2 (corrupt_pixels 1, not_dicom 1)" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_cleanly_and_a_rerun_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    total = 40
    for index in range(total):
        shutil.copy(examples.get_path("ybr_color"), folder / f"{index:03}.dcm")
    command = [sys.executable, "-m", "exporter", "backfill", str(folder), "--output", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: len(list(out.glob("media/*.mp4"))) >= 2, seconds=60, describe="two videos")
        process.send_signal(number)
        text, errors = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert "Traceback" not in errors
    assert "the same command goes on where it stopped" in errors
    first = int(re.findall(r"exported (\d+)", text)[0])
    assert 2 <= first < total
    assert run("reconcile", "--data", out).returncode == ExitCode.DONE
    again = run("backfill", folder, "--output", out)
    assert f"exported {total - first}; unchanged {first}" in again.stdout
    assert len((out / "metadata.jsonl").read_text().splitlines()) == total


@pytest.fixture
def folder_to_be_wrong_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: files, folders and a ledger that are not what a command needs."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "wrong.yml").write_text("lisener: {}\n")
    (tmp_path / "data/spool").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "broken/media").mkdir(parents=True)
    (tmp_path / "broken/exporter.db").write_text("this is no database, but long enough to be taken for one" * 9)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- what can be wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("stats",), 2, 'Unknown command "stats". Did you mean "status"?'),
        (("status", "--jsn"), 2, "Unknown option: --jsn. Did you mean --json?"),
        (("status", "x"), 2, "Too many arguments: x."),
        (("explain",), 2, "FILE requires an argument"),
        (("explain", "/nowhere/x"), 2, "there is no file /nowhere/x; name a DICOM file"),
        (("explain", "."), 2, ". is a folder; name one file, or use `exporter backfill . --dry-run`"),
        (("backfill",), 2, "no folder to export: name it (`exporter backfill DIR`), or set `dicom.dir`"),
        (("backfill", "nowhere", "--output", "o"), 2, "the folder nowhere does not exist"),
        (("backfill", "file", "--output", "o"), 2, "file is no folder: give the folder that holds the DICOM files"),
        (("backfill", ".", "--workers", "-1"), 2, 'Invalid value "-1" for --workers. Must be >= 0.'),
        (("backfill", ".", "--workers", "x"), 2, 'unable to convert "x" into int'),
        (("backfill", ".", "--engine", "dask"), 2, "--engine dask needs --scheduler tcp://HOST:PORT"),
        (("backfill", ".", "--partition", "gpu"), 2, "the options of Slurm belong to --engine slurm"),
        (("backfill", ".", "--scheduler", "tcp://x"), 2, "--scheduler belongs to --engine dask"),
        (("backfill", ".", "--engine", "x"), 2, 'Choose from: "local", "processes", "slurm", "dask"'),
        (("backfill", "status", "nowhere"), 1, "there is no plan in nowhere; make one with `exporter batch plan"),
        (("backfill", "resume", "in"), 1, "there is no plan in in"),
        (("batch", "run", "in", "3"), 1, "there is no plan in in"),
        (("batch", "merge", "in"), 1, "there is no plan in in"),
        (("batch", "plan", "nowhere", "--output", "o"), 2, "the folder nowhere does not exist"),
        (("backfill", ".", "--config", "nowhere.yml"), 2, "nowhere.yml: there is no such file"),
        (("run", "--config", "nowhere.yml"), 2, "nowhere.yml: there is no such file"),
        (("serve", "--config", "wrong.yml"), 2, "wrong.yml:1: lisener: unknown key"),
        (("run", "--config", "wrong.yml"), 2, "wrong.yml:1: lisener: unknown key"),
        (("status", "--config", "wrong.yml"), 2, "wrong.yml:1: lisener: unknown key"),
        (("run", "--log-level", "loud"), 2, 'Invalid value "loud" for --log-level'),
        (("status",), 1, "there is no data folder dicom-media; name the folder of a running exporter"),
        (("status", "--data", "."), 1, ". is no data folder: it has neither spool/ nor exporter.db"),
        (("failures", "--data", "nowhere"), 1, "there is no data folder nowhere"),
        (("reconcile", "--data", "nowhere"), 1, "there is no data folder nowhere"),
        (("failures", "retry", "--data", "data"), 2, "name what to try again: an ID, or --reason and a reason"),
        (("failures", "retry", "x", "--data", "data"), 2, "there is no failure x; `exporter failures list` shows all"),
        (("failures", "list", "--reason", "timeot", "--data", "data"), 2, "did you mean timeout?"),
        (("status", "--data", "broken"), 1, "ledger broken/exporter.db:"),
        (("backfill", "in", "--output", "file"), 1, "the media folder file cannot be written"),
        (("backfill", "in", "--output", "broken"), 1, "ledger broken/exporter.db:"),
        (("config", "chek"), 2, 'Unknown command "chek". Did you mean "check"?'),
        (("config", "check", "nowhere.yml"), 2, "nowhere.yml: there is no such file"),
        (("config", "check", "."), 2, ".: is not a regular file (permitted: a YAML file)"),
        (("config", "init", "nowhere/a.yml"), 1, "nowhere/a.yml cannot be written: No such file or directory"),
        (("config", "check", "a", "--config", "b"), 2, "two configuration files are named; name one"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_changes_nothing(
    folder_to_be_wrong_in: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    before = tree(folder_to_be_wrong_in)
    found, out, err = called(capsys, *arguments)
    assert found == code
    assert sentence in err
    assert out == ""
    assert len(err.splitlines()) == 1
    assert tree(folder_to_be_wrong_in) == before


def test_no_command_at_all_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys)
    assert code == ExitCode.USAGE
    assert "Usage: exporter COMMAND" in out


def test_an_unwritable_output_folder_is_told(finished: tuple[Path, Path]) -> None:
    done = run("backfill", finished[0], "--output", "/proc/nowhere")
    assert done.returncode == ExitCode.NOT_RUN
    assert re.fullmatch(r"exporter: the media folder /proc/nowhere cannot be written: .*\n", done.stderr)


def test_two_backfills_into_one_folder_are_refused(copied: tuple[Path, Path]) -> None:
    from exporter.results.ledger import Ledger

    with Ledger.open(copied[1] / "exporter.db"):
        done = run("backfill", copied[0], "--output", copied[1])
    assert done.returncode == ExitCode.NOT_RUN
    assert len(done.stderr.splitlines()) == 1


def test_an_output_that_holds_the_input_is_refused(finished: tuple[Path, Path]) -> None:
    done = run("backfill", finished[1] / "media", "--output", finished[1])
    assert done.returncode == ExitCode.USAGE
    assert "choose another output folder" in done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        yield int(somebody.getsockname()[1])


def _sentences(text: str) -> list[str]:
    """Lines of standard error that are no log lines."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            json.loads(line)
            continue
        found.append(line)
    return found


def test_a_port_in_use_is_told_by_serve_and_by_the_listener(tmp_path: Path, taken_port: int) -> None:
    config = tmp_path / "exporter.yml"
    config.write_text(f"listener: {{port: {taken_port}}}\n")
    for command in (["exporter", "serve"], ["listener"]):
        done = subprocess.run(
            [sys.executable, "-m", *command, "--config", str(config), "--data", str(tmp_path / "data")],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == ExitCode.NOT_RUN
        (sentence,) = _sentences(done.stderr)
        assert str(taken_port) in sentence
        assert "in use" in sentence


def test_a_second_exporter_on_one_spool_is_refused(tmp_path: Path) -> None:
    from listener.spool.spool import Spool

    with Spool.open(tmp_path / "spool") as spool, spool.lock("exporter"):
        done = run("run", "--data", tmp_path)
    assert done.returncode == ExitCode.NOT_RUN
    (sentence,) = _sentences(done.stderr)
    assert sentence.startswith("exporter: another exporter already works on the spool")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "exporter", "config", "init"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    fcntl.fcntl(process.stdout, 1031, 4096)  # F_SETPIPE_SZ: smaller than the text
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=100) == ExitCode.PIPE_CLOSED
    assert errors == b""


# -- documentation ---------------------------------------------------------------------------------------------------


def _applications() -> Iterator[tuple[str, Any]]:
    """Every command with its application, the nested ones included."""
    top = application()
    for name in COMMANDS:
        app = top[name]
        yield name, app
        for nested in app:
            if not nested.startswith("-"):
                yield f"{name} {nested}", app[nested]


def test_every_command_and_option_is_documented() -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    for name, app in _applications():
        command, _, nested = name.partition(" ")
        assert f"`exporter {command}" in text
        assert not nested or re.search(rf"^## `exporter {command} .*\b{nested}\b", text, re.MULTILINE), name
        if app.default_command is None:
            continue
        for argument in app.assemble_argument_collection():
            for spelled in set(argument.names) - {"*"}:
                assert spelled in text, (name, spelled)


def test_every_exit_code_and_reason_is_documented() -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    for code in ExitCode:
        assert f"| {code.value} | {code.meaning} |" in text
    for reason in (*Reason, *SkipReason):
        assert f"| `{reason}` |" in text


def test_every_key_of_status_is_documented(finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs/commands.md").read_text()
    for key in json.loads(called(capsys, "status", "--data", finished[1], "--json")[1]):
        assert f"| `{key}` |" in text


def test_help_names_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = called(capsys, "--help")
    assert code == ExitCode.DONE
    for name, (_, purpose) in COMMANDS.items():
        assert name in text
        assert " ".join(purpose.split()[:3]).strip(",.") in text
    for exit_code in ExitCode:
        assert f"{exit_code.value}: " in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = called(capsys, "--version")
    assert code == ExitCode.DONE
    assert re.fullmatch(r"\d+\.\d+\.\d+.*\n", text)


def test_time_is_not_wasted_on_waiting() -> None:
    """A wrong configuration is told within the time it takes to start, however much there is to export."""
    started = time.monotonic()
    assert run("backfill", "/", "--config", "/nowhere.yml").returncode == ExitCode.USAGE
    assert time.monotonic() - started < 20
