"""Each key of the DICOM Media Exporter's `config.yml` has its documented effect, from end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydicom import examples

from tests.product.running import run

if TYPE_CHECKING:
    from pathlib import Path

STILL = "one/still.dcm"
CINE = "cine.dcm"
FRAMES = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a colour cine of 30 frames, and a CT image one level down."""
    root = tmp_path_factory.mktemp("in")
    (root / "one").mkdir()
    shutil.copy(examples.get_path("ybr_color"), root / CINE)
    shutil.copy(examples.get_path("ct"), root / STILL)
    return root


class Seed:
    """A configuration of the seed, changed in one key, and what comes out of it."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.out = out
        self.media = out / "media"
        self.lines_file = out / "lines.jsonl"
        self.config = out / "config.yml"
        self.data: dict[str, Any] = {
            "num_workers": 0,  # quickest for two files
            "dicom": {"dir": str(folder), "recursive": True},
            "media": {"dir": str(self.media), "overwrite": False},
            "metadata": {"file": str(self.lines_file), "append": False},
            "config": {"file": str(out / "copy.yml")},
            "video": {
                "extension": ".mp4",
                "save_method_kwargs": {
                    "encoding_format": "h264",
                    "encoding_args": {"pix_fmt": "yuv420p", "options": {"crf": "17"}},
                },
            },
            "image": {"extension": ".png", "save_method_kwargs": {"pil_writer_params": {}}},
        }

    def run(self, *arguments: object, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """`exporter backfill --config config.yml`."""
        self.config.write_text("# mine\n" + yaml.safe_dump(self.data, sort_keys=False))
        done = run("backfill", "--config", self.config, *arguments)
        assert done.returncode == expect, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def files(self) -> set[str]:
        """Media files, relative to the media folder."""
        found = {str(path.relative_to(self.media)) for path in self.media.rglob("*") if path.is_file()}
        return {name for name in found if not name.startswith("exporter.db")}

    def lines(self) -> list[dict[str, Any]]:
        """Metadata lines."""
        return [json.loads(line) for line in self.lines_file.read_text().splitlines()]

    def stream(self, name: str) -> Any:
        """The video stream of a media file, as FFmpeg sees it: (codec, pix_fmt, frames, keyframes, container)."""
        import av

        with av.open(str(self.media / name)) as container:
            stream = container.streams.video[0]
            keys = [bool(packet.is_keyframe) for packet in container.demux(stream) if packet.size]
            context = stream.codec_context
            return context.name, context.pix_fmt, len(keys), sum(keys), container.format.name


@pytest.fixture
def seed(folder: Path, tmp_path: Path) -> Seed:
    return Seed(folder, tmp_path)


def test_the_seeds_file_mirrors_the_tree_and_writes_one_line_per_instance(seed: Seed) -> None:
    seed.data["num_workers"] = 4
    seed.run()
    assert seed.files() == {"cine.mp4", "one/still.png"}
    lines = {line["dicom_file"]: line for line in seed.lines()}
    assert set(lines) == {CINE, STILL}
    assert (lines[CINE]["media_file"], lines[CINE]["media_type"]) == ("cine.mp4", "video")
    assert (lines[STILL]["media_file"], lines[STILL]["media_type"]) == ("one/still.png", "image")
    assert lines[STILL]["Modality"] == "CT"
    assert seed.stream("cine.mp4")[:3] == ("h264", "yuv420p", FRAMES)
    for command in ("status", "failures", "reconcile"):
        done = run(command, "--data", seed.media, "--config", seed.config)
        assert done.returncode == 0, done.stdout


_COUNTING = """
import subprocess, sys
from listener.foundation.fork_server import ForkServer
started, workers = [], []
class Counting(subprocess.Popen):
    def __init__(self, *arguments, **options):
        started.append(arguments)
        super().__init__(*arguments, **options)
def fork(server, real=ForkServer.fork):
    workers.append(real(server))
    return workers[-1]
subprocess.Popen, ForkServer.fork = Counting, fork
from exporter.commands.app import main
code = main(sys.argv[1:])
print("started", len(started), "with", len(workers), "copies")
sys.exit(code)
"""


@pytest.mark.parametrize(("workers", "servers"), [(0, 0), (1, 1), (2, 1)])
def test_num_workers_is_the_number_of_worker_processes_copied_from_one_server(
    seed: Seed, workers: int, servers: int
) -> None:
    seed.data["num_workers"] = workers
    seed.config.write_text(yaml.safe_dump(seed.data))
    command = [sys.executable, "-c", _COUNTING, "backfill", "--config", str(seed.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"started {servers} with {workers} copies"
    assert seed.files() == {"cine.mp4", "one/still.png"}


def test_workers_of_the_command_line_win_over_num_workers(seed: Seed) -> None:
    seed.data["num_workers"] = 2
    seed.config.write_text(yaml.safe_dump(seed.data))
    command = [sys.executable, "-c", _COUNTING, "backfill", "--config", str(seed.config), "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines()[-1] == "started 0 with 0 copies"


def test_dicom_dir_is_what_is_read_unless_the_command_line_names_another(seed: Seed, folder: Path) -> None:
    seed.data["dicom"]["dir"] = str(folder / "one")
    seed.run()
    assert seed.files() == {"still.png"}
    assert [line["dicom_file"] for line in seed.lines()] == ["still.dcm"]
    seed.data["dicom"]["dir"] = "nowhere"
    seed.run(folder / "one")
    assert seed.files() == {"still.png"}


def test_dicom_recursive_false_leaves_the_folders_below_alone(seed: Seed) -> None:
    seed.data["dicom"]["recursive"] = False
    seed.run()
    assert seed.files() == {"cine.mp4"}


def test_media_dir_is_where_media_go_also_with_an_output_folder(seed: Seed, tmp_path: Path) -> None:
    seed.data["media"]["dir"] = str(tmp_path / "elsewhere")
    seed.media = tmp_path / "elsewhere"
    seed.run("--output", tmp_path / "out")
    assert seed.files() == {"cine.mp4", "one/still.png"}
    assert (tmp_path / "out/exporter.db").is_file()
    assert not (tmp_path / "out/media").exists()
    assert run("status", "--data", tmp_path / "out").returncode == 0
    assert run("reconcile", "--data", tmp_path / "out", "--config", seed.config).returncode == 0


def test_media_overwrite_decides_about_files_that_are_there_already(seed: Seed) -> None:
    taken = seed.media / "one/still.png"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    seed.run()
    assert taken.read_bytes() == b"somebody else's"
    (line,) = [line for line in seed.lines() if line["dicom_file"] == STILL]
    assert line["media_file"] != "one/still.png"
    assert (seed.media / line["media_file"]).read_bytes().startswith(b"\x89PNG")


def test_media_overwrite_true_replaces_files_that_are_there_already(seed: Seed) -> None:
    taken = seed.media / "one/still.png"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"somebody else's")
    seed.data["media"]["overwrite"] = True
    seed.run()
    assert taken.read_bytes().startswith(b"\x89PNG")
    assert seed.files() == {"cine.mp4", "one/still.png"}


def test_metadata_file_is_where_lines_go(seed: Seed, tmp_path: Path) -> None:
    seed.lines_file = tmp_path / "deep/er/all.jsonl"
    seed.data["metadata"]["file"] = str(seed.lines_file)
    seed.run()
    assert len(seed.lines()) == 2
    assert not list(seed.media.rglob("*.jsonl"))


def test_metadata_append_false_refuses_a_file_with_lines_of_others(seed: Seed) -> None:
    seed.lines_file.write_text('{"of": "others"}\n')
    done = seed.run(expect=1)
    assert "it holds lines that this exporter did not write" in done.stderr
    assert "metadata.append" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert seed.lines_file.read_text() == '{"of": "others"}\n'
    assert not seed.media.exists()


def test_metadata_append_true_continues_a_file_with_lines_of_others(seed: Seed) -> None:
    seed.lines_file.write_text('{"of": "others"}\n')
    seed.data["metadata"]["append"] = True
    seed.run()
    first, *rest = seed.lines()
    assert first == {"of": "others"}
    assert len(rest) == 2


def test_running_again_adds_neither_media_nor_lines(seed: Seed) -> None:
    seed.run()
    before = (seed.files(), seed.lines_file.read_bytes())
    assert "exported 0; unchanged 2" in seed.run().stdout
    assert (seed.files(), seed.lines_file.read_bytes()) == before


def test_config_file_gets_a_copy_of_the_configuration(seed: Seed) -> None:
    copy = seed.out / "deep/copy.yml"
    seed.data["config"]["file"] = str(copy)
    seed.run()
    assert copy.read_bytes() == seed.config.read_bytes()
    assert copy.read_text().startswith("# mine\n")
    seed.data["num_workers"] = 1
    seed.run()
    assert yaml.safe_load(copy.read_text())["num_workers"] == 1
    assert [path.name for path in copy.parent.iterdir()] == ["copy.yml"]


def test_config_file_may_be_the_configuration_itself(seed: Seed) -> None:
    seed.data["config"]["file"] = str(seed.config)
    seed.run()
    assert yaml.safe_load(seed.config.read_text()) == seed.data


def test_video_extension_selects_the_container(seed: Seed) -> None:
    seed.data["video"]["extension"] = ".mkv"
    seed.run()
    assert "cine.mkv" in seed.files()
    assert "matroska" in seed.stream("cine.mkv")[4]


def test_encoding_format_selects_the_encoder(seed: Seed) -> None:
    seed.data["video"]["save_method_kwargs"] = {
        "encoding_format": "hevc",
        "encoding_args": {"pix_fmt": "yuv420p", "options": {"crf": 20, "preset": "ultrafast"}},
    }
    seed.run()
    assert seed.stream("cine.mp4")[:3] == ("hevc", "yuv420p", FRAMES)


def test_pix_fmt_is_the_pixel_format_of_the_stream(seed: Seed) -> None:
    seed.data["video"]["save_method_kwargs"]["encoding_args"]["pix_fmt"] = "yuv444p"
    seed.run()
    assert seed.stream("cine.mp4")[1] == "yuv444p"


@pytest.mark.slow
def test_options_reach_the_encoder(seed: Seed, folder: Path, tmp_path: Path) -> None:
    other = Seed(folder, tmp_path / "other")
    other.out.mkdir()
    other.data["video"]["save_method_kwargs"]["encoding_args"]["options"] = {"crf": "28"}
    seed.run()
    other.run()
    assert (other.media / "cine.mp4").stat().st_size < 0.7 * (seed.media / "cine.mp4").stat().st_size


def test_any_other_stream_attribute_reaches_the_encoder(seed: Seed) -> None:
    seed.data["video"]["save_method_kwargs"]["encoding_args"]["gop_size"] = 1
    seed.run()
    assert seed.stream("cine.mp4")[2:4] == (FRAMES, FRAMES)


def test_image_extension_selects_the_format(seed: Seed) -> None:
    seed.data["image"]["extension"] = ".jpg"
    seed.run()
    assert (seed.media / "one/still.jpg").read_bytes().startswith(b"\xff\xd8\xff")


@pytest.mark.slow
def test_pil_writer_params_reach_pillow(seed: Seed, folder: Path, tmp_path: Path) -> None:
    other = Seed(folder, tmp_path / "other")
    other.out.mkdir()
    for one, quality in ((seed, 98), (other, 60)):
        one.data["image"] = {"extension": ".jpg", "save_method_kwargs": {"pil_writer_params": {"quality": quality}}}
        one.run()
    assert (other.media / "one/still.jpg").stat().st_size < 0.7 * (seed.media / "one/still.jpg").stat().st_size


def test_a_changed_setting_exports_anew_under_the_same_names(seed: Seed) -> None:
    seed.run()
    before = (seed.media / "cine.mp4").stat().st_size
    seed.data["video"]["save_method_kwargs"]["encoding_args"]["options"]["crf"] = "28"
    assert "exported 2" in seed.run().stdout
    assert seed.files() == {"cine.mp4", "one/still.png"}
    assert (seed.media / "cine.mp4").stat().st_size < before


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("video.extension", ".xyz", "video.extension: '.xyz' selects no container (permitted: .mp4"),
        ("image.extension", ".xyz", "image.extension: '.xyz' selects no format (permitted: .png"),
        ("video.save_method_kwargs.encoding_format", "h2645", "FFmpeg has no encoder 'h2645' (did you mean h264"),
        ("video.save_method_kwargs.encoding_args.pix_fmt", "yuv999", "libx264 takes no 'yuv999' (permitted: "),
        ("video.save_method_kwargs.encoding_args.bitrate", 3, "encoding_args: bitrate cannot be set (permitted:"),
        ("video.save_method_kwargs.encoding_args.options.crff", 3, "options.crff: libx264 knows no such option"),
        ("image.save_method_kwargs.pil_writer_params.quality", "x", "pil_writer_params"),
    ],
)
def test_what_no_encoder_takes_is_told_before_anything_is_written(
    seed: Seed, path: str, value: object, message: str
) -> None:
    *above, last = path.split(".")
    section = seed.data
    for name in above:
        section = section[name]
    if last == "quality":
        seed.data["image"]["extension"] = ".jpg"
    section[last] = value
    done = seed.run(expect=2)
    assert message in done.stderr
    assert all(line.startswith(f"{seed.config}:") for line in done.stderr.splitlines())
    assert not seed.media.exists()
    assert not (seed.out / "copy.yml").exists()
