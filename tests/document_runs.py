"""Running the commands of a document on a folder of DICOM."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from pydicom.data import get_testdata_file

from exporter.commands.app import main

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("examples_ybr_color.dcm", "CT_small.dcm", "MR_small.dcm", "rtplan.dcm")


def make_input(folder: Path) -> None:
    """Make the folder `dicom`, from which the documents start, in a working folder."""
    (folder / "dicom").mkdir()
    for name in FILES:
        found = get_testdata_file(name)
        assert isinstance(found, str)
        shutil.copy(found, folder / "dicom")


def run_commands(block: str) -> int:
    """Run every command of a block; how many there were."""
    lines = block.splitlines()
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "exporter"
        assert main(arguments) == 0, line
    return len(lines)
