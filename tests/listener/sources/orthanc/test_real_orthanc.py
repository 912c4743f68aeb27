"""The real Orthanc, in this process: what is taken is what it holds, once, whatever happens to it meanwhile."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from structlog.testing import capture_logs

from tests.listener.requestor import eventually
from tests.orthanc_server import OrthancServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.listener.sources.orthanc.conftest import Polling


def dicom(number: int, *, comment: str = "", **values: str) -> bytes:
    """A small CT image; others have other numbers."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SOPInstanceUID = f"1.2.826.0.1.3680043.10.{number}"
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.ImageComments = comment
    for keyword, value in values.items():
        setattr(image, keyword, value)
    written = io.BytesIO()
    image.save_as(written)
    return written.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def orthanc(peer: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., OrthancServer]]:
    """Starts real servers, each over a storage of its own."""
    made: list[OrthancServer] = []

    def start(**options: Any) -> OrthancServer:
        made.append(OrthancServer(peer("Orthanc"), tmp_path / f"orthanc{len(made)}", **options))
        made[-1].start()
        return made[-1]

    yield start
    for server in made:
        server.kill()


def held(server: OrthancServer) -> Counter[str]:
    """MD5 sums of the attachments as the server gives them out another way."""
    return Counter(md5(server.rest(f"/instances/{one}/attachments/dicom/data")) for one in server.instances())


@pytest.mark.parametrize("compressed", [False, True], ids=["as they are", "compressed storage"])
def test_what_it_holds_and_what_comes_later_is_taken_byte_for_byte(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling], compressed: bool
) -> None:
    server = orthanc(StorageCompression=compressed)
    names = ("CT_small.dcm", "JPEG2000.dcm", "JPEG-lossy.dcm", "rtplan.dcm", "color-pl.dcm", "MR_small_RLE.dcm")
    for name in names[:3]:
        server.add(Path(str(get_testdata_file(name))).read_bytes())
    polling = poll(server.url)
    polling.start()
    polling.wait_for("taken", 3)
    for name in names[3:]:
        server.add(Path(str(get_testdata_file(name))).read_bytes())
    polling.wait_for("taken", len(names))
    assert polling.taken() == held(server)


def test_what_was_taken_is_not_asked_for_again_after_a_restart_of_either_side(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    for number in range(5):
        server.add(dicom(number))
    polling = poll(server.url)
    polling.start()
    polling.wait_for("taken", 5)
    polling.stop()
    polling.start()
    polling.wait_for_passes()
    server.stop()
    polling.wait_for("unreachable")
    server.start()
    server.add(dicom(5))
    polling.wait_for("taken", 6)
    polling.wait_for_passes()
    assert polling.count("known_already") == 0
    assert polling.taken() == held(server)


def test_a_server_that_is_not_there_yet_is_waited_for(
    peer: Callable[[str], str], poll: Callable[..., Polling], tmp_path: Path
) -> None:
    server = OrthancServer(peer("Orthanc"), tmp_path / "later")
    polling = poll(server.url)
    source = polling.start()
    polling.wait_for("unreachable", 2)
    assert source.is_alive()
    with server:
        server.add(dicom(1))
        polling.wait_for("taken")
        assert polling.taken() == held(server)


def test_what_the_log_does_not_tell_is_found_in_the_list(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    polling = poll(server.url, reconcile_s=0.2)
    polling.start()
    server.add(dicom(1))
    polling.wait_for("taken")
    polling.stop()
    server.add(dicom(2))
    server.rest("/changes", method="DELETE")
    polling.start()
    polling.wait_for("taken", 2)
    assert polling.count("missed_by_log") == 1
    assert polling.taken() == held(server)


@pytest.mark.parametrize("log_is_cleared", [False, True], ids=["the log tells", "the log is cleared"])
def test_an_overwritten_instance_is_taken_again_with_its_new_content(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling], log_is_cleared: bool
) -> None:
    server = orthanc(OverwriteInstances=True)
    first, second = dicom(1), dicom(1, comment="again")
    server.add(first)
    server.add(dicom(2))
    polling = poll(server.url)
    polling.start(compare_s=0.1)
    polling.wait_for("taken", 2)
    polling.stop()
    server.add(second)
    if log_is_cleared:
        server.rest("/changes", method="DELETE")
    polling.start()
    polling.wait_for("taken", 3)
    polling.wait_for_passes(2)
    assert polling.taken() == {md5(first): 1, md5(second): 1, md5(dicom(2)): 1}


def test_the_same_instance_sent_again_is_not_taken_again(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc(OverwriteInstances=True)
    name = server.add(dicom(1))
    polling = poll(server.url)
    polling.start()
    polling.wait_for("taken")
    server.add(dicom(1))
    polling.wait_for("known_already")
    server.delete(name)
    server.add(dicom(1))
    polling.wait_for("known_already", 2)
    assert polling.taken() == {md5(dicom(1)): 1}


@pytest.mark.parametrize("before", [3, 12], ids=["the new log is longer", "the new log is shorter"])
def test_a_wiped_and_refilled_index_under_the_same_address_is_found_out(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling], before: int
) -> None:
    server = orthanc()
    for number in range(before):
        server.add(dicom(number))
    polling = poll(server.url, reconcile_s=3600)
    polling.start()
    polling.wait_for("taken", before)
    polling.wait_for("reconciliations")
    server.stop()
    shutil.rmtree(server.storage)
    server.start()
    new = [dicom(number) for number in range(before - 1, before + 7)]  # one of them was taken before
    for content in new:
        server.add(content)
    polling.wait_for("taken", before + 7)
    polling.wait_for("known_already")
    polling.wait_for("reconciliations", 2)
    assert polling.count("index_resets") == 1
    assert polling.taken() == Counter(md5(dicom(number)) for number in range(before + 7))


def test_an_index_that_was_wiped_while_we_were_away_is_found_out_at_the_start(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    for number in range(4):
        server.add(dicom(number))
    polling = poll(server.url)
    polling.start()
    polling.wait_for("taken", 4)
    polling.stop()
    server.stop()
    shutil.rmtree(server.storage)
    server.start()
    for number in range(10, 16):  # in the very order of the first ones: only what the changes say tells them apart
        server.add(dicom(number))
    polling.start()
    polling.wait_for("taken", 10)
    assert polling.count("index_resets") == 1


def test_instances_deleted_before_they_were_taken_are_gone_and_nothing_is_stuck(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    polling = poll(server.url)
    polling.start()
    server.add(dicom(0))
    polling.wait_for("taken")
    polling.space.queue_full = True  # downloads wait for room: changes are read, instances are not
    names = [server.add(dicom(number)) for number in range(1, 30)]
    eventually(lambda: gauge(polling, "waiting") == 29, "all read")
    for name in names[:20]:
        server.delete(name)
    polling.space.queue_full = False
    polling.wait_for("gone", 20)
    polling.wait_for("taken", 10)
    polling.stop()
    for name in (server.add(dicom(50)), server.add(dicom(51))):
        server.delete(name)  # nobody ever read of these: a gap in the numbers is all that is left
    server.add(dicom(52))
    polling.start()
    polling.wait_for("taken", 11)
    eventually(lambda: gauge(polling, "vanished") == 2, "two vanished")
    eventually(lambda: gauge(polling, "position") == server.json("/changes?last")["Last"], "nothing is stuck")
    eventually(lambda: (gauge(polling, "gone"), gauge(polling, "failed")) == (20, 0), "20 gone, none failed")
    assert polling.taken() == held(server)


def gauge(polling: Polling, word: str) -> object:
    gauges = polling.counters.snapshot()["gauges"]
    assert isinstance(gauges, dict)
    return gauges.get(f"orthanc_tested_{word}")


def test_a_damaged_attachment_is_one_failure_and_is_taken_once_it_is_mended(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc(MaximumStorageCacheSize=0)
    victim = server.add(dicom(1))
    uuid = server.json(f"/instances/{victim}")["FileUuid"]
    path = server.storage / uuid[:2] / uuid[2:4] / uuid
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + b"\xff" + whole[2001:])
    server.add(dicom(2))
    missing = server.add(dicom(3))
    uuid = server.json(f"/instances/{missing}")["FileUuid"]
    (server.storage / uuid[:2] / uuid[2:4] / uuid).unlink()
    polling = poll(server.url)
    polling.start()
    polling.wait_for("failed", 2)
    polling.wait_for("failed_again", 2)
    assert polling.taken() == {md5(dicom(2)): 1}
    eventually(lambda: gauge(polling, "position") == server.json("/changes?last")["Last"], "nothing is stuck")
    path.write_bytes(whole)
    polling.wait_for("taken", 2)
    assert polling.taken() == {md5(dicom(1)): 1, md5(dicom(2)): 1}


def test_deletion_after_spooling_deletes_what_was_taken_and_nothing_else(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    for number in range(8):
        modality = "MR" if number < 3 else "CT"
        server.add(dicom(number, Modality=modality, SeriesInstanceUID=f"1.2.3.{modality == 'MR':d}"))
    polling = poll(server.url)
    polling.start(only={"modalities": ["CT"]})
    polling.wait_for("left_out", 3)
    polling.wait_for("taken", 5)
    polling.wait_for_passes()
    polling.stop()
    assert len(server.instances()) == 8
    polling.start(delete_after_spooling=True)
    polling.wait_for("deleted", 5)
    server.add(dicom(20, SeriesInstanceUID="1.2.3.0"))
    polling.wait_for("deleted", 6)
    polling.wait_for_passes(2)
    assert (polling.count("taken"), polling.count("deleted"), polling.count("left_out")) == (6, 6, 3)
    assert polling.taken().total() == 6
    assert len(server.instances()) == 3


def test_without_md5_sums_on_the_server_instances_are_taken_and_never_deleted(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc(StoreMD5ForAttachments=False)
    server.add(dicom(1))
    polling = poll(server.url)
    polling.start(delete_after_spooling=True)
    polling.wait_for("taken_unverified")
    polling.wait_for("not_deleted")
    assert server.instances()
    assert polling.taken() == {md5(dicom(1)): 1}


def test_filters_take_what_fits_and_a_change_of_them_looks_at_everything_again(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling], peer: Callable[[str], str], tmp_path: Path
) -> None:
    server = orthanc(DicomServerEnabled=True)
    wanted = dicom(1, Modality="US", StudyDate="20240115", StudyInstanceUID="1.2.1", SeriesInstanceUID="1.2.1.1")
    others = [
        dicom(2, Modality="CT", StudyDate="20240115", StudyInstanceUID="1.2.2", SeriesInstanceUID="1.2.2.1"),
        dicom(3, Modality="US", StudyDate="20230115", StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.1"),
        dicom(4, Modality="US", StudyDate="", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1"),
    ]
    for number, content in enumerate([wanted, *others]):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(content)
        sent = [peer("storescu"), "-aet", "SCANNER", "-aec", "ORTHANC", "127.0.0.1", str(server.dicom_port), str(path)]
        subprocess.run(sent, check=True, timeout=100)
    server.add(dicom(5, Modality="US", StudyDate="20240116", StudyInstanceUID="1.2.5", SeriesInstanceUID="1.2.5.1"))
    polling = poll(server.url)
    only = {"modalities": ["US"], "ae_titles": ["SCANNER"], "study_date_from": "2024-01-01"}
    polling.start(only=only | {"study_date_to": "2024-01-31"})
    polling.wait_for("taken")
    polling.wait_for("left_out", 4)
    polling.wait_for_passes(2)
    assert polling.count("left_out") == 4
    assert polling.taken().total() == 1
    polling.stop()
    polling.start(only={"modalities": ["US", "CT"]})
    polling.wait_for("taken", 5)
    assert polling.taken() == held(server)


def test_labels_of_a_server_without_them_are_said_to_be_missing_and_nothing_is_taken(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    if "Labels" in server.json(f"/instances/{server.add(dicom(1))}"):
        pytest.skip("this Orthanc has labels")
    polling = poll(server.url)
    with capture_logs() as logged:
        polling.start(only={"labels": ["research"]})
        polling.wait_for("unfit")
        assert polling.taken() == {}
        polling.stop()
    assert "1.12.0" in str(logged)
    polling.start(only={"labels": []})
    polling.wait_for("taken")


def test_default_credentials_and_an_open_server_are_warned_of(
    orthanc: Callable[..., OrthancServer],
    poll: Callable[..., Polling],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    default, opened = orthanc(credentials=("orthanc", "orthanc")), orthanc()
    (tmp_path / "credentials").write_text("orthanc:orthanc")
    for server in (default, opened):
        server.add(dicom(1))
        polling = poll(server.url, credentials_file=str(tmp_path / "credentials"))
        polling.start()
        polling.wait_for("taken")
        polling.stop()
        told = "".join(capsys.readouterr())
        assert "default credentials" in told
        assert ("without credentials too" in told) == (server is opened)


def test_instances_that_arrive_all_the_time_are_taken_within_moments(
    orthanc: Callable[..., OrthancServer], poll: Callable[..., Polling]
) -> None:
    server = orthanc()
    polling = poll(server.url)
    polling.start()
    latest = 0.0
    for number in range(20):
        server.add(dicom(number))
        began = time.monotonic()
        polling.wait_for("taken", number + 1, within_s=100)
        latest = max(latest, time.monotonic() - began)
    assert latest < 2
    assert polling.taken() == held(server)
