"""Instances with a profile: what identifies is in no output, what cannot be cleaned is refused, the rest stays."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset

from exporter.commands.app import main
from exporter.dicom.instance import Instance
from exporter.errors import Reason
from exporter.outcome import Exported, Failed, MediaType, Skipped, to_json
from exporter.privacy.key import KeyChanged
from exporter.privacy.profile import PrivacyProfile, TextDetectionMissing, checked_fingerprint
from exporter.results.metadata.record import elements
from exporter.settings.settings import (
    FramesSettings,
    ImageSettings,
    LimitSettings,
    MediaFolderSettings,
    MediaSettings,
    PrivacySettings,
    Settings,
    VideoSettings,
)
from exporter.work import pipeline, protocol
from exporter.work.protocol import WorkerJob
from exporter.work.supervisor import WorkerSetup
from exporter.writers.durable_write import write_new
from tests.exporter.frames.conftest import build
from tests.exporter.privacy.kinds import KINDS, planted_file
from tests.exporter.privacy.pixels.test_masked import CODINGS, KEPT, Coding, area, picture
from tests.exporter.writers.sampled import VOICE, channel, multiplex_group, save_waveform

if TYPE_CHECKING:
    from exporter.outcome import Outcome
    from tests.exporter.frames.conftest import Build

__all__ = ["build"]

KEY = b"a key of more than thirty-two bytes, for tests"
REFUSED = {"document"}
"""Kinds of which nothing may leave, whatever the policy for pixels."""
WITHOUT_MEDIA = {"presentation", "structures"}
SURVEY = Path(__file__).resolve().parents[3] / "docs/privacy-pixels.md"
KEPT_ELEMENTS: dict[str, Any] = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "Modality": "CT",
    "Manufacturer": "SIEMENS",
    "PatientPosition": "HFS",
    "BodyPartExamined": "CHEST",
    "ScanOptions": "HELICAL MODE",
    "SliceThickness": "1.25",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "ReconstructionDiameter": "360",
    "DistanceSourceToDetector": "1040",
    "DistanceSourceToPatient": "570",
    "GantryDetectorTilt": "0",
    "TableHeight": "150.5",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "320",
    "Exposure": "160",
    "DiffusionBValue": 1000.0,
    "GeneratorPower": "38",
    "FocalSpots": "1.2",
    "SingleCollimationWidth": 0.6,
    "TotalCollimationWidth": 38.4,
    "TableSpeed": 46.0,
    "TableFeedPerRotation": 23.0,
    "SpiralPitchFactor": 0.6,
    "ExposureTimeInms": 500.0,
    "CTDIvol": 8.25,
    "EstimatedDoseSaving": 30.0,
    "SpacingBetweenSlices": "1.25",
    "ConvolutionKernel": "B31f",
    "RepetitionTime": "500",
    "EchoTime": "12",
    "InversionTime": "900",
    "NumberOfAverages": "2",
    "ImagingFrequency": "63.8",
    "ImagedNucleus": "1H",
    "EchoNumbers": "1",
    "MagneticFieldStrength": "1.5",
    "NumberOfPhaseEncodingSteps": "256",
    "EchoTrainLength": "4",
    "PercentSampling": "100",
    "PercentPhaseFieldOfView": "75",
    "PixelBandwidth": "122",
    "FlipAngle": "90",
    "SAR": "0.5",
    "dBdt": "0",
    "TriggerTime": "20",
    "NominalInterval": "800",
    "HeartRate": "72",
    "CardiacNumberOfImages": "25",
    "CineRate": "25",
    "RecommendedDisplayFrameRate": "25",
    "FrameDelay": "0",
    "EffectiveDuration": "2.5",
    "StartTrim": "1",
    "StopTrim": "4",
    "DepthOfScanField": "160",
    "TransducerFrequency": 3500000,
    "PulseRepetitionFrequency": 4000,
    "FocusDepth": 80.0,
    "MechanicalIndex": "1.1",
    "BoneThermalIndex": "0.4",
    "SoftTissueThermalIndex": "0.6",
    "CranialThermalIndex": "0.2",
    "ImagePositionPatient": [-180.0, -170.5, 12.25],
    "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
    "SliceLocation": "12.25",
    "SeriesNumber": "3",
    "AcquisitionNumber": "1",
    "InstanceNumber": "17",
    "ImagesInAcquisition": "120",
    "TemporalPositionIdentifier": "1",
    "NumberOfTemporalPositions": "1",
    "PixelSpacing": [0.703125, 0.703125],
    "WindowCenter": ["40", "-600"],
    "WindowWidth": ["400", "1500"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "RescaleType": "HU",
    "LossyImageCompression": "00",
}
"""Geometry, timing, windows, acquisition and calibration, of several modalities."""


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


def run(path: Path, folder: Path, key_file: Path, media: MediaSettings | None = None, **privacy: Any) -> Outcome:
    """Export one instance with the basic profile."""
    folder.mkdir()
    section = PrivacySettings(profile="basic", key_file=key_file, **privacy)
    settings = (media or MediaSettings()).model_copy(update={"privacy": section})
    profile = PrivacyProfile.load(section, None)
    steps = pipeline.export(settings, "s" * 64, WorkerJob(str(path), str(folder)), profile=profile)
    return protocol.run(steps, lambda _: None)


def found(tokens: dict[str, int], outcome: Outcome, folder: Path) -> set[str]:
    """Tokens in the answer of the worker, and in names and bytes of its files."""
    texts = [to_json(outcome)]
    for file in folder.rglob("*"):
        texts.append(file.name.encode())
        if file.is_file():
            data = file.read_bytes()
            texts.append(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    seen = b"\n".join([*texts, *(text.replace(b"\0", b"") for text in texts)]).upper()
    words = set(re.findall(rb"TOK[0-9A-Z]+Q|[0-9.]{8,}|[0-9]{3}Q", seen))
    parts = {part for word in words for part in (word, word[:8], *word.split(b"."))}
    return {token for token in tokens if token.encode() in parts}


def check(kind: str, seed: int, tmp_path: Path, key_file: Path) -> Outcome:
    """Export a planted instance, and see that no token is left."""
    path, folder = tmp_path / "TOKNAMEQ.dcm", tmp_path / "partial"
    tokens = planted_file(path, kind, seed)
    outcome = run(path, folder, key_file, pixels="allow")
    assert found(tokens | {"TOKNAMEQ": 0}, outcome, folder) == set(), (kind, seed)
    return outcome


@pytest.mark.parametrize("kind", ["cine", "report"])
def test_nothing_that_was_planted_is_left_in_any_output(kind: str, tmp_path: Path, key_file: Path) -> None:
    assert isinstance(check(kind, 1, tmp_path, key_file), Exported)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_was_planted_is_left_of_any_kind(kind: str, seed: int, tmp_path: Path, key_file: Path) -> None:
    outcome = check(kind, seed, tmp_path, key_file)
    if kind in REFUSED:
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.PRIVACY_UNKNOWN
    elif kind in WITHOUT_MEDIA:
        assert isinstance(outcome, Skipped)
        assert json.loads(outcome.record or "")["export"]["privacy"]["profile"] == "basic"
    else:
        assert isinstance(outcome, Exported)


def test_the_search_of_these_tests_finds_what_is_not_removed(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.dcm", tmp_path / "partial"
    tokens = planted_file(path, "report", 1)
    folder.mkdir()
    outcome = protocol.run(
        pipeline.export(MediaSettings(), "s" * 64, WorkerJob(str(path), str(folder))), lambda _: None
    )
    left = found(tokens, outcome, folder)
    assert len(left) > 1000
    assert "TOKFINDINGQ" in left


# -- pixels ----------------------------------------------------------------------------------------------------------

EVERY_OUTPUT = MediaSettings(image=ImageSettings(outputs=("view8", "raw16"), copy_jpeg=True))
FEW = ("native RGB", "JPEG 4:2:0", "JPEG 2000")


def region() -> Dataset:
    """The kept part of the pictures as an ultrasound region: its right and lower edges are inside."""
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType = 1, 1
    item.RegionLocationMinX0, item.RegionLocationMinY0 = KEPT.left, KEPT.top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = KEPT.right - 1, KEPT.bottom - 1
    return item


def ultrasound(build: Build, coding: Coding, values: Any, **elements: Any) -> Path:
    """An ultrasound instance of which only one region may be seen."""
    cine = "NumberOfFrames" in elements
    made = coding.instance(
        build,
        values,
        SOPClassUID="1.2.840.10008.5.1.4.1.1." + ("3.1" if cine else "6.1"),
        StudyInstanceUID="1.2.826.0.1.3680043.8.498.2",
        SeriesInstanceUID="1.2.826.0.1.3680043.8.498.3",
        SequenceOfUltrasoundRegions=[region()],
        **elements,
    )
    made.close()
    return made.path


def published(outcome: Outcome, folder: Path) -> tuple[Any, ...]:
    """Everything of an outcome but keyed hashes, and the bytes of its files."""
    assert isinstance(outcome, Exported)
    files = {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
    identity = replace(outcome.identity, content_sha256="")
    return replace(outcome, identity=identity, source_sha256=""), files


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CODINGS]
)
def test_two_inputs_that_differ_in_what_is_hidden_or_removed_give_one_output(
    name: str, tmp_path: Path, key_file: Path, build: Build
) -> None:
    coding = CODINGS[name]
    found = []
    for seed, patient in ((1, "DOE^JANE"), (2, "ROE^RICHARD^THE^THIRD")):
        values = picture(7, seed, samples=coding.samples)
        behind = bytes([seed]) * 10 if coding.native else b""
        further = {"PatientName": patient, "PatientBirthDate": f"1960010{seed}", "StudyDescription": patient}
        path = ultrasound(build, coding, values, behind=behind, **further)
        folder = tmp_path / str(seed)
        found.append(published(run(path, folder, key_file, EVERY_OUTPUT), folder))
    assert found[0] == found[1]
    privacy = json.loads(found[0][0].record)["export"]["privacy"]
    assert privacy["pixels"]["step"] == "ultrasound_regions"
    assert not any(medium.transcoded is False for medium in found[0][0].media)


@pytest.mark.parametrize("frames", [FramesSettings(), FramesSettings(enabled=True)])
def test_late_frames_of_a_cine_are_masked_too(
    frames: FramesSettings, tmp_path: Path, key_file: Path, build: Build
) -> None:
    media = MediaSettings(frames=frames, video=VideoSettings(copy_jpeg=True, preset="lossless"))
    found = []
    for seed in (1, 2):
        values = np.concatenate([picture(7, 0, samples=3), picture(8, 0, samples=3), picture(9, seed, samples=3)])
        path = ultrasound(build, CODINGS["native RGB"], values, NumberOfFrames=3, FrameTime="40")
        folder = tmp_path / str(seed)
        found.append(published(run(path, folder, key_file, media), folder))
    assert found[0] == found[1]


@pytest.mark.parametrize(("pixels", "shown"), [("blank", {0}), ("allow", set(range(256)))])
def test_a_video_stream_is_encoded_anew_blank_or_whole(
    pixels: str, shown: set[int], tmp_path: Path, key_file: Path
) -> None:
    planted_file(tmp_path / "a.dcm", "video", 1)
    media = MediaSettings(video=VideoSettings(preset="lossless"))
    outcome = run(tmp_path / "a.dcm", tmp_path / "partial", key_file, media, pixels=pixels)
    assert isinstance(outcome, Exported)
    (medium,) = outcome.media
    assert medium.transcoded
    with av.open(str(tmp_path / "partial" / medium.file)) as container:
        values = {int(value) for frame in container.decode(video=0) for value in frame.to_ndarray(format="gray").flat}
        assert not container.streams.audio
    assert values <= shown
    assert (len(values) > 1) == (pixels == "allow")


def test_what_cannot_be_masked_exactly_is_refused_and_leaves_nothing(tmp_path: Path, key_file: Path) -> None:
    for kind in ("video", "capture", "segmentation"):
        planted_file(tmp_path / kind, kind, 1)
        folder = tmp_path / f"partial-{kind}"
        outcome = run(tmp_path / kind, folder, key_file)
        assert isinstance(outcome, Failed)
        assert outcome.reason is Reason.PRIVACY_UNKNOWN
        assert "step policy" in outcome.message
        assert outcome.identity is None
        assert list(folder.iterdir()) == []


def test_a_header_alone_leaves_where_no_media_are_wanted(tmp_path: Path, key_file: Path) -> None:
    planted_file(tmp_path / "a.dcm", "capture", 1)
    media = MediaSettings(media=MediaFolderSettings(enabled=False))
    outcome = run(tmp_path / "a.dcm", tmp_path / "partial", key_file, media)
    assert isinstance(outcome, Skipped)
    assert json.loads(outcome.record or "")["export"]["privacy"]["pixels"] is None


# -- what else is refused --------------------------------------------------------------------------------------------


def test_settings_whose_profile_was_not_loaded_let_nothing_pass(tmp_path: Path, key_file: Path) -> None:
    planted_file(tmp_path / "a.dcm", "ct", 1)
    section = PrivacySettings(profile="basic", key_file=key_file)
    settings = MediaSettings(privacy=section)
    outcome = protocol.run(
        pipeline.export(settings, "s" * 64, WorkerJob(str(tmp_path / "a.dcm"), str(tmp_path))), lambda _: None
    )
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.PRIVACY_UNKNOWN


def test_an_identifier_in_an_output_is_found_before_it_counts(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that shows what it must not: the name of the patient in a medium, as a defect of ours would."""
    planted_file(tmp_path / "a.dcm", "report", 1, PatientName="GROUSZEK^ALBERTINE")

    def leaking(path: Path, pieces: Any, batch: Any = None) -> Any:
        content = b"".join(pieces)
        return write_new(path, (content if content[:1] == b"{" else content + b"seen by Albertine Grouszek\n",), batch)

    monkeypatch.setattr("exporter.writers.report.write_new", leaking)
    outcome = run(tmp_path / "a.dcm", tmp_path / "partial", key_file)
    assert isinstance(outcome, Failed)
    assert outcome.reason is Reason.PRIVACY_UNKNOWN
    assert "verification: a medium" in outcome.message
    assert "Grouszek" not in outcome.message


def test_a_name_that_is_a_word_of_the_standard_refuses_no_report(tmp_path: Path, key_file: Path) -> None:
    planted_file(tmp_path / "a.dcm", "report", 1, PatientName="FINDINGS^ADA")
    assert isinstance(run(tmp_path / "a.dcm", tmp_path / "partial", key_file), Exported)


def test_another_key_shares_no_pseudonym_and_the_same_key_agrees(tmp_path: Path, key_file: Path) -> None:
    same = {"PatientID": "4711", "StudyInstanceUID": "1.2.3.4.5.6", "SeriesInstanceUID": "1.2.3.4.5.6.7"}
    planted_file(tmp_path / "a.dcm", "ct", 1, **same)
    planted_file(tmp_path / "b.dcm", "ecg", 1, **same)
    other = tmp_path / "other"
    other.write_bytes(KEY[::-1])
    other.chmod(0o600)
    found = []
    for number, (name, key) in enumerate([("a", key_file), ("b", key_file), ("a", other)]):
        outcome = run(tmp_path / f"{name}.dcm", tmp_path / f"partial-{number}", key, pixels="allow")
        assert isinstance(outcome, Exported)
        record = json.loads(outcome.record)
        found.append((record["Patient ID"], record["Study Instance UID"], outcome.identity.series_instance_uid))
    assert found[0] == found[1]
    assert not set(found[0]) & set(found[2])


def test_sound_is_refused(tmp_path: Path, key_file: Path) -> None:
    sound = (np.sin(np.arange(800) / 7) * 9000).astype("<i2")[:, np.newaxis]
    group = multiplex_group(sound, "SS", 8000.0, ChannelDefinitionSequence=[channel("voice")])
    path = save_waveform(tmp_path / "voice.dcm", [group], sop_class=VOICE)
    outcome = run(path, tmp_path / "partial", key_file, pixels="allow")
    assert isinstance(outcome, Failed)
    assert (outcome.reason, outcome.message) == (
        Reason.PRIVACY_UNKNOWN,
        "waveform: nothing cleans audio, and `privacy.permit` does not name it",
    )


def test_a_private_class_has_the_media_of_its_source_and_another_uid(
    tmp_path: Path, key_file: Path, build: Build
) -> None:
    private = "1.2.840.113619.4.30.99"
    made = CODINGS["native gray"].instance(build, picture(7, 1), SOPClassUID=private)
    made.close()
    outcome = run(made.path, tmp_path / "partial", key_file, pixels="allow")
    assert isinstance(outcome, Exported)
    assert outcome.media[0].kind is MediaType.IMAGE
    assert outcome.identity.sop_class_uid.startswith("2.25.")
    assert private not in outcome.record


def test_a_worker_refuses_a_key_that_was_changed_since_the_start(key_file: Path) -> None:
    section = PrivacySettings(profile="basic", key_file=key_file)
    settings = Settings(privacy=section)
    setup = WorkerSetup.of(settings)
    assert KEY.decode() not in json.dumps(setup.hello())
    pipeline.Pipeline(setup.settings)
    key_file.write_bytes(KEY[::-1])
    with pytest.raises(KeyChanged, match="was changed while the exporter runs"):
        pipeline.Pipeline(setup.settings)


# -- text in pictures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("line", "denied"), [("seen: GROUSZEK", True), ("12 Mar 2019", True), ("GAIN 62", False)])
def test_text_in_a_picture_denies_the_instance(
    line: str, denied: bool, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/tesseract"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{line}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    planted_file(tmp_path / "a.dcm", "ct", 1, PatientName="GROUSZEK^ALBERTINE")
    outcome = run(tmp_path / "a.dcm", tmp_path / "partial", key_file, ocr="tesseract")
    assert isinstance(outcome, Failed) == denied
    if isinstance(outcome, Failed):
        assert outcome.reason is Reason.PRIVACY_UNKNOWN
        assert outcome.message.startswith("text detection (tesseract): picture 1 shows")
    else:
        assert isinstance(outcome, Exported)
        assert json.loads(outcome.record)["export"]["privacy"]["text_detection"] == "tesseract"


def test_text_detection_that_is_not_installed_keeps_the_exporter_from_starting(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = Settings(privacy=PrivacySettings(profile="basic", key_file=key_file, ocr="tesseract"))
    with pytest.raises(TextDetectionMissing, match="not on the path") as refused:
        checked_fingerprint(settings)
    assert refused.value.exit_code == 2


# -- what stays ------------------------------------------------------------------------------------------------------


def test_at_least_eighty_elements_that_research_needs_stay_as_they_were(tmp_path: Path, key_file: Path) -> None:
    path, folder = tmp_path / "a.dcm", tmp_path / "partial"
    planted_file(path, "ct", 3, **KEPT_ELEMENTS)
    outcome = run(path, folder, key_file, pixels="allow")
    assert isinstance(outcome, Exported)
    with Instance.open(path, LimitSettings()) as instance:
        before = elements(instance.header)[0]
    after = json.loads(outcome.record)
    names = {dictionary_description(keyword) for keyword in KEPT_ELEMENTS}
    assert {name: after.get(name) for name in names} == {name: before[name] for name in names}
    assert len(names) >= 80


def test_pixels_that_are_not_masked_are_those_of_an_export_without_a_profile(tmp_path: Path, key_file: Path) -> None:
    planted_file(tmp_path / "a.dcm", "ct", 3, **KEPT_ELEMENTS)
    outcome = run(tmp_path / "a.dcm", tmp_path / "partial", key_file, EVERY_OUTPUT, pixels="allow")
    assert isinstance(outcome, Exported)
    (tmp_path / "plain").mkdir()
    steps = pipeline.export(EVERY_OUTPUT, "s" * 64, WorkerJob(str(tmp_path / "a.dcm"), str(tmp_path / "plain")))
    plain = protocol.run(steps, lambda _: None)
    assert isinstance(plain, Exported)
    assert [one.sha256 for one in outcome.media] == [one.sha256 for one in plain.media]


# -- every ultrasound image of the corpus, and kills -----------------------------------------------------------------


@pytest.mark.slow
def test_of_each_ultrasound_image_of_the_corpus_leaves_what_the_documents_say(
    tmp_path: Path, key_file: Path, corpus: Path
) -> None:
    rows = re.findall(r"^\| `(\S+)` \|.*\| `(\w+)` \| (\S+) \| \S+ \|.*\|$", SURVEY.read_text(), re.MULTILINE)
    assert len(rows) == 36
    for number, (name, step, kept) in enumerate(rows):
        outcome = run(corpus / name, tmp_path / str(number), key_file)
        if kept == "refused":
            assert isinstance(outcome, Failed), name
            assert outcome.reason is Reason.PRIVACY_UNKNOWN, name
        else:
            assert isinstance(outcome, Exported), (name, outcome)
            pixels = json.loads(outcome.record)["export"]["privacy"]["pixels"]
            assert (pixels["step"], f"{pixels['kept_share']:.1%}") == (step, kept), name


@pytest.mark.slow
def test_a_worker_that_is_killed_amid_a_masked_cine_leaves_no_frame_that_is_not_masked(
    tmp_path: Path, key_file: Path, build: Build
) -> None:
    """Killed whenever it opens, makes or renames something in its folder."""
    values = np.concatenate([picture(seed, seed, samples=3) for seed in range(4)])
    path = ultrasound(build, CODINGS["native RGB"], values, NumberOfFrames=4, FrameTime="40", PatientName="GROUSZEK^A")
    media = MediaSettings(frames=FramesSettings(enabled=True))
    hidden = ~area().mask()
    pictures = 0
    for point in range(10_000):
        folder = tmp_path / str(point)
        child = os.fork()
        if child == 0:
            die_at(point, folder)
            run(path, folder, key_file, media)
            os._exit(0)
        is_done = os.waitpid(child, 0)[1] == 0
        for file in folder.rglob("*"):
            if file.suffix == ".png" and file.stat().st_size:
                with suppress(OSError), Image.open(file) as image:  # of a cut one nothing can be seen
                    assert not np.asarray(image)[hidden].any(), (point, file)
                    pictures += 1
            assert not file.is_file() or b"grouszek" not in file.read_bytes().lower()
        if is_done:
            break
    assert is_done
    assert point > 5
    assert pictures > 5


def die_at(point: int, folder: Path) -> None:
    """Kill this process when something below a folder is opened, made or renamed for the `point`th time."""
    left = [point]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        is_file_call = event == "open" or event.startswith("os.")
        if is_file_call and any(str(one).startswith(str(folder)) for one in arguments[:2]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_explain_says_the_step_of_the_ladder(tmp_path: Path, key_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    planted_file(tmp_path / "a.dcm", "cine", 1)
    planted_file(tmp_path / "b.dcm", "capture", 1)
    config = tmp_path / "exporter.yml"
    config.write_text(f"privacy: {{profile: basic, key_file: {key_file}}}\n")
    assert main(["explain", str(tmp_path / "a.dcm"), "--config", str(config), "--json"]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["pixels_kept"].startswith("step ultrasound_regions: the ultrasound regions are kept; 41.7% of")
    assert "TOK" not in json.dumps(facts)
    assert main(["explain", str(tmp_path / "b.dcm"), "--config", str(config)]) == 3
    assert "would fail: privacy_unknown: the pixels may not leave" in capfd.readouterr().out
