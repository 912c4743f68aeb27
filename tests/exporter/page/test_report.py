"""The report of a folder: whole, inert, of bounded size, and without anything that names a patient."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from exporter.commands.app import main
from exporter.outcome import InstanceIdentity, MediaFile, MediaType
from exporter.page.report.facts import ReportRequest, facts_of, shown_settings
from exporter.page.report.markup import Html, element
from exporter.page.report.previews import PreviewJob, make_previews
from exporter.page.report.writing import ReportUnwritable, write_report
from exporter.results.ledger import InstanceStatus, Ledger, LedgerUnusable
from exporter.results.run_report import is_run_report
from exporter.settings.settings import Settings
from tests.exporter.ledger_rows import begin, finish
from tests.exporter.page.test_page import HOSTILE, PNG

if TYPE_CHECKING:
    from exporter.page.report.facts import ReportFacts

REPOSITORY = Path(__file__).parents[3]
PATIENT = "Mueller^Hans"
MP4 = "cine.mp4"


def line_of(**export: Any) -> bytes:
    said = {"dicom_file": PATIENT, "Patient's Name": PATIENT, "export": {"warnings": [], "privacy": None} | export}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def add(ledger: Ledger, name: str, study: str, content: bytes | None, out: Path, **more: Any) -> None:
    """An exported instance, and the file of its medium unless that is missing."""
    suffix, kind = (".mp4", MediaType.VIDEO) if name.endswith("mp4") else (".png", MediaType.IMAGE)
    file = f"{name.rpartition('.')[0] or name}{suffix}"
    if content is not None:
        (out / "media" / file).parent.mkdir(parents=True, exist_ok=True)
        (out / "media" / file).write_bytes(content)
    begin(ledger, name)
    uids = InstanceIdentity("1.2.840.10008.5.1.4.1.1.7", f"1.2.{ledger_size(ledger)}", study, f"{study}.1", name)
    medium = MediaFile(file, suffix, kind, len(content or b""), "f" * 64, "png", width=300, height=200, frames=2)
    finish(ledger, name, identity=uids, media=(medium,), line=more.pop("line", line_of()), **more)


def ledger_size(ledger: Ledger) -> int:
    return sum(1 for _ in ledger.entries())


def video() -> bytes:
    """A cine of 30 frames."""
    import io

    import av
    import numpy as np

    into = io.BytesIO()
    with av.open(into, "w", format="mp4") as container:
        stream = cast("av.VideoStream", container.add_stream("libx264", rate=10))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            picture = np.full((48, 64, 3), number * 8, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode(None))
    return into.getvalue()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output with sound, missing, damaged and foreign media, failures, warnings and unfinished instances."""
    folder = tmp_path_factory.mktemp("out")
    (folder / "media").mkdir()
    with Ledger.open(folder / "exporter.db") as ledger:
        add(ledger, f"{PATIENT}/a.png", "1.9", PNG, folder)
        add(ledger, f"{PATIENT}/{MP4}", "1.8", video(), folder)
        add(ledger, "warned", "1.7", PNG, folder, line=line_of(warnings=[HOSTILE, "frame 3 of 7 is short"]))
        add(ledger, "again", "1.7", PNG, folder, line=line_of(warnings=["frame 4 of 9 is short"]))
        add(ledger, "missing", "1.6", None, folder)
        add(ledger, "damaged", "1.6", PNG[:50], folder)
        add(ledger, "text.mp4", "1.6", b"ffconcat version 1.0\nfile /etc/passwd\n", folder)
        add(ledger, "linked", "1.6", None, folder)
        (folder / "media/linked.png").symlink_to(folder / f"media/{PATIENT}/a.png")
        begin(ledger, "skipped")
        finish(ledger, "skipped", state=InstanceStatus.SKIPPED, reason="no_media")
        for number in range(3):
            name = f"{PATIENT}/{number}/{HOSTILE[:200]}"
            begin(ledger, name)
            uids = InstanceIdentity("1.2", f"1.2.9{number}", "1.5", "1.5.1", name)
            message = f"{name}: {HOSTILE}"
            finish(ledger, name, state=InstanceStatus.FAILED, reason="timeout", message=message, identity=uids)
        begin(ledger, "unfinished")
    return folder


@pytest.fixture(scope="module")
def settings(out: Path) -> Settings:
    said = {
        "dicom": {"dir": f"incoming/{PATIENT}"},
        "metadata": {"file": str(out / "metadata.jsonl")},
        "page": {"token_file": f"/run/{PATIENT}/token"},
        "expect": {f"/srv/{PATIENT}": {"every": "24h"}},
        "listener": {
            "tls": {"certificate": f"/tls/{PATIENT}"},
            "users": [{"name": "admin", "passcode_file": f"/passcodes/{PATIENT}"}],
        },
    }
    return Settings.model_validate_json(json.dumps(said))


@pytest.fixture(scope="module")
def facts(out: Path, settings: Settings) -> ReportFacts:
    return facts_of(ReportRequest(out, out / "media", settings))


@pytest.fixture(scope="module")
def text(out: Path, settings: Settings) -> str:
    path = out / "report.html"
    write_report(ReportRequest(out, out / "media", settings), path)
    assert path.stat().st_mode & 0o777 == 0o600
    return path.read_text(encoding="utf-8")


# -- what it says ----------------------------------------------------------------------------------------------------


def test_numbers_failures_with_what_to_do_warnings_and_media_are_said(text: str) -> None:
    for sentence in (
        "3 instances failed and need a look.",
        "1 instance of this folder is not exported yet",
        "It took longer than <code>limits</code> permit",
        'frame 4 of 9 is short</td><td class="num">2</td>',
        "Skipped, which is no failure: no_media 1.",
    ):
        assert sentence in text


def test_outcomes_over_time_are_a_plot_with_the_same_numbers_as_a_table(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "exporter.db").close()
    with closing(sqlite3.connect(tmp_path / "exporter.db")) as connection:
        rows = [(29_000_000 + 10 * slot, state, 0, 7, 0.0, 1) for slot in range(30) for state in ("exported", "failed")]
        connection.executemany("INSERT INTO minute VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    facts = facts_of(ReportRequest(tmp_path, tmp_path / "media"))
    assert facts.slot_minutes == 7  # 291 minutes as 48 bars at most
    assert [sum(slot[place] for slot in facts.slots) for place in (1, 2, 3)] == [210, 0, 210]
    write_report(ReportRequest(tmp_path, tmp_path / "media"), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count('<rect class="failed"') == sum(1 for slot in facts.slots if slot[3])
    assert text.count('<td class="num">7</td>') >= 40
    assert "0.02 instances per second" in text


def test_the_worst_comes_first_and_every_study_has_its_sheet(facts: ReportFacts) -> None:
    assert [sheet.study_uid for sheet in facts.sheets] == ["1.5", "1.7", "1.6", "1.8", "1.9"]
    marks = [[tile.mark for tile in sheet.tiles] for sheet in facts.sheets[:2]]
    assert marks == [["failed"] * 3, ["warning"] * 2]


def test_pictures_and_videos_that_can_be_shown_are_and_others_are_counted(facts: ReportFacts) -> None:
    shown = {sheet.study_uid: [tile.preview for tile in sheet.tiles] for sheet in facts.sheets}
    (cine,) = shown["1.8"]
    assert cine is not None
    assert (cine.width, cine.height, bool(cine.video)) == (64, 48, True)
    assert shown["1.9"][0] is not None
    assert shown["1.9"][0].video == ""
    assert shown["1.6"] == [None] * 4  # missing, damaged, a playlist, and a link
    assert facts.without_preview == 4


def test_a_report_without_pictures_has_none(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.html"
    assert main(["report", str(out), "--no-pictures", "--to", str(path)]) == 0
    assert "data:image" not in path.read_text()
    assert "Without pictures, as was asked for." in path.read_text()


# -- what it must not say --------------------------------------------------------------------------------------------


def test_what_others_wrote_is_inert_in_a_report(text: str) -> None:
    for evil in ("<script", "<img src=x", "\u202e", "\x1b", "\x00", "javascript:", "http:", "https:"):
        assert evil not in text
    assert set(re.findall(r'(?:src|poster|href|action)="([a-z]*:|#)', text)) == {"data:", "#"}
    assert re.search(r"<[^>]*\son[a-z]+=", text) is None
    assert len(text) < 400_000  # 64 kB in a message do not make a report of megabytes


def test_attributes_and_contents_are_escaped_unless_they_are_html() -> None:
    assert element("a", "<b>", title='"><i>') == '<a title="&quot;&gt;&lt;i&gt;">&lt;b&gt;</a>'
    assert element("p", Html("<b>"), hidden=True, class_=None) == "<p hidden><b></p>"


def test_no_patient_and_no_path_is_in_a_report(text: str, out: Path) -> None:
    for hidden in (PATIENT, "Mueller", str(out), "/srv", "/run", "incoming", "/passcodes", "/tls"):
        assert hidden not in text
    assert "(a path, not shown)" in text


def test_settings_of_a_de_identifying_exporter_say_what_media_are_like_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0" * 64)
    said = {"privacy": {"profile": "basic", "key_file": str(tmp_path / "key")}, "listener": {"ae_title": "MUELLER"}}
    shown = json.dumps(shown_settings(Settings.model_validate_json(json.dumps(said))))
    assert '"profile": "basic"' in shown
    assert "MUELLER" not in shown
    assert str(tmp_path) not in shown


def test_where_an_output_is_de_identified_only_media_that_were_cleared_are_shown(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "key").write_text("0" * 64)
    cleared = {"privacy": {"profile": "basic", "pixels": {"kept_share": 0.8}}}
    with Ledger.open(tmp_path / "exporter.db") as ledger:
        add(ledger, "cleared", "1.1", PNG, tmp_path, line=line_of(**cleared))
        add(ledger, "before", "1.2", PNG, tmp_path)
    said = {"privacy": {"profile": "basic", "key_file": str(tmp_path / "key")}}
    found = Settings.model_validate_json(json.dumps(said))
    facts = facts_of(ReportRequest(tmp_path, tmp_path / "media", found))
    tiles = {tile.label: tile for sheet in facts.sheets for tile in sheet.tiles}
    assert {label: tile.preview is not None for label, tile in tiles.items()} == {"1.2.1": True, "1.2.2": False}
    assert (tiles["1.2.1"].mark, tiles["1.2.1"].words, facts.masked) == ("masked", "80% of the picture kept", 1)


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_one_medium_that_ends_the_child_costs_its_own_preview_alone(out: Path) -> None:
    picture = str(out / f"media/{PATIENT}/a.png")
    jobs = [
        PreviewJob(picture),
        PreviewJob(str(out / "media" / PATIENT / MP4), True, cast("Any", None)),
        PreviewJob(picture),
    ]
    assert sorted(make_previews(jobs, 100, 1_000_000)) == [0, 2]


def test_a_medium_that_never_answers_costs_no_more_than_the_time_there_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert make_previews([PreviewJob(str(tmp_path / "a.png"))], 1.0, 1_000_000) == {}


def test_previews_end_where_their_room_ends(out: Path) -> None:
    job = PreviewJob(str(out / f"media/{PATIENT}/a.png"))
    one = make_previews([job], 100, 1_000_000)[0].characters
    assert sorted(make_previews([job] * 5, 100, 2 * one + 1)) == [0, 1]


@pytest.mark.slow
def test_a_million_instances_make_a_report_of_bounded_size_time_and_memory(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "exporter.db").close()
    (tmp_path / "media").mkdir()
    with closing(sqlite3.connect(tmp_path / "exporter.db")) as connection:
        connection.execute(
            """INSERT INTO instance (id, name, source, size_bytes, mtime_ns, state, reason, message, attempts,
            updated_ns, sop_instance_uid, study_instance_uid, series_instance_uid, line_seq, content_sha256)
            WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 1000000)
            SELECT n, printf('%07d.dcm', n), 'folder', 1, 1, iif(n % 33, 'exported', 'failed'),
            iif(n % 33, NULL, iif(n % 2, 'timeout', 'corrupt_pixels')), hex(zeroblob(500)), 1, n, '1.2.' || n,
            '1.3.' || (n / 100), '1.4.' || (n / 30), n, 'c' FROM number"""
        )
        connection.execute(
            """INSERT INTO medium SELECT id, 0, name || '.png', name || '.png', '.png', 'image', 300000, 'x', 'png', 1,
            300, 200, 1, NULL FROM instance WHERE state = 'exported'"""
        )
        connection.commit()
    for number in range(0, 1_000_000, 50):
        if number % 33 == 0:
            (tmp_path / f"media/{number + 1:07d}.dcm.png").write_bytes(PNG)
    program = (
        "import re, resource, sys; from exporter.commands.app import main; code = main(sys.argv[1:]); "
        # Of this program alone: `ru_maxrss` begins with that of the process which started it.
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1],"
        "resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    command = [sys.executable, "-c", program, "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    kilobytes, seconds = map(float, done.stdout.split()[-2:])
    assert (tmp_path / "report.html").stat().st_size < 20_000_000
    assert kilobytes < 250_000
    assert seconds < 20
    text = (tmp_path / "report.html").read_text()
    assert "30,303 instances failed" in text
    assert "of 1,000,000 instances in 40 of 10,001 studies" in text


# -- folders of every kind -------------------------------------------------------------------------------------------


def test_a_folder_that_is_none_of_ours_is_refused_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, foreign, damaged = tmp_path / "empty", tmp_path / "foreign", tmp_path / "damaged"
    for folder in (empty, foreign, damaged):
        folder.mkdir()
    with closing(sqlite3.connect(foreign / "exporter.db")) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    (damaged / "exporter.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    for folder, sentence in (
        (tmp_path / "nothing", "there is no data folder"),
        (empty, "is no data folder"),
        (foreign, "ledger"),
        (damaged, "ledger"),
    ):
        assert main(["report", str(folder)]) == 1
        said = capsys.readouterr().err
        assert sentence in said
        assert "Traceback" not in said
        assert not (folder / "report.html").exists()


def test_an_output_in_which_nothing_was_done_has_a_report_that_says_so(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "exporter.db").close()
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    for sentence in ("All is well: nothing is left to do.", "Nothing was done yet.", "There are no media yet."):
        assert sentence in text


def test_a_file_of_somebody_else_is_never_replaced(out: Path, tmp_path: Path) -> None:
    theirs, link, folder = tmp_path / "theirs.html", tmp_path / "link.html", tmp_path / "folder.html"
    theirs.write_text("<html>mine</html>")
    link.symlink_to(theirs)
    folder.mkdir()
    for path in (theirs, link, folder):
        with pytest.raises(ReportUnwritable, match="no report of ours"):
            write_report(ReportRequest(out, out / "media", pictures=False), path)
    with pytest.raises(ReportUnwritable, match="cannot be written"):
        write_report(ReportRequest(out, out / "media", pictures=False), tmp_path / "nowhere/report.html")
    assert theirs.read_text() == "<html>mine</html>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.html", "link.html", "theirs.html"]


def test_an_output_that_is_being_written_has_whole_reports(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    done = threading.Event()

    def export() -> None:
        with Ledger.open(tmp_path / "exporter.db") as ledger:
            for number in range(10_000):
                begin(ledger, str(number))
                uids = InstanceIdentity("1.2", f"1.2.{number}", f"1.{number % 5}", "1.9", str(number))
                finish(ledger, str(number), identity=uids, line=line_of())
                if done.is_set():
                    return

    exporting = threading.Thread(target=export)
    exporting.start()
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "exporter.db").is_file():
            assert time.monotonic() < until
            time.sleep(0.01)
        for _ in range(5):
            write_report(ReportRequest(tmp_path, tmp_path / "media", pictures=False), tmp_path / "report.html")
            assert (tmp_path / "report.html").read_text().endswith("</body>\n</html>\n")
    finally:
        done.set()
        exporting.join()


def test_a_damaged_line_is_a_damaged_ledger_in_words(out: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copy(out / "exporter.db", tmp_path / "exporter.db")
    with closing(sqlite3.connect(tmp_path / "exporter.db")) as connection:
        connection.execute("UPDATE line SET text = x'00'")
        connection.commit()
    with pytest.raises(LedgerUnusable, match="a metadata line in it is damaged"):
        facts_of(ReportRequest(tmp_path, tmp_path / "media"))


def test_a_ledger_that_cannot_be_read_leaves_the_report_that_was_there(tmp_path: Path) -> None:
    Ledger.open(tmp_path / "exporter.db").close()
    path = tmp_path / "report.html"
    write_report(ReportRequest(tmp_path, tmp_path / "media"), path)
    before = path.read_bytes()
    (tmp_path / "exporter.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(LedgerUnusable):
        write_report(ReportRequest(tmp_path, tmp_path / "media"), path)
    assert path.read_bytes() == before
    assert is_run_report(path)


# -- after a run -----------------------------------------------------------------------------------------------------


def backfill(folder: Path, *more: str) -> int:
    return main(["backfill", str(folder / "in"), "--output", str(folder / "out"), "--workers", "0", *more])


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    import pydicom

    source = Path(pydicom.__file__).parent / "data/test_files/MR_small_RLE.dcm"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{PATIENT}.dcm").write_bytes(source.read_bytes())
    return tmp_path


def test_a_run_leaves_its_report_and_an_idle_run_leaves_it_as_it_is(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backfill(run_folder) == 0
    path = run_folder / "out/report.html"
    assert f"report in {path}" in capsys.readouterr().out
    text = path.read_text()
    assert "This run: 1 exported, 0 skipped, 0 failed;" in text
    assert PATIENT not in text
    before = path.stat()
    assert backfill(run_folder) == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    (run_folder / "in/two.dcm").write_bytes((run_folder / "in" / f"{PATIENT}.dcm").read_bytes())
    assert backfill(run_folder) == 0
    assert "This run: 1 exported, 0 skipped, 0 failed, 1 unchanged" in path.read_text()


def test_a_report_that_cannot_be_written_changes_nothing_about_the_run(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "out").mkdir()
    (run_folder / "out/report.html").write_text("mine")
    assert backfill(run_folder) == 0
    assert "no report of this run" in capsys.readouterr().err
    assert (run_folder / "out/report.html").read_text() == "mine"


def test_a_report_that_is_switched_off_or_would_lie_among_media_is_not_written(run_folder: Path) -> None:
    config = run_folder / "exporter.yml"
    config.write_text("run_report: {enabled: false}\n")
    assert backfill(run_folder, "--config", str(config)) == 0
    config.write_text(f"media: {{dir: {run_folder / 'media'}}}\n")
    assert main(["backfill", str(run_folder / "in"), "--workers", "0", "--config", str(config)]) == 0
    assert not list(run_folder.rglob("report.html"))


def test_a_report_of_ours_is_no_input_and_a_file_of_that_name_is(run_folder: Path) -> None:
    (run_folder / "out").symlink_to(run_folder / "in")
    assert backfill(run_folder) == 0  # output and input are one folder
    (run_folder / "in/two.dcm").write_bytes((run_folder / "in" / f"{PATIENT}.dcm").read_bytes())
    assert backfill(run_folder) == 0
    assert is_run_report(run_folder / "in/report.html")
    (run_folder / "in/report.html").write_text("mine")
    assert backfill(run_folder) == 3


def test_the_search_for_identifiers_takes_no_picture_for_text(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "key").write_text("0" * 64)
    (run_folder / "key").chmod(0o600)
    config = run_folder / "exporter.yml"
    config.write_text(f"privacy: {{profile: basic, key_file: {run_folder / 'key'}}}\n")
    assert backfill(run_folder, "--config", str(config)) == 0
    check = ["privacy", "check", str(run_folder / "out"), "--source", str(run_folder / "in"), "--config", str(config)]
    (run_folder / "out/picture.html").write_text('<img src="data:image/jpeg;base64,AAAA/4MR1+AAAA">')
    assert main(check) == 0, capsys.readouterr().out
    (run_folder / "out/text.html").write_text("<p>AAAA/4MR1+AAAA</p>")
    assert main(check) == 3
    assert "text.html: holds an identifier or name" in capsys.readouterr().out


def test_a_report_needs_nothing_that_only_the_page_has(out: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('jinja2', 'starlette', 'markupsafe'))); "
        "from exporter.commands.app import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "report", str(out), "--no-pictures", "--to", str(tmp_path / "a.html")]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    assert is_run_report(tmp_path / "a.html")
