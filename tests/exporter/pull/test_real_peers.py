"""Pulling from real archives: DCMTK's and Orthanc, killed midway and gone on with; nothing is asked for twice."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from typing import TYPE_CHECKING

import pydicom
import pytest

from exporter.pull.request import PullEnded
from tests.dcmqrscp_server import AE_TITLE, DcmqrscpServer
from tests.exporter.pull.running import Puller
from tests.listener.certificates import make_certificate
from tests.listener.requestor import stored_data_set
from tests.orthanc_server import OrthancServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.exporter.pull.conftest import Made

AT_LENGTH = bool(os.environ.get("EXPORTER_TEST_KILLS"))
PARALLEL = 2
WRONG = ["NOBODY,NOTHING,", ",,", ",,20201345"]


def cohort(made: Made) -> list[str]:
    """Every study by patient and accession number, three wrong rows among them."""
    lines = [f"{study.patient},{study.accession},{study.date}" for study in made.studies]
    return ["PatientID,AccessionNumber,StudyDate", *lines[:5], WRONG[0], *lines[5:20], WRONG[1], *lines[20:], WRONG[2]]


def wrong_rows_are_named(out: str, count: int) -> None:
    assert f"{count} rows: {count - 3} complete, 1 not found, 2 wrong" in out, "\n".join(out.splitlines())
    assert re.search(r"^row 7: nothing matches$", out, re.MULTILINE)
    assert re.search(rf"^row {min(20, count - 3) + 3}: is empty", out, re.MULTILINE)
    assert re.search(rf"^row {count + 1}: StudyDate is no date", out, re.MULTILINE)


def kill_midway(puller: Puller, targets: int) -> set[str]:
    """Kill a pull once so many targets are complete; which were."""
    process = puller.start()
    until = time.monotonic() + 100
    while len(puller.complete()) < targets:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=100)
    return puller.complete()


def bytes_are_those_of(puller: Puller, made: Made) -> None:
    """Each instance is in the spool as it was made; those under way at a kill may be there twice."""
    received = Counter(stored_data_set(path) for path in puller.new())
    wanted = {stored_content(path) for path in made.files}
    assert set(received) == wanted
    assert received.total() <= len(wanted) + 3 * PARALLEL


def stored_content(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


@pytest.mark.parametrize("method", ["move", pytest.param("get", marks=pytest.mark.slow)])
def test_a_cohort_from_dcmqrscp_killed_midway_is_completed_and_nothing_is_asked_for_twice(
    peer: Callable[[str], str], forty: Made, tmp_path: Path, method: str
) -> None:
    if method == "get" and not AT_LENGTH:
        pytest.skip("set EXPORTER_TEST_KILLS for this one")
    puller = Puller(tmp_path, AE_TITLE, 0, {"method": method, "parallel": PARALLEL})
    archive = DcmqrscpServer(peer, tmp_path / "archive", receivers={"EXPORTER": puller.listener_port})
    archive.add(forty.files)
    puller.port = archive.port
    puller.write(cohort(forty))
    with archive:
        complete = kill_midway(puller, 15)
        kind = method.capitalize()
        before = Counter(one["StudyInstanceUID"] for one in archive.requests(kind))
        assert 15 <= len(complete) < 40
        ended = puller.run()
        after = Counter(one["StudyInstanceUID"] for one in archive.requests(kind))
        questions = [one for one in archive.requests("Find") if one.get("QueryRetrieveLevel") == "STUDY"]
        again = puller.run()
        assert len(archive.requests(kind)) == after.total()
    assert ended.returncode == 3, ended.stderr
    wrong_rows_are_named(ended.stdout, 43)
    assert puller.complete() == {study.uid for study in forty.studies}
    assert {uid: after[uid] for uid in complete} == dict.fromkeys(complete, 1)
    assert after.total() <= 40 + PARALLEL
    assert all(after[uid] == 1 for uid in after if uid not in before)
    # One question per row; the one that was under way when it was killed may be asked again.
    assert 41 <= len(questions) <= 42
    bytes_are_those_of(puller, forty)
    # A new run, of the same cohort: only the row that found nothing is asked once more.
    assert again.returncode == 3
    wrong_rows_are_named(again.stdout, 43)


@pytest.mark.parametrize("method", ["get", pytest.param("move", marks=pytest.mark.slow)])
def test_a_cohort_from_orthanc_killed_midway_is_completed_and_nothing_is_asked_for_twice(
    peer: Callable[[str], str], forty: Made, tmp_path: Path, method: str
) -> None:
    if method == "move" and not AT_LENGTH:
        pytest.skip("set EXPORTER_TEST_KILLS for this one")
    puller = Puller(tmp_path, "ORTHANC", 0, {"method": method, "parallel": PARALLEL})
    server = OrthancServer(
        peer("Orthanc"),
        tmp_path / "orthanc",
        DicomServerEnabled=True,
        DicomModalities={"us": ["EXPORTER", "127.0.0.1", puller.listener_port]},
        DicomAlwaysAllowGet=True,
    )
    puller.port = server.dicom_port
    puller.write(cohort(forty))
    with server:
        for file in forty.files:
            server.add(file.read_bytes())
        server.rest("/tools/log-level-dicom", b"verbose", method="PUT")
        complete = kill_midway(puller, 15)
        assert 15 <= len(complete) < 40
        ended = puller.run()
        log = (server.folder / "orthanc.log").read_text()
    assert ended.returncode == 3, ended.stderr
    wrong_rows_are_named(ended.stdout, 43)
    assert puller.complete() == {study.uid for study in forty.studies}
    request = "C-GET-SCU request received" if method == "get" else "Move-SCU request received"
    assert 40 <= log.count(request) <= 40 + PARALLEL
    assert 41 <= log.count("DICOM C-Find request at level: Study") <= 42
    bytes_are_those_of(puller, forty)


@pytest.fixture
def archive(peer: Callable[[str], str], forty: Made, tmp_path: Path) -> DcmqrscpServer:
    """DCMTK's archive with the first six studies; not started, and it may move nowhere."""
    made = DcmqrscpServer(peer, tmp_path / "archive", receivers={"EXPORTER": 1})
    made.add([file for study in forty.studies[:6] for file in study.files])
    return made


def test_a_dry_run_finds_only_and_its_file_is_a_cohort(archive: DcmqrscpServer, forty: Made, tmp_path: Path) -> None:
    puller = Puller(tmp_path, AE_TITLE, archive.port, {"method": "get"})
    puller.write(["StudyDate,ModalitiesInStudy", "20200102-20200104,", "20200105,CT", "20300101,"])
    found = tmp_path / "found.csv"
    with archive:
        ended = puller.run("--dry-run", str(found))
        assert ended.returncode == 3
        assert "row 4: nothing matches" in ended.stdout
        assert not archive.requests("Move") + archive.requests("Get")
        assert not puller.data.exists()
        assert stat.S_IMODE(found.stat().st_mode) == 0o600
        lines = [line.split(",") for line in found.read_text().splitlines()]
        assert lines[0][:4] == ["#row", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
        wanted = {study.uid for study in forty.studies if study.date in {"20200102", "20200103", "20200104"}}
        assert {line[1] for line in lines[1:] if line[0] == "2"} == wanted
        found.rename(puller.cohort)
        assert puller.run().returncode == 0
        assert len(archive.requests("Get")) == len(lines) - 1
    assert {str(pydicom.dcmread(path).StudyInstanceUID) for path in puller.new()} == {line[1] for line in lines[1:]}


@pytest.mark.parametrize(
    ("level", "row", "instances"),
    [
        ("patient", "A00001,,", 6),
        ("study", "A00001,,", 3),
        ("series", "A00001,MR,", 1),
        ("series", "A00001,,", 3),
        ("instance", "A00001,CT,1", 1),
        ("study", "A00001,MR,", 3),
    ],
)
def test_the_level_says_how_much_of_what_a_row_finds_is_fetched(
    archive: DcmqrscpServer, tmp_path: Path, level: str, row: str, instances: int
) -> None:
    puller = Puller(tmp_path, AE_TITLE, archive.port, {"method": "get", "level": level})
    puller.write(["AccessionNumber,Modality,InstanceNumber", row])
    with archive:
        assert puller.pull().is_all_well
    assert len(puller.new()) == instances


def test_over_tls(peer: Callable[[str], str], forty: Made, tmp_path: Path) -> None:
    certificate, stranger = make_certificate(tmp_path, "archive"), make_certificate(tmp_path, "stranger")
    server = OrthancServer(
        peer("Orthanc"),
        tmp_path / "orthanc",
        DicomServerEnabled=True,
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(certificate),
        DicomTlsPrivateKey=str(certificate),
        DicomTlsTrustedCertificates=str(certificate),
        DicomTlsRemoteCertificateRequired=False,
        DicomModalities={"us": ["EXPORTER", "127.0.0.1", 1]},
        DicomAlwaysAllowGet=True,
    )
    puller = Puller(tmp_path, "ORTHANC", server.dicom_port, {"method": "get"})
    puller.write(["StudyInstanceUID", forty.studies[0].uid])
    with server:
        for file in forty.studies[0].files:
            server.add(file.read_bytes())
        puller.peer["tls"] = {"ca": str(stranger), "check_host": False}
        with pytest.raises(PullEnded, match="TLS fails"):
            puller.pull()
        puller.peer["tls"] = {"ca": str(certificate), "check_host": False}
        assert puller.pull().is_all_well
    assert len(puller.new()) == 3


def test_a_destination_that_the_archive_does_not_know_ends_the_run_and_costs_no_row(
    archive: DcmqrscpServer, forty: Made, tmp_path: Path
) -> None:
    puller = Puller(tmp_path, AE_TITLE, archive.port, {"move_to": "NOBODY"})
    puller.write(["AccessionNumber", *(study.accession for study in forty.studies[:3])])
    with archive:
        with pytest.raises(PullEnded, match=r"does not know the AE title NOBODY \(0xA801\)"):
            puller.pull()
        puller.peer = {"method": "get"}
        assert puller.pull().is_all_well


def test_nothing_of_a_cohort_is_in_log_or_output(archive: DcmqrscpServer, forty: Made, tmp_path: Path) -> None:
    puller = Puller(tmp_path, AE_TITLE, archive.port, {"method": "get"})
    study = forty.studies[0]
    secret = ["Täst^SECRET", "SECRETID"]
    puller.write(
        ["PatientName,PatientID,AccessionNumber", f",{study.patient},{study.accession}", f"{secret[0]},{secret[1]},"]
    )
    with archive:
        ended = puller.run("--log-level", "debug")
    assert ended.returncode == 3
    for value in (*secret, "SECRET", study.patient, study.accession, study.uid, *study.instances):
        assert value not in ended.stdout + ended.stderr, value
    report = puller.data / "pull" / "report.csv"
    assert stat.S_IMODE(report.stat().st_mode) == 0o600
    assert stat.S_IMODE(puller.journal.stat().st_mode) == 0o600
    assert study.uid in report.read_text()
