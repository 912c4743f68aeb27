"""Lines of several exporters become one line for each instance, whichever of them has exported it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from exporter.commands.app import main
from tests.exporter.tables.synthetic import made_line, write_lines

if TYPE_CHECKING:
    from pathlib import Path


def line(name: str, uid: str, content: str, **about: Any) -> dict[str, Any]:
    medium = {"path": f"{uid}.png", "kind": "image"}
    export = {"content_sha256": content, "media": [medium], **about}
    return made_line(name, export=export, media_file=medium["path"], **{"SOP Instance UID": uid})


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    first = [line("1", "1.1", "x"), line("2", "1.2", "y"), line("3", "1.3", "old"), line("3", "1.3", "z")]
    second = [
        line("1", "1.1", "x"),
        line("2", "1.2", "other"),
        line("4", "1.4", "w", duplicate_of="2"),
        line("5", "1.5", "z"),
    ]
    for name, lines in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "metadata.jsonl", lines)
    return [f"{name}={tmp_path / name}" for name in ("a", "b")]


def combined(tmp_path: Path, *folders: str) -> list[dict[str, Any]]:
    assert main(["metadata", "combine", *folders, "--to", str(tmp_path / "all.jsonl")]) == 0
    return [json.loads(text) for text in (tmp_path / "all.jsonl").read_text().splitlines()]


def test_of_lines_with_one_content_the_first_stays_and_names_say_which_folder(
    tmp_path: Path, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = combined(tmp_path, *folders)
    assert [one["dicom_file"] for one in lines] == ["a/1", "a/2", "a/3", "b/2", "b/4"]
    assert [one["media_file"] for one in lines] == ["a/1.1.png", "a/1.2.png", "a/1.3.png", "b/1.2.png", "b/1.4.png"]
    assert [one["export"]["media"][0]["path"] for one in lines] == [one["media_file"] for one in lines]
    assert lines[3]["export"]["conflict_with"] == "a/2"
    assert lines[4]["export"]["duplicate_of"] == "b/2"
    assert "5 instances" in (said := capsys.readouterr().out)
    assert "2 duplicates left out; 1 in conflict" in said
    assert next(one["dicom_file"] for one in combined(tmp_path, *reversed(folders))) == "b/1"


def test_a_combined_file_is_one_that_tables_are_made_of(tmp_path: Path, folders: list[str]) -> None:
    combined(tmp_path, *folders)
    assert main(["metadata", "mapping", str(tmp_path / "all.jsonl"), "--to", str(tmp_path / "m.csv")]) == 0
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize("words", [[], ["a"], ["a=", "b=x"], ["=x"], ["a={0}/a", "a={0}/b"]])
def test_folders_without_a_name_of_their_own_are_refused(tmp_path: Path, folders: list[str], words: list[str]) -> None:
    assert folders
    given = [word.format(tmp_path) for word in words]
    assert main(["metadata", "combine", *given, "--to", str(tmp_path / "all.jsonl")]) != 0
    assert not (tmp_path / "all.jsonl").exists()
