"""Every entry of a folder is found once, links are never entered; output names mirror it and are safe."""

from __future__ import annotations

import os
import socket
import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import OutOfSpace
from exporter.inputs import walk as walk_module
from exporter.inputs.walk import FileKind, Outputs, count, walk
from exporter.results.output_names import identity_base, output_bases, uid_component

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = Outputs(frozenset())
UIDS = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3", "SOPInstanceUID": "1.4", "SOPClassUID": "1.5"}


def names(root: Path, outputs: Outputs = NOTHING, *, recursive: bool = True) -> list[str]:
    return [found.name for found in walk(root, outputs, recursive=recursive)]


def test_every_file_at_any_depth_is_found_once_in_order(tmp_path: Path) -> None:
    for name in ("b", "a.dcm", "x/y/z/deep", "x/1", ".hidden", "x y/ü.IMA"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    (tmp_path / "empty").mkdir()
    assert names(tmp_path) == [".hidden", "a.dcm", "b", "x y/ü.IMA", "x/1", "x/y/z/deep"]
    assert names(tmp_path, recursive=False) == [".hidden", "a.dcm", "b"]
    assert list(count(tmp_path, NOTHING)) == [6]
    found = next(walk(tmp_path, NOTHING))
    assert (found.kind, found.size_bytes) == (FileKind.REGULAR, 5)
    assert found.mtime_ns == found.path.stat().st_mtime_ns


def test_links_and_what_is_no_file_are_named_and_never_entered(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "in"
    root.mkdir()
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "socket"))
        kinds = {found.name: found.kind for found in walk(root, NOTHING)}
    assert kinds == dict.fromkeys(("folder", "file", "loop", "fifo", "socket"), FileKind.OTHER)
    assert [*count(root, NOTHING)][-1] == 5


def test_an_output_that_is_made_while_the_input_is_searched_is_not_input(tmp_path: Path) -> None:
    outputs = Outputs.among((tmp_path / "media",), ())
    (tmp_path / "media" / ".partial").mkdir(parents=True)
    (tmp_path / "media" / ".partial" / "0.part").touch()
    (tmp_path / "media.old").mkdir()
    (tmp_path / "media.old" / "a").touch()
    assert names(tmp_path, outputs) == ["media.old/a"]
    assert [*count(tmp_path, outputs)][-1] == 1


def test_the_output_inside_the_input_is_not_input(tmp_path: Path) -> None:
    (tmp_path / "out" / "media").mkdir(parents=True)
    (tmp_path / "out" / "media" / "a.png").touch()
    (tmp_path / "a").touch()
    assert names(tmp_path, Outputs.among((tmp_path / "out",), ())) == ["a"]
    for name in ("exporter.db", "exporter.db-wal", "metadata.jsonl", "metadata.txt"):
        (tmp_path / name).touch()
    outputs = Outputs.among((tmp_path / "out",), (tmp_path / "exporter.db", tmp_path / "metadata.jsonl"))
    assert names(tmp_path, outputs) == ["a", "metadata.txt"]
    assert [*count(tmp_path, outputs)][-1] == 2


def test_a_file_whose_name_merely_begins_like_an_output_is_input(tmp_path: Path) -> None:
    for name in ("meta", "meta.lock", "meta.kept-1", "meta001", "metabolic/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path, Outputs.among((), (tmp_path / "meta",))) == ["meta001", "metabolic/1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    assert [(found.name, found.kind) for found in walk(tmp_path, NOTHING)] == [("closed/", FileKind.UNREADABLE)]


def test_a_tree_deeper_than_a_path_may_be_ends_with_a_named_folder(tmp_path: Path) -> None:
    here, name = os.open(tmp_path, os.O_RDONLY), "d" * 200
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (found,) = walk(tmp_path, NOTHING)
    assert found.kind is FileKind.UNREADABLE
    assert found.name.startswith(f"{name}/{name}/")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        names(tmp_path / "absent")


@pytest.mark.parametrize("in_memory", [7, 50, 51, 10_000])
def test_a_folder_of_any_size_has_one_order_whatever_the_file_system_lists_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    monkeypatch.setattr(walk_module, "SORTED_ENTRIES", in_memory)
    wanted = [f"{number:03d}" for number in range(46)] + ["Z", "a", "\xff", "\U00010000"]
    for name in sorted(wanted, key=hash):
        (tmp_path / name).touch()
    assert names(tmp_path) == wanted


def test_without_room_for_sorting_a_large_folder_the_disk_is_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk_module, "SORTED_ENTRIES", 1)
    (tmp_path / "a").touch()

    def refuse(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with pytest.raises(OutOfSpace, match="large folder"):
        names(tmp_path)


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("a/b/c.dcm", ("a/b/c", "a/b/c.dcm")),
        ("B.DiCoM", ("B", "B.DiCoM")),
        ("1.2.840.1", ("1.2.840.1", "1.2.840.1")),
        ("IM0001", ("IM0001", "IM0001")),
        ("x.ima", ("x", "x.ima")),
        (".dcm", (".dcm", ".dcm")),
        ("scan.tar.dcm", ("scan.tar", "scan.tar.dcm")),
        ("a.dcm/b", ("a.dcm/b", "a.dcm/b")),
    ],
)
def test_an_output_name_mirrors_the_input_without_its_dicom_extension(name: str, bases: tuple[str, str]) -> None:
    assert output_bases(name) == bases


def test_names_that_are_no_text_or_too_long_get_a_safe_name_that_stays_their_own() -> None:
    latin, other = os.fsdecode(b"J\xfcrgen.dcm"), os.fsdecode(b"J\xf6rgen.dcm")
    assert output_bases(latin)[0].startswith("J_rgen~")
    assert output_bases(latin)[0] != output_bases(other)[0]
    assert output_bases("a\nb")[0].startswith("a_b~")
    assert "\u202e" not in output_bases("a\u202eb")[0]
    assert output_bases("x" * 250)[0] != output_bases("x" * 251)[0]
    assert len(output_bases("ä" * 120)[0].encode()) <= 180
    assert output_bases(".partial/x.dcm")[0] != ".partial/x"
    assert output_bases(".PARTIAL/x.dcm")[0].partition("/")[0].casefold() != ".partial"
    deep = "/".join(["folder"] * 400)
    assert output_bases(deep)[0].startswith("~deep/")
    assert output_bases(deep)[0] != output_bases(deep + "x")[0]


@pytest.mark.parametrize(
    "name",
    ["a:b", "CON", "con.dcm", "nul.tar.x", "LPT1 .x", "COM¹", "a\\b", 'a"b', "a|b", "a?b", "<a>", "*", "x./a", "x /a"],
)
def test_what_windows_does_not_take_for_a_name_gets_one_that_it_does(name: str) -> None:
    for base in output_bases(name):
        for component in base.split("/"):
            assert not set(component) & set('<>:"|?*\\')
            assert component.partition(".")[0].rstrip().casefold() not in {"con", "nul", "lpt1", "com¹"}
        assert base.partition("/")[0][-1] not in ". "
    assert output_bases(name)[0] != output_bases(f"{name}x")[0]


def test_ordinary_names_are_kept_also_odd_ones() -> None:
    for name in (
        "IM0001;1",
        "a b",
        "(1) [x] {y} ~ & % $ # @ ! ' ` ^ + = ,",
        "console",
        "nullable.x",
        "Zoë/übung",
        "a.",
        "com",
        "com10",
    ):
        assert output_bases(name)[0] == name


@given(
    st.lists(st.text(min_size=1).filter(lambda t: "/" not in t and "\0" not in t and t not in {".", ".."}), min_size=1)
)
def test_any_name_gives_output_names_that_are_text_and_stay_inside(parts: list[str]) -> None:
    for base in output_bases("/".join(parts)):
        base.encode()
        assert base.isprintable()
        components = base.split("/")
        assert all(component not in {"", ".", ".."} and len(component.encode()) <= 180 for component in components)
        assert components[0].casefold() != ".partial" or len(components) == 1


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "../../x", "/etc/passwd", "1.2\0", "1.2\n", "a", "1" * 65, ".5", "%s", "1.2 ", "\u202e1", "٣"],
)
def test_what_is_no_uid_becomes_a_hash(value: str) -> None:
    component = uid_component(value)
    assert len(component) == 33
    assert component.isalnum()
    assert component != uid_component(value + "x")
    base = identity_base("{StudyInstanceUID}/{SOPInstanceUID}", {**UIDS, "StudyInstanceUID": value})
    assert base == f"{component}/1.4"


def test_the_layout_is_filled_with_uids() -> None:
    assert identity_base("{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}", UIDS) == "1.2/1.3/1.4"
    assert identity_base("all/{SOPInstanceUID}-x", UIDS) == "all/1.4-x"
    assert identity_base(".partial/{SOPInstanceUID}", UIDS).partition("/")[0] != ".partial"
    assert len(identity_base("-".join(["{SOPInstanceUID}"] * 9), {**UIDS, "SOPInstanceUID": "1" * 64})) <= 180
