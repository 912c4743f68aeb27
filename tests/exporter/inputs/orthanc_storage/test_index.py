"""Indexes and attachments of every shape, made by hand: what cannot be right is named, nothing is believed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from exporter.errors import OutOfSpace, Reason, Unreadable
from exporter.inputs.contract import InputEntry, InputUnusable
from exporter.inputs.orthanc_storage.ahead import ahead
from exporter.inputs.orthanc_storage.index import open_index
from exporter.inputs.orthanc_storage.orphans import orphans
from exporter.inputs.scratch import Scratch, ScratchCopy
from tests.exporter.orthanc_folders import COLUMNS, LATER_COLUMNS, MD5_COLUMNS, Handmade, header_of, lines, run, state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[4]


def instance(number: int = 1, name: str = "CT_small.dcm", **elements: Any) -> bytes:
    """A DICOM file with a SOP Instance UID of its own."""
    read = pydicom.dcmread(str(get_testdata_file(name)))
    read.SOPInstanceUID = read.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.826.0.1.3680043.8.498.{number}")
    for keyword, value in elements.items():
        setattr(read, keyword, value)
    written = io.BytesIO()
    read.save_as(written)
    return written.getvalue()


@pytest.fixture
def made(tmp_path: Path) -> Handmade:
    folder = tmp_path / "storage"
    folder.mkdir()
    return Handmade(folder)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# -- the index -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", ["6", "7", "12"])
@pytest.mark.parametrize("more", ["", LATER_COLUMNS])
def test_schema_6_and_newer_are_read_where_the_columns_are_there(
    made: Handmade, out: Path, schema: str, more: str
) -> None:
    made.schema, made.columns = schema, COLUMNS + MD5_COLUMNS + more
    name = made.add(instance())
    made.write_index()
    done = run(made.folder, out)
    assert done.tally.exported == 1
    assert name in done.results
    assert ("schema 12, known are 6 and 7" in done.warnings) is (schema == "12")


@pytest.mark.parametrize(
    ("schema", "columns", "told"),
    [
        ("5", COLUMNS + MD5_COLUMNS, "has schema 5"),
        ("", COLUMNS + MD5_COLUMNS, "does not tell the number"),
        ("six", COLUMNS + MD5_COLUMNS, "does not tell the number"),
        ("6", COLUMNS, "lacks compressedMD5, uncompressedMD5"),
        ("9", (COLUMNS + MD5_COLUMNS).replace("compressionType", "codec"), "lacks compressionType"),
    ],
)
def test_an_index_of_another_shape_is_refused_with_a_way_out(
    made: Handmade, out: Path, schema: str, columns: str, told: str
) -> None:
    made.schema, made.columns = schema, columns
    made.add(instance())
    made.write_index()
    with pytest.raises(InputUnusable, match=told) as refused:
        run(made.folder, out)
    assert "--without-index" in str(refused.value)
    assert not out.exists()
    done = run(made.folder, out, without_index=True)
    assert done.tally.exported == 1
    assert "the index is not used" in done.warnings


def test_a_file_that_is_no_index_counts_as_a_lost_one(made: Handmade, out: Path) -> None:
    made.add(instance())
    (made.folder / "index").write_bytes(b"")
    assert "is no SQLite database" in run(made.folder, out).warnings
    (made.folder / "index").unlink()
    connection = sqlite3.connect(made.folder / "index")
    connection.execute("CREATE TABLE something (else_ TEXT)")
    connection.close()
    assert "not the index of an Orthanc" in run(made.folder, out).warnings


def test_a_view_in_the_place_of_the_table_is_not_asked(made: Handmade, out: Path) -> None:
    made.add(instance())
    made.write_index()
    connection = sqlite3.connect(made.folder / "index")
    connection.execute("ALTER TABLE AttachedFiles RENAME TO other")
    connection.execute("CREATE VIEW AttachedFiles AS SELECT * FROM other")
    connection.close()
    assert "not the index of an Orthanc" in run(made.folder, out).warnings


def test_a_damaged_index_is_refused_before_anything_is_read(made: Handmade, out: Path) -> None:
    made.add(instance())
    made.rows += [made.rows[0] | {"uuid": str(uuid.uuid4()), "id": number} for number in range(2, 200)]
    made.write_index()
    with (made.folder / "index").open("r+b") as file:
        file.seek(3 * 4096 + 100)
        file.write(os.urandom(6000))
    with pytest.raises(InputUnusable, match="is damaged") as refused:
        run(made.folder, out)
    assert "--without-index" in str(refused.value)


def test_what_is_no_storage_folder_is_refused(tmp_path: Path, out: Path, made: Handmade) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(InputUnusable, match="no storage folder of an Orthanc"):
        run(tmp_path / "other", out)
    with pytest.raises(InputUnusable, match="no storage folder of an Orthanc"):
        run(tmp_path / "other", out, without_index=True)
    os.mkfifo(tmp_path / "other" / "index")
    with pytest.raises(InputUnusable, match="no storage folder of an Orthanc"):
        run(tmp_path / "other", out)
    with pytest.raises(InputUnusable, match="does not exist"):
        run(tmp_path / "nowhere", out)
    name = made.add(instance())
    made.write_index()
    shutil.rmtree(made.folder / name[:2])
    with pytest.raises(InputUnusable, match=r"lists 1 instances, and .* holds no attachment: a plugin keeps them"):
        run(made.folder, out)
    assert not out.exists()


def test_a_transaction_that_a_crash_cut_short_is_rolled_back_in_a_copy(made: Handmade, out: Path) -> None:
    kept = made.add(instance())
    made.write_index()
    connection = sqlite3.connect(made.folder / "index", isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("DELETE FROM AttachedFiles")
    connection.executemany("INSERT INTO AttachedFiles(id, uuid) VALUES (?, ?)", ((n, "x" * 90) for n in range(2000)))
    dead = made.folder.with_name("dead")
    shutil.copytree(made.folder, dead)
    connection.close()
    assert (dead / "index-journal").stat().st_size > 0
    before = state(dead)
    done = run(dead, out)
    assert state(dead) == before
    assert set(done.results) == {kept}
    assert done.tally.exported == 1


def test_an_index_that_changes_while_it_is_read_is_told(made: Handmade) -> None:
    made.add(instance())
    made.write_index()
    with open_index(made.folder / "index") as index:
        assert not index.has_changed
        (made.folder / "index-wal").write_bytes(b"something new")
        assert index.has_changed


def test_nothing_of_a_private_copy_is_left(made: Handmade, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = made.folder.with_name("temporary")
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    made.add(instance())
    made.write_index()
    connection = sqlite3.connect(made.folder / "index")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("UPDATE AttachedFiles SET id = 7")
    connection.commit()
    alive = made.folder.with_name("alive")
    shutil.copytree(made.folder, alive)
    connection.close()
    with open_index(alive / "index") as index:
        assert list(temporary.iterdir()) == []
        assert len(list(index.instances())) == 1
    assert run(alive, out).tally.exported == 1


def test_a_large_index_is_read_and_compared_in_little_memory(made: Handmade) -> None:
    made.write_index()
    connection = sqlite3.connect(made.folder / "index")
    connection.executemany(
        "INSERT INTO AttachedFiles VALUES (?, ?, ?, 10, 10, 1, '', '')",
        ((number, 1 + 2 * (number % 2), str(uuid.uuid4())) for number in range(100_000)),
    )
    connection.commit()
    connection.close()
    with open_index(made.folder / "index") as index:
        tracemalloc.start()
        assert sum(1 for _ in index.instances()) == index.holdings.instances == 50_000
        assert list(orphans(made.folder, index.known())) == []
        assert sum(1 for _ in index.known()) == 100_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


# -- rows that lie ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lie", "told"),
    [
        ({"uuid": "../../../etc/passwd"}, "row 1 of AttachedFiles: its name is no UUID"),
        ({"uuid": None}, "its name is no UUID"),
        ({"compressedSize": None}, "tells no size"),
        ({"uncompressedSize": "many"}, "tells no size"),
        ({"uncompressedSize": -1}, "tells no size"),
        ({"compressionType": 3}, "names a compression that is not known"),
        ({"compressedMD5": "xyz"}, "something else than its MD5"),
        ({"uncompressedMD5": "0" * 32}, "its content is not what Orthanc stored"),
        ({"compressedMD5": "0" * 32}, "its file is not what Orthanc stored"),
        ({"uncompressedSize": 7}, "announces another size"),
        ({"compressedSize": 7}, "bytes, the index says 7"),
        ({"uncompressedSize": 1 << 40}, "inflates to 1099511627776 bytes, permitted are"),
        ({"compressionType": 1}, "two sizes"),
    ],
)
def test_a_row_that_cannot_be_fails_its_instance_by_name_and_no_other(
    made: Handmade, out: Path, lie: dict[str, Any], told: str
) -> None:
    made.add(instance(1), **lie)
    honest = made.add(instance(2))
    made.write_index()
    done = run(made.folder, out)
    assert done.tally.exported == 1
    assert honest in done.results
    (failed,) = done.results.keys() - {honest}
    assert told in done.message(failed)
    again = run(made.folder, out)
    assert again.results == {}
    assert again.tally.failed_before == 1


def test_one_file_for_two_instances_is_exported_once(made: Handmade, out: Path) -> None:
    name = made.add(instance())
    made.rows.append(made.rows[0] | {"id": 2})
    made.write_index()
    done = run(made.folder, out)
    assert (done.tally.exported, done.tally.failed.total()) == (1, 1)
    assert "gives it to another instance as well" in done.message("index/row-2")
    assert name in done.results


@pytest.mark.parametrize("missing", [None, ""])
def test_what_has_no_md5_is_exported_and_that_is_said(made: Handmade, out: Path, missing: str | None) -> None:
    made.add(instance(1), uncompressedMD5=missing, compressedMD5=missing)
    made.add(instance(2))
    made.write_index()
    done = run(made.folder, out)
    assert done.tally.exported == 2
    assert "not checked by MD5: 1 instances" in done.remarks


def test_headers_summaries_and_attachments_of_users_are_no_instances(made: Handmade, out: Path) -> None:
    whole = instance()
    name = made.add(whole)
    made.add(header_of(whole), file_type=3)
    made.add(b'{"0008,0018": {}}', file_type=2)
    made.add(b"%PDF", file_type=1024)
    made.write_index()
    done = run(made.folder, out)
    assert set(done.results) == {name}
    assert done.noticed.orphans == 0
    assert "left out: 1 headers, 1 summaries, 1 attachments of users or plugins" in done.remarks


# -- attachments that lie --------------------------------------------------------------------------------------------


def deflated(content: bytes, announced: int | None = None) -> bytes:
    return (len(content) if announced is None else announced).to_bytes(8, "little") + zlib.compress(content)


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (deflated(instance())[:-20], "bytes, announced are"),
        (deflated(instance()) + b"more", "something follows its compressed content"),
        (deflated(bytes(50_000_000), len(instance())), "inflates to more than"),
        (deflated(instance())[:100] + bytes(200), "content is damaged"),
        (b"123", "announces another size"),
        (b"", "its file is empty"),
    ],
)
def test_a_compressed_attachment_is_inflated_as_far_as_announced_and_no_further(
    made: Handmade, out: Path, stored: bytes, told: str
) -> None:
    name = made.add(instance(), stored=stored, compressedSize=len(stored), compressedMD5="", uncompressedMD5="")
    made.write_index()
    done = run(made.folder, out)
    message = done.message(name)
    assert message.startswith(f"unreadable: attachment {name[-36:]}: ")
    assert told in message
    assert [p for p in (out / "media/.partial").rglob("*") if p.is_file()] == []


def test_an_encrypted_attachment_is_told_as_such(made: Handmade, out: Path) -> None:
    made.compression = 1
    content = instance()
    encrypted = b"A1" + bytes(range(4)) + os.urandom(64) + os.urandom(len(content)) + os.urandom(16)
    name = made.add(content, stored=encrypted)
    other = made.add(instance(2))
    made.write_index()
    done = run(made.folder, out)
    assert "a storage plugin has encrypted it" in done.message(name)
    (made.folder / "index").unlink()
    by_content = run(made.folder, out.with_name("out2"))
    assert "seems to be encrypted" in by_content.message(name)
    assert by_content.tally.exported == 1
    assert other in by_content.results


def test_what_a_storage_plugin_keeps_elsewhere_is_counted_without_telling_where(made: Handmade, out: Path) -> None:
    made.columns += LATER_COLUMNS
    notes = json.dumps({"v": 1, "o": True, "p": "DOE^JANE/study/1.dcm"}).encode()
    away = made.add(instance(1), customData=notes)
    here = made.add(instance(2), customData=json.dumps({"v": 1, "o": True, "p": ""}).encode())
    (made.folder / away).unlink()
    made.write_index()
    done = run(made.folder, out)
    assert done.tally.exported == 1
    assert here in done.results
    assert "a storage plugin keeps it at a place of its own" in done.message(away)
    assert "DOE" not in done.message(away)
    assert "elsewhere: 1 instances" in done.remarks
    shutil.rmtree(made.folder / here[:2])
    with pytest.raises(InputUnusable, match="a storage plugin keeps them at places of its own"):
        run(made.folder, out)


def test_links_and_pipes_in_the_place_of_attachments_are_neither_followed_nor_waited_for(
    made: Handmade, out: Path, tmp_path: Path
) -> None:
    made.compression = 1
    (tmp_path / "elsewhere").write_bytes(instance(1))
    link, pipe, folder = (made.add(instance(number)) for number in (1, 2, 3))
    for name in (link, pipe, folder):
        (made.folder / name).unlink()
    (made.folder / link).symlink_to(tmp_path / "elsewhere")
    os.mkfifo(made.folder / pipe)
    (made.folder / folder).mkdir()
    made.write_index()
    done = run(made.folder, out)
    for name in (link, pipe, folder):
        assert "in the place of its file" in done.message(name)


def test_a_full_disk_is_no_verdict(
    made: Handmade, tmp_path: Path, small_disk: Path, fill: Callable[[Path], None]
) -> None:
    made.add(instance(1))
    made.write_index()
    sections: dict[str, Any] = {"media": {"dir": str(small_disk / "media")}}
    (small_disk / "media" / ".partial").mkdir(parents=True)
    fill(small_disk / "ballast")
    with pytest.raises(OutOfSpace):
        run(made.folder, tmp_path / "out", **sections)
    (small_disk / "ballast").unlink()
    assert run(made.folder, tmp_path / "out", **sections).tally.exported == 1


def test_a_killed_run_leaves_no_copy_for_long_and_is_gone_on_with(made: Handmade, out: Path) -> None:
    for number in range(1, 17):
        made.add(instance(number, "examples_ybr_color.dcm"))
    made.write_index()
    command = [sys.executable, "-m", "exporter", "orthanc-storage", str(made.folder), "--output", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (list(out.glob("media/.partial/copies-*/*")) and (out / "metadata.jsonl").exists()):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(100)
    assert list(out.glob("media/.partial/copies-*/*"))
    done = run(made.folder, out)
    assert not list(out.glob("media/.partial/copies-*/*"))
    assert done.tally.settled == 16
    assert len(lines(out / "metadata.jsonl")) == 16


# -- without the index -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [1, 2])
def test_a_header_whose_instance_is_gone_is_a_failure_and_others_are_not(
    made: Handmade, out: Path, compression: int
) -> None:
    made.compression = compression
    here, gone = instance(1), instance(2)
    whole = made.add(here)
    copy = made.add(header_of(here))
    alone = made.add(header_of(gone))
    summary = made.add(b'{"0008,0018": {"Name": "SOPInstanceUID"}}')
    done = run(made.folder, out)
    assert done.results[whole].outcome.status == "exported"
    assert done.results[copy].outcome.status == done.results[summary].outcome.status == "skipped"
    assert "only up to its pixel data, and the whole instance is not here" in done.message(alone)
    assert (done.noticed.headers, done.noticed.summaries) == (2, 1)
    assert len(lines(out / "metadata.jsonl")) == 1
    later = made.add(header_of(here))
    again = run(made.folder, out)
    assert set(again.results) == {later}  # what an earlier run has exported counts as here
    assert again.results[later].outcome.status == "skipped"


def test_an_instance_without_pixels_is_no_header(made: Handmade, out: Path) -> None:
    report = pydicom.dcmread(str(get_testdata_file("test-SR.dcm")))
    written = io.BytesIO()
    report.save_as(written)
    name = made.add(written.getvalue())
    provider = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    del provider.PixelData
    provider.PixelDataProviderURL = "https://example.org/pixels"
    written = io.BytesIO()
    provider.save_as(written)
    remote = made.add(written.getvalue())
    done = run(made.folder, out)
    assert set(done.results) == {name, remote}
    assert done.noticed.headers == 0
    assert done.results[name].outcome.status == "exported"


def test_an_instance_that_is_there_twice_is_exported_once_as_if_it_were_received(made: Handmade, out: Path) -> None:
    for _ in range(2):
        made.add(instance())
    done = run(made.folder, out)
    assert (done.tally.exported, dict(done.tally.skipped)) == (1, {"duplicate": 1})
    assert len(lines(out / "metadata.jsonl")) == 1


def test_a_dicom_file_is_not_taken_for_a_compressed_one_because_of_its_preamble(made: Handmade, out: Path) -> None:
    made.compression = 1
    content = instance()
    looks = (1000).to_bytes(8, "little") + zlib.compress(bytes(1000))
    name = made.add(looks + bytes(128 - len(looks)) + content[128:])
    done = run(made.folder, out)
    assert done.results[name].outcome.status == "exported"


def test_volumes_of_series_are_made_of_compressed_attachments(made: Handmade, out: Path) -> None:
    for number in range(1, 5):
        made.add(
            instance(number, ImagePositionPatient=[0, 0, 5 * number], InstanceNumber=number, SliceLocation=5 * number)
        )
    made.write_index()
    done = run(made.folder, out, volume={"series": True})
    assert done.tally.exported == 4
    assert done.tally.series is not None
    assert (done.tally.series.written, done.tally.series.refused) == (1, 0)
    assert list(out.glob("media/.partial/copies-*/*")) == []


def test_failures_are_told_in_the_words_of_the_table(made: Handmade, out: Path) -> None:
    made.add(b"no DICOM")
    made.write_index()
    done = run(made.folder, out)
    assert dict(done.tally.failed) == {Reason.NOT_DICOM: 1}


def test_attachments_are_made_readable_ahead_in_order_and_let_go_of_when_nobody_takes_them(tmp_path: Path) -> None:
    with Scratch(tmp_path / "copies", 1 << 20) as scratch:

        def entries() -> Iterator[InputEntry]:
            for number in range(100):
                yield InputEntry(str(number), 1, 1, Counted(scratch, fails=number == 5))

        taken = ahead(entries(), threads=3)
        for number in range(10):
            entry = next(taken)
            assert (entry.name, entry.content is not None) == (str(number), True)
            assert entry.content is not None
            if number == 5:
                with pytest.raises(Unreadable):
                    entry.content.readable()
                continue
            assert entry.content.readable().read_bytes() == b"content"
            entry.content.release()
        end = time.monotonic() + 100
        while not scratch.used_bytes and time.monotonic() < end:  # the threads work ahead by themselves
            time.sleep(0.001)
        assert 0 < scratch.used_bytes <= 7 * 2 * 3
        taken.close()
        assert scratch.used_bytes == 0
        assert list((tmp_path / "copies").iterdir()) == []


class Counted:
    """A content that is a copy."""

    def __init__(self, scratch: Scratch, *, fails: bool) -> None:
        self._scratch = scratch
        self._fails = fails
        self._copy: ScratchCopy | None = None

    def readable(self) -> Path:
        if self._fails:
            raise Unreadable("damaged")
        self._copy = self._scratch.copy()
        self._copy.write(b"content")
        return self._copy.finish()

    def release(self) -> None:
        if self._copy is not None:
            self._copy.release()
