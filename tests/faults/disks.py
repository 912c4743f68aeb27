"""Disks that can lose their current, fill up and turn read-only: loop mounts and small tmpfs, always cleaned up.

Needs root. `FS_IOC_SHUTDOWN` without flushing the log is what xfstests calls "godown": the file system stops at once,
and whatever was not made durable is gone at the next mount, as after a power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults.report import NotPermitted

if TYPE_CHECKING:
    from collections.abc import Iterator

FS_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2
MAKE: Final = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
SIZE_MB: Final = {"ext4": 512, "xfs": 512}


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise NotPermitted(f"`{command[0]}` fails here: {done.stderr.strip().splitlines()[-1:] or done.returncode}")


def is_mounted(point: Path) -> bool:
    """Whether something is mounted there; a file system that was stopped answers every stat with EIO."""
    return any(line.split()[1] == str(point) for line in Path("/proc/self/mounts").read_text().splitlines())


def unmount(point: Path) -> None:
    """Unmount, waiting for processes that are on their way out; detach it lazily as the last resort."""
    for _ in range(100):
        done = subprocess.run(["umount", str(point)], capture_output=True, check=False, timeout=60)
        if done.returncode == 0 or not is_mounted(point):
            return
        time.sleep(0.1)
    subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False, timeout=60)


def needs_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("needs root, to mount")


@dataclass
class Disk:
    """A mounted file system in a file."""

    image: Path
    mount: Path
    cuts: int = 0

    def power_cut(self) -> None:
        """Stop the file system at this instant; everything that is only in memory is lost."""
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        except OSError as error:
            raise NotPermitted(f"FS_IOC_SHUTDOWN: {error.strerror}") from error
        finally:
            os.close(fd)
        self.cuts += 1

    def power_up(self) -> None:
        """Mount it again; the journal is replayed."""
        unmount(self.mount)
        _run("mount", "-o", "loop", self.image, self.mount)

    def fail(self) -> None:
        """Have ext4 meet an error of its own: it stops its journal and turns read-only, whoever has files open."""
        device = next(
            line.split()[0] for line in Path("/proc/self/mounts").read_text().splitlines() if f" {self.mount} " in line
        )
        trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
        if not trigger.exists():
            raise NotPermitted("this kernel has no /sys/fs/ext4/<device>/trigger_fs_error")
        trigger.write_text("1")

    def repair(self) -> None:
        """What an administrator does about it: unmount, check, mount. Nobody may have a file open."""
        _run("umount", self.mount)
        found = subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True, check=False, timeout=120)
        if found.returncode not in {0, 1}:  # 1: errors were corrected
            raise OSError(f"e2fsck ends with {found.returncode}")
        _run("mount", "-o", "loop,errors=remount-ro", self.image, self.mount)


@contextmanager
def disk(folder: Path, kind: str) -> Iterator[Disk]:
    """A new file system of that kind, mounted; gone afterwards."""
    needs_root()
    program = MAKE[kind][0]
    if shutil.which(program) is None:
        raise NotPermitted(f"{program} is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    image, point = folder / f"{kind}.img", folder / kind
    point.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(SIZE_MB[kind] << 20)
        _run(*MAKE[kind], image)
        _run("mount", "-o", "loop", image, point)
        yield Disk(image, point)
    finally:
        if is_mounted(point):
            unmount(point)
        image.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            point.rmdir()


@contextmanager
def breakable_disk(image: Path, point: Path) -> Iterator[Disk]:
    """A new ext4 in that file, mounted there, which turns read-only when it meets an error; gone afterwards."""
    needs_root()
    point.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(128 << 20)
    _run(*MAKE["ext4"], image)
    _run("mount", "-o", "loop,errors=remount-ro", image, point)
    try:
        yield Disk(image, point)
    finally:
        unmount(point)
        image.unlink()


@contextmanager
def small_disk(point: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options (`size=4m`, `nr_inodes=200`)."""
    needs_root()
    point.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"{options},mode=700", "tmpfs", point)
    try:
        yield point
    finally:
        unmount(point)


def remount(point: Path, options: str) -> None:
    """Mount a mounted file system with other options."""
    _run("mount", "-o", f"remount,{options}", point)
