"""Instances with a profile: what identifies is in no output, what cannot be cleaned is refused, the rest stays."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from pydicom.dataset import Dataset

from exporter.errors import Reason
from exporter.outcome import Exported, Failed, Skipped, to_json
from exporter.privacy.key import KeyChanged
from exporter.privacy.profile import PrivacyProfile
from exporter.settings.settings import (
    FramesSettings,
    ImageSettings,
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
from tests.exporter.privacy.pixels.test_masked import CODINGS, KEPT, Coding, picture

if TYPE_CHECKING:
    from pathlib import Path

    from exporter.outcome import Outcome
    from tests.exporter.frames.conftest import Build

__all__ = ["build"]

KEY = b"a key of more than thirty-two bytes, for tests"
REFUSED = {"document"}
"""Kinds of which nothing may leave, whatever the policy for pixels."""
WITHOUT_MEDIA = {"presentation", "structures"}


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
    steps = pipeline.export(settings, "s" * 64, WorkerJob(str(path), str(folder)), profile)
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


def test_a_worker_refuses_a_key_that_was_changed_since_the_start(key_file: Path) -> None:
    section = PrivacySettings(profile="basic", key_file=key_file)
    settings = Settings(privacy=section)
    setup = WorkerSetup.of(settings)
    assert KEY.decode() not in json.dumps(setup.hello())
    pipeline.Pipeline(setup.settings)
    key_file.write_bytes(KEY[::-1])
    with pytest.raises(KeyChanged, match="was changed while the exporter runs"):
        pipeline.Pipeline(setup.settings)
