"""The mutation check of durability: a library that makes syncs a lie, for processes that must then lose data."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Final, Literal

from tests.faults.report import NotPermitted

if TYPE_CHECKING:
    from pathlib import Path

Removed = Literal["every sync", "file sync", "folder sync", "writing out"]
"""What does nothing; each alone must be enough to lose data, or to show partial files."""

_START: Final = """
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static int is_folder(int fd) { struct stat s; return fstat(fd, &s) == 0 && S_ISDIR(s.st_mode); }
"""
_EARLY: Final = """
int sync_file_range(int fd, long long at, long long n, unsigned flags)
{ (void)fd; (void)at; (void)n; (void)flags; return 0; }
"""
SOURCES: Final[dict[Removed, str]] = {
    "every sync": _START
    + _EARLY
    + """
int fsync(int fd) { (void)fd; (void)is_folder; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
void sync(void) {}
""",
    "file sync": _START
    + _EARLY
    + """
int fsync(int fd) { return is_folder(fd) ? (int)syscall(SYS_fsync, fd) : 0; }
int fdatasync(int fd) { (void)fd; return 0; }
""",
    "folder sync": _START
    + """
int fsync(int fd) { return is_folder(fd) ? 0 : (int)syscall(SYS_fsync, fd); }
""",
    "writing out": _START
    + _EARLY
    + """
int unused(int fd) { return is_folder(fd); }
""",
}


def build(folder: Path, removed: Removed = "every sync") -> Path:
    """Compile the library; what to set `LD_PRELOAD` to."""
    if shutil.which("gcc") is None:
        raise NotPermitted("gcc is not installed, to build the library that removes fsync")
    source, library = folder / "no_fsync.c", folder / "no_fsync.so"
    source.write_text(SOURCES[removed])
    done = subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, source],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise NotPermitted(f"gcc cannot build the library that removes fsync: {done.stderr.strip()[-100:]}")
    return library
