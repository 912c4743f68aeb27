"""One instance in, one outcome out: whatever the file, whatever goes wrong, and never a patient's value in it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from exporter.errors import OutOfSpace, Reason, SkipReason
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaType, Outcome, Skipped
from exporter.settings.settings import LimitSettings, MediaFolderSettings, MediaSettings, MetadataSettings
from exporter.work import pipeline, protocol
from exporter.work.protocol import WorkerJob
from listener.intake.identity import IMPLEMENTATION_CLASS_UID

CT = Path(str(get_testdata_file("CT_small.dcm")))


def run(
    path: Path,
    folder: Path,
    *,
    fault: Exception | None = None,
    received: bool = False,
    **limits: Any,
) -> Outcome:
    folder.mkdir(exist_ok=True)
    settings = MediaSettings(limits=LimitSettings(**limits))
    steps = pipeline.export(settings, "s" * 64, WorkerJob(str(path), str(folder), received=received))
    if fault is None:
        return protocol.run(steps, lambda _: None)
    protocol.identify(steps)
    with pytest.raises(StopIteration) as end:
        steps.throw(fault)
    outcome: Outcome = end.value.value
    return outcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "partial"


def test_an_instance_becomes_media_a_record_and_an_identity(folder: Path) -> None:
    outcome = run(CT, folder)
    assert isinstance(outcome, Exported)
    (medium,) = outcome.media
    assert medium.kind is MediaType.IMAGE
    assert (folder / medium.file).stat().st_size == medium.bytes
    assert json.loads(outcome.record)["Modality"] == "CT"
    assert outcome.identity.sop_instance_uid == pydicom.dcmread(CT).SOPInstanceUID
    assert outcome.settings_sha256 == "s" * 64
    assert len(outcome.source_sha256) == 64


def test_private_elements_are_in_the_record_unless_they_are_not_wanted(folder: Path) -> None:
    folder.mkdir()
    records = []
    for private in (True, False):
        settings = MediaSettings(metadata=MetadataSettings(private=private))
        outcome = protocol.run(pipeline.export(settings, "s" * 64, WorkerJob(str(CT), str(folder))), lambda _: None)
        assert isinstance(outcome, Exported)
        records.append(json.loads(outcome.record))
        shutil.rmtree(folder)
        folder.mkdir()
    everything, public = records
    assert everything["[Suite id] (0009,xx02 GEMS_IDEN_01)"] == "CT01"
    assert everything["export"]["private_left_out"] is None
    private_keys = {key for key in everything if "GEMS_" in key or key.startswith("Private")}
    assert set(everything) - set(public) == private_keys
    assert public["export"]["private_left_out"] >= len(private_keys)


def test_without_media_a_line_is_made_of_the_header_alone(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(CT.read_bytes()[:-20_000])  # most of its pixels are gone
    assert isinstance(run(broken, folder), Failed)
    settings = MediaSettings(media=MediaFolderSettings(enabled=False))
    job = WorkerJob(str(broken), str(folder))
    outcome = protocol.run(pipeline.export(settings, settings.settings_sha256, job), lambda _: None)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is SkipReason.NO_MEDIA
    assert json.loads(outcome.record or "")["Modality"] == "CT"
    assert not [warning for warning in outcome.warnings if "no pixel data" in warning]
    assert list(folder.iterdir()) == []
    assert settings.settings_sha256 != MediaSettings().settings_sha256


def test_the_parent_is_asked_before_anything_is_written(folder: Path) -> None:
    folder.mkdir()
    steps = pipeline.export(MediaSettings(), "s" * 64, WorkerJob(str(CT), str(folder)))
    refusal = Skipped(SkipReason.DUPLICATE, "the same came before")
    asked: list[InstanceIdentity] = []

    def refuse(identity: InstanceIdentity) -> Skipped:
        asked.append(identity)
        return refusal

    assert protocol.run(steps, refuse) is refusal
    assert [identity.sop_instance_uid for identity in asked] == [pydicom.dcmread(CT).SOPInstanceUID]
    assert list(folder.iterdir()) == []
    assert str(CT.resolve()) not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


def test_what_has_no_media_still_has_a_record(folder: Path) -> None:
    outcome = run(Path(str(get_testdata_file("rtplan.dcm"))), folder)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is SkipReason.NO_MEDIA
    assert outcome.record is not None
    assert json.loads(outcome.record)["Modality"] == "RTPLAN"


@pytest.mark.parametrize("data", [b"", b"x", b"not DICOM at all" * 100, bytes(5000), bytes(128) + b"DICM"])
def test_what_is_no_dicom_is_a_named_failure(tmp_path: Path, folder: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    outcome = run(path, folder)
    assert isinstance(outcome, Failed)
    assert outcome.reason in {Reason.NOT_DICOM, Reason.UNREADABLE}
    assert not outcome.may_pass


def test_a_file_that_is_gone_or_no_file_is_named(tmp_path: Path, folder: Path) -> None:
    gone = run(tmp_path / "gone", folder)
    assert isinstance(gone, Failed)
    assert gone.reason is Reason.UNREADABLE
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    outcome = run(fifo, folder)
    assert isinstance(outcome, Skipped)
    assert outcome.reason is SkipReason.NOT_REGULAR


def test_a_limit_is_a_named_failure(folder: Path) -> None:
    outcome = run(CT, folder, max_frame_pixels=100)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.TOO_LARGE
    assert outcome.identity is not None


def test_a_data_set_that_is_not_the_announced_one_is_refused_only_where_it_was_received(
    tmp_path: Path, folder: Path
) -> None:
    dataset = pydicom.dcmread(CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    path = tmp_path / "other.dcm"
    dataset.save_as(path)
    assert isinstance(run(path, tmp_path / "polled", received=True), Exported)  # nobody announced anything to us
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.save_as(path)
    outcome = run(path, folder, received=True)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.IDENTITY_MISMATCH
    assert "1.2.3.4" not in outcome.message
    assert isinstance(run(path, folder), Exported)
    assert isinstance(run(CT, tmp_path / "more", received=True), Exported)


def test_a_defect_is_internal_and_tells_its_place_but_not_its_text(folder: Path) -> None:
    outcome = run(CT, folder, fault=KeyError("Doe^Jane"))
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.INTERNAL
    assert outcome.may_pass
    assert outcome.message.startswith("KeyError at exporter/work/pipeline.py:")


@pytest.mark.parametrize(("number", "reason"), [(errno.EFBIG, Reason.TOO_LARGE), (errno.EIO, Reason.INTERNAL)])
def test_an_error_of_the_system_that_nobody_mapped_is_named(folder: Path, number: int, reason: Reason) -> None:
    outcome = run(CT, folder, fault=OSError(number, os.strerror(number), "Doe^Jane.dcm"))
    assert isinstance(outcome, Failed)
    assert outcome.reason is reason
    assert "Doe" not in outcome.message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_is_no_outcome(folder: Path, number: int) -> None:
    with pytest.raises(OutOfSpace):
        run(CT, folder, fault=OSError(number, os.strerror(number)))


def test_too_much_memory_is_too_large(folder: Path) -> None:
    outcome = run(CT, folder, fault=MemoryError())
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.TOO_LARGE


@pytest.mark.corpus
def test_every_file_of_the_corpus_has_an_outcome_and_no_defect(corpus: Path, tmp_path: Path) -> None:
    internal = []
    files = sorted(path for path in corpus.rglob("*") if path.is_file() and path.stat().st_size < 300_000)
    for number, path in enumerate(files[::4]):
        folder = tmp_path / str(number)
        outcome = run(path, folder)
        if isinstance(outcome, Failed) and outcome.reason is Reason.INTERNAL:
            internal.append((path.name, outcome.message))
        shutil.rmtree(folder)
    assert not internal
