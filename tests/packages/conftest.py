"""A bare Debian, the wheel and the packages of this tree, made once for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]
INSIDE = """
set -e
root=$1 user=$2; shift 2
mount --make-rprivate /
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
ip link set lo up 2>/dev/null || true
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 chroot --userspec="$user" "$root" "$@"
"""


class BareRoot:
    """A root file system in which commands run with the loopback network alone.

    No process stands between: a signal to what was started reaches the command itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def command(self, *arguments: str, user: str = "0:0") -> list[str]:
        """The command line that runs something inside."""
        return ["unshare", "--mount", "--net", "sh", "-c", INSIDE, "sh", str(self.path), user, *arguments]

    def run(self, *arguments: str, user: str = "0:0") -> subprocess.CompletedProcess[str]:
        """Run something inside to its end."""
        command = self.command(*arguments, user=user)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this tree and those of its hashed lock."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY], check=True)
    locked = ["--require-hashes", "-r", REPOSITORY / "requirements.txt"]
    subprocess.run([*pip, "download", "--no-deps", "-d", folder, *locked], check=True)
    return folder


@pytest.fixture(scope="session")
def wheel(wheels: Path) -> Path:
    """The wheel of this tree."""
    (found,) = wheels.glob("dicom_media_exporter-*.whl")
    return found


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory, peer: Callable[[str], str]) -> Iterator[Path]:
    """A bare Debian with Python, to be copied."""
    if os.geteuid():
        pytest.skip("a bare root needs root")
    folder = tmp_path_factory.mktemp("debian") / "root"
    packages = "python3,python3-venv,systemd-standalone-sysusers,systemd-standalone-tmpfiles,iproute2"
    command = [peer("mmdebstrap"), "--quiet", "--variant=minbase", f"--include={packages}", "bookworm", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no bare root could be made: {made.stderr.splitlines()[-1:]}")
    folder.chmod(0o755)  # whatever the umask of the tests
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def root(debian: Path, tmp_path: Path) -> Iterator[BareRoot]:
    """A bare Debian of one's own."""
    path = tmp_path / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", debian, path], check=True)
    yield BareRoot(path)
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def deb(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this tree, uncompressed."""
    folder = tmp_path_factory.mktemp("deb")
    if subprocess.run(["/usr/bin/python3", "-c", "import venv"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Python of Debian's own to make the package for")
    command = [sys.executable, REPOSITORY / "packages/deb/build.py", wheel, folder, "--fast"]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
