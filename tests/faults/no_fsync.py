"""The mutation check of durability: a library that makes every sync a lie, for processes that must then lose data."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final

from tests.faults.report import NotPermitted

if TYPE_CHECKING:
    from pathlib import Path

SOURCE: Final = """
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
void sync(void) {}
int sync_file_range(int fd, long long at, long long n, unsigned flags)
{ (void)fd; (void)at; (void)n; (void)flags; return 0; }
"""


def build(folder: Path) -> Path:
    """Compile the library; what to set `LD_PRELOAD` to."""
    if shutil.which("gcc") is None:
        raise NotPermitted("gcc is not installed, to build the library that removes fsync")
    source, library = folder / "no_fsync.c", folder / "no_fsync.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True, timeout=60)
    return library
