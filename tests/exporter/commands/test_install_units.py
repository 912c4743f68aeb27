"""`exporter install-units`: the units are right for this machine, and nothing foreign is touched."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from exporter.commands import install_units as command
from exporter.commands.app import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def _installed_below_usr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/lib/dicom-media-exporter/bin/python")


def install(folder: Path, *more: str) -> int:
    return main(["install-units", "--to", str(folder), *more])


def test_the_units_name_the_program_user_and_folders_of_this_machine(tmp_path: Path) -> None:
    assert install(tmp_path, "--user", "pacs", "--data", "/srv/media", "--config", "/etc/pacs/export.yml") == 0
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert {"dicom-exporter.service", "dicom-listener.service"} <= texts.keys()
    for name, text in texts.items():
        program = "listener" if "listener" in name else "exporter"
        assert f"ExecStart=/usr/lib/dicom-media-exporter/bin/{program}" in text
        assert "User=pacs\nGroup=pacs\n" in text
        assert "ReadWritePaths=/srv/media\n" in text
        assert " --config /etc/pacs/export.yml --data /srv/media" in text
        assert not [word for word in ("/opt/", "/var/lib/dicom-media", "/etc/dicom-media") if word in text]
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", sorted(command.templates()))
def test_systemd_finds_nothing_wrong_with_a_unit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Callable[[str], str]
) -> None:
    analyze = peer("systemd-analyze")
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("exporter", "listener"):
        shutil.copy(shutil.which("true") or "/bin/true", programs / program)
    monkeypatch.setattr(command, "_HIDDEN", ())
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    assert install(tmp_path) == 0
    for command_line in (["verify"], ["security", "--offline=yes", "--threshold=30"]):
        done = subprocess.run(
            [analyze, *command_line, str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_a_second_time_changes_nothing_and_another_version_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path) == 0
    before = {path.name: path.stat().st_ino for path in tmp_path.iterdir()}
    assert install(tmp_path) == 0
    assert {path.name: path.stat().st_ino for path in tmp_path.iterdir()} == before
    older = tmp_path / "dicom-listener.service"
    older.write_text(command.sealed("[Unit]\nDescription=of an older version\n"))
    capsys.readouterr()
    assert install(tmp_path) == 0
    assert f"{older}: replaced" in capsys.readouterr().out
    assert "older version" not in older.read_text()


@pytest.mark.parametrize("more", [(), ("--remove",)])
def test_a_unit_that_was_edited_or_is_foreign_stays_and_so_do_the_others(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path) == 0
    edited = tmp_path / "dicom-listener.service"
    edited.write_text(edited.read_text().replace("MemoryMax=1G", "MemoryMax=8G"))
    texts = {path: path.read_text() for path in tmp_path.iterdir()}
    assert install(tmp_path, "--user", "other", *more) == 1
    assert "drop-in" in capsys.readouterr().err
    assert {path: path.read_text() for path in tmp_path.iterdir()} == texts


def test_remove_takes_what_was_installed_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.service").write_text("")
    assert install(tmp_path) == 0
    assert install(tmp_path, "--remove") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["other.service"]
    assert install(tmp_path, "--remove") == 0
    assert "not there" in capsys.readouterr().out


def test_without_systemd_the_units_are_written_and_it_says_where_they_take_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SYSTEMD_RUNS", tmp_path / "none")
    assert install(tmp_path) == 0
    assert "systemd does not run here" in capsys.readouterr().out
    assert len([*tmp_path.glob("*.service")]) == 4


def test_print_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path, "--print") == 0
    assert "[Service]" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--user", "root\nExecStart=/bin/sh"), "--user"),
        (("--data", "/srv/%n"), "--data"),
        (("--data", "/srv/a b"), "--data"),
        (("--config", "relative.yml"), "--config"),
        (("--data", "/home/me/media"), "/home"),
    ],
)
def test_values_that_a_unit_cannot_hold_are_refused(
    arguments: tuple[str, str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert install(tmp_path, *arguments) == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert install(tmp_path / "none") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
