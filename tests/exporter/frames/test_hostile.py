"""Mutants of real files: whatever comes, only `exporter.errors` come out, in bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file

from exporter.dicom.instance import Instance
from exporter.errors import TooLarge
from exporter.frames import open_frames
from exporter.settings.settings import LimitSettings
from tests.product.hostile import JPEG_BASELINE, costly_files, encapsulated, jpeg_scans, tiny_frames

# Small files of every kind of pixel data that pydicom carries with it.
SEEDS = (
    *("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_16.dcm"),
    *("SC_rgb_small_odd_jpeg.dcm", "SC_rgb_gdcm_KY.dcm", "SC_rgb_rle_16bit_2frame.dcm", "rtdose_rle.dcm"),
    *("examples_overlay.dcm", "image_dfl.dcm", "liver_1frame.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_jpeg_gdcm.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "rtdose.dcm", "ExplVR_BigEnd.dcm", "nested_priv_SQ.dcm", "test-SR.dcm"),
)

MUTATE = """
import json, random, resource, sys, time
from collections import Counter
from pathlib import Path
from exporter.errors import ExportError, SkipInstance
from exporter.frames import DisplayOptions, open_frames
from exporter.dicom.instance import Instance
from exporter.settings.settings import LimitSettings

folder, seed, count, *paths = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
limits = LimitSettings(max_frame_pixels=1 << 24, max_frames=1000, max_inflated_bytes=64 << 20)
chance, outcomes, foreign, slowest = random.Random(int(seed)), Counter(), [], 0.0
target = Path(folder) / "mutant"

def mutated(content, edge):
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        where = chance.random()
        if where < 0.5:
            at = chance.randrange(min(len(content), edge))
        elif where < 0.8:
            at = min(len(content) - 1, edge + chance.randrange(400))
        else:
            at = chance.randrange(len(content))
        how = chance.random()
        if how < 0.5:
            content[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif how < 0.7:
            word = chance.choice((0xFFFFFFFF, 0, 0x7FFFFFFF, 0xE000FFFE, 0xE0DDFFFE))
            content[at : at + 4] = word.to_bytes(4, "little")
        elif how < 0.8:
            del content[at : at + chance.choice((1, 2, 8, 100))]
        elif how < 0.97:
            content[at:at] = content[at : at + chance.choice((1, 2, 8, 200))]
        else:
            del content[at + 1 :]
    return bytes(content) or b"?"

def handle(path):
    with Instance.open(path, limits) as instance:
        instance.identity
        if instance.pixels is None:
            return "no pixels"
        frames = open_frames(instance, limits)
        frames.icc_profile, frames.pixel_aspect_ratio
        if frames.is_video_stream:
            frames.open_stream().read(1000)
            return "video"
        for values in (frames.stored(), frames.display(DisplayOptions(overlays=True))):
            for _, _ in zip(range(4), values):
                pass
        frames.rendering
        return "decoded"

contents = [Path(p).read_bytes() for p in paths]
edges = [content.find(bytes((0xE0, 0x7F, 0x10, 0))) + 12 for content in contents]
for number in range(int(count)):
    which = chance.randrange(len(contents))
    target.write_bytes(mutated(contents[which], max(edges[which], 200)))
    started = time.process_time()
    try:
        outcomes[handle(target)] += 1
    except (ExportError, SkipInstance) as error:
        outcomes[error.reason.value] += 1
    except Exception as error:
        foreign.append(f"{Path(paths[which]).name}, mutant {number}: {error!r}")
    slowest = max(slowest, time.process_time() - started)
print(json.dumps({"outcomes": outcomes, "foreign": foreign, "slowest_s": slowest,
                  "peak_kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def mutate(folder: Path, seed: int, count: int) -> dict[str, Any]:
    paths = [get_testdata_file(name) for name in SEEDS]
    result = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            MUTATE,
            str(folder),
            str(seed),
            str(count),
            *(str(p) for p in paths if p),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert result.returncode == 0, f"the process died ({result.returncode}): {result.stderr[-1000:]}"
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(("seed", "count"), [(1, 500), pytest.param(2, 4000, marks=pytest.mark.slow)])
def test_mutants_end_in_a_picture_or_a_named_reason(tmp_path: Path, seed: int, count: int) -> None:
    found = mutate(tmp_path, seed, count)
    assert found["foreign"] == []
    assert sum(found["outcomes"].values()) == count
    assert {"decoded", "unreadable", "corrupt_pixels"} <= found["outcomes"].keys()
    assert found["slowest_s"] < 10
    assert found["peak_kib"] < 1 << 20


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frames-1-pixel", "limits.min_frame_bytes"),
        ("deflate-frames", "limits.min_frame_bytes"),
        ("jpeg-20000-scans", "limits.max_jpeg_scans"),
    ],
)
def test_small_files_of_very_many_parts_are_refused_for_them(name: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "many.dcm"
    path.write_bytes(costly_files()[name]())
    with Instance.open(path, LimitSettings()) as instance, pytest.raises(TooLarge, match=said):
        next(open_frames(instance, LimitSettings()).display())


def test_honest_counts_of_frames_and_scans_pass(tmp_path: Path) -> None:
    """Ten thousand frames of a cine, a hundred thousand tiles of a slide, a progressive JPEG."""
    path = tmp_path / "honest.dcm"
    for content in (tiny_frames(10_000, 16), tiny_frames(100_000, 8), encapsulated(JPEG_BASELINE, jpeg_scans(0, 64))):
        path.write_bytes(content)
        with Instance.open(path, LimitSettings()) as instance:
            assert next(open_frames(instance, LimitSettings()).display()).size
