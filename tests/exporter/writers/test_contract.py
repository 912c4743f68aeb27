"""The one suite that every registered writer must pass, on real instances of the corpus."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.dicom.instance import Instance
from exporter.errors import ExportError, SkipInstance
from exporter.outcome import MediaType
from exporter.settings.settings import MediaSettings
from exporter.writers import choose, registry
from exporter.writers.contract import InstancePart, Writer, WriterTask, Written
from tests.exporter.writers.sampled import VOICE, channel, multiplex_group, save_waveform

DOCUMENTATION = Path(__file__).resolve().parents[3] / "docs/media.md"
WRITERS = registry()
MOST_INSTANCES = 3
SETTINGS = MediaSettings()
WANTED = {"FramesWriter": MediaSettings.model_validate({"frames": {"enabled": True}})}
"""Settings that ask for what is off by default."""


def name_of(writer: Writer) -> str:
    return type(writer).__name__


@pytest.fixture(scope="module")
def instances(
    corpus: Path, corpus_catalog: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Path]]:
    """The smallest instances of the corpus that each writer fits best and writes; sound is made: there is none."""
    found: dict[str, list[Path]] = defaultdict(list)
    for row in sorted(corpus_catalog, key=lambda row: int(row["bytes"])):
        path = corpus / row["file"]
        for settings in (SETTINGS, *WANTED.values()):
            try:
                with Instance.open(path, settings.limits) as instance:
                    name = name_of(choose(instance, settings))
            except (ExportError, SkipInstance):
                continue
            readable = row.get("pixel_decode_ok", True) or not row.get("has_pixeldata")
            if readable and settings == WANTED.get(name, SETTINGS):
                found[name].append(path)
    sound = (np.sin(np.arange(800) / 7) * 9000).astype("<i2")[:, np.newaxis]
    group = multiplex_group(sound, "SS", 8000.0, ChannelDefinitionSequence=[channel("voice")])
    folder = tmp_path_factory.mktemp("made")
    found["AudioWriter"].append(save_waveform(folder / "voice.dcm", [group], sop_class=VOICE))
    return {name: paths[:MOST_INSTANCES] for name, paths in found.items()}


def written(writer: Writer, path: Path, folder: Path) -> Written:
    folder.mkdir()
    settings = WANTED.get(name_of(writer), SETTINGS)
    with Instance.open(path, settings.limits) as instance:
        return writer.write(WriterTask(instance, folder, settings))


@pytest.fixture(params=WRITERS, ids=name_of)
def writer(request: pytest.FixtureRequest) -> Writer:
    found: Writer = request.param
    return found


@pytest.fixture
def samples(writer: Writer, instances: dict[str, list[Path]]) -> list[Path]:
    paths = instances.get(name_of(writer), [])
    if not paths:
        pytest.fail(f"no instance for {name_of(writer)}: a writer is shown by what it writes")
    return paths


def hash_of(path: Path) -> tuple[int, str]:
    """Size and hash as `MediaFile` defines them, of a file or of a folder."""
    if path.is_file():
        return path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    lines = sorted(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(path).as_posix()}\n" for p in files)
    return sum(p.stat().st_size for p in files), hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_writer_names_its_kind_and_scores_every_instance_by_its_header_alone(
    writer: Writer, corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    assert isinstance(writer.kind, MediaType)
    for row in corpus_catalog:
        try:
            with Instance.open(corpus / row["file"], SETTINGS.limits) as instance:
                score = writer.score(instance, SETTINGS)
        except (ExportError, SkipInstance):
            continue
        assert score is None or score >= 0


def test_what_is_written_is_what_is_said(writer: Writer, samples: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(samples):
        folder = tmp_path / str(number)
        result = written(writer, path, folder)
        assert result.media
        assert sorted(p.name for p in folder.iterdir()) == sorted(m.file for m in result.media)
        for medium in result.media:
            assert medium.file.endswith(".part"), "a partial name has no media extension"
            assert (medium.bytes, medium.sha256) == hash_of(folder / medium.file)
            assert medium.bytes > 0
            assert medium.suffix.startswith(".") or medium.suffix.endswith("/")
            assert (folder / medium.file).is_dir() == medium.suffix.endswith("/")
        assert len({m.suffix for m in result.media}) == len(result.media)


def test_the_same_instance_gives_the_same_bytes(writer: Writer, samples: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(samples):
        first = written(writer, path, tmp_path / f"a{number}")
        second = written(writer, path, tmp_path / f"b{number}")
        assert first == second


def test_the_instance_is_not_touched(writer: Writer, samples: list[Path], tmp_path: Path) -> None:
    for number, path in enumerate(samples):
        before = (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest())
        written(writer, path, tmp_path / str(number))
        assert (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()) == before


def test_an_instance_cut_anywhere_gives_an_error_of_ours_or_a_result_that_says_so(
    writer: Writer, samples: list[Path], tmp_path: Path
) -> None:
    whole = samples[0].read_bytes()
    for number, part in enumerate((0.2, 0.5, 0.8, 0.95, 0.999)):
        cut = tmp_path / f"cut{number}"
        cut.write_bytes(whole[: int(len(whole) * part)])
        folder = tmp_path / f"out{number}"
        folder.mkdir()
        settings = WANTED.get(name_of(writer), SETTINGS)
        try:
            with Instance.open(cut, settings.limits) as instance:
                if writer.score(instance, settings) is None:
                    continue
                result = writer.write(WriterTask(instance, folder, settings))
                told = [*result.warnings, *instance.warnings, *(result.rendering.notes if result.rendering else ())]
        except (ExportError, SkipInstance):
            continue
        assert told, f"cut at {part:.1%} and nothing said"


COMPETING = [
    MediaSettings.model_validate({"frames": {"enabled": enabled}, "volume": {"enabled": volume}, "video": video})
    for enabled in (False, True)
    for volume in (False, True)
    for video in ({}, {"untimed": "video"})
]
"""Every combination of the settings that scores depend on."""


@pytest.mark.parametrize("settings", COMPETING, ids=map(str, range(len(COMPETING))))
def test_writers_of_one_part_never_have_the_same_score_whatever_their_kind(
    settings: MediaSettings, corpus: Path, corpus_catalog: list[dict[str, Any]]
) -> None:
    compared = 0
    for row in corpus_catalog:
        try:
            with Instance.open(corpus / row["file"], settings.limits) as instance:
                for part in InstancePart:
                    scores = [writer.score(instance, settings) for writer in WRITERS if writer.part is part]
                    fitting = [score for score in scores if score is not None]
                    assert len(set(fitting)) == len(fitting), row["file"]
                    compared += len(fitting) > 1
        except (ExportError, SkipInstance):
            continue
    assert compared, "no instance that several writers fit"


def test_the_documentation_has_the_scores_that_decide(
    instances: dict[str, list[Path]],
) -> None:
    rows = re.findall(r"^\| [a-z ]*\| (\w+) \| (\d+)", DOCUMENTATION.read_text(), re.MULTILINE)
    documented = dict(rows)
    for writer in WRITERS:
        settings = WANTED.get(name_of(writer), SETTINGS)
        with Instance.open(instances[name_of(writer)][0], settings.limits) as instance:
            assert writer.score(instance, settings) == int(documented[writer.kind]), writer.kind
