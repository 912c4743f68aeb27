"""The Debian package: a virtual environment below /usr/lib, units, user, folders and configuration.

    python packages/deb/build.py WHEEL FOLDER [--python PROGRAM] [--maintainer "NAME <ADDRESS>"] [--fast]

Writes ``dicom-media-exporter_VERSION-1_ARCH.deb`` into FOLDER and prints its path. `make deb` runs it with the
development environment, whose uv installs the hashed lock. The Python of the machine that builds and of
those that install must be of one minor version, which the package's dependencies say.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from email.utils import formatdate
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
REPOSITORY: Final = HERE.parents[1]
HOME: Final = Path("/usr/lib/dicom-media-exporter")
NAME: Final = "dicom-media-exporter"
MAINTAINER: Final = "DICOM Media Exporter <dicom-media-exporter@localhost>"


def build(wheel: Path, folder: Path, python: str, maintainer: str = MAINTAINER, *, fast: bool = False) -> Path:
    """Make the package.

    Args:
        wheel: The product's.
        folder: Where the package goes.
        python: Interpreter that the package is for.
        maintainer: Who answers for the package, as Debian's policy 5.6.2 wants it.
        fast: Leave it uncompressed: 4 times the size in a tenth of the time.

    Returns:
        Its file.

    Raises:
        subprocess.CalledProcessError: A tool failed; its standard error says why.
    """
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "root"
        _environment(root, wheel, python)
        _system_files(root)
        _documents(root, version, maintainer)
        _control(root, version, python, maintainer)
        for path in [root, *root.rglob("*")]:
            if not path.is_symlink():
                program = path.stat().st_mode & 0o100 and ".so" not in path.suffixes
                path.chmod(0o755 if path.is_dir() or program else 0o644)
        (root / "etc/dicom-media/exporter.yml").chmod(0o640)
        target = folder / f"{NAME}_{version}-1_{_architecture()}.deb"
        compression = ["-Znone"] if fast else ["-Zxz", "-z6"]
        command = ["dpkg-deb", "--root-owner-group", *compression, "--build", root, target]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def _environment(root: Path, wheel: Path, python: str) -> None:
    place = root / HOME.relative_to("/")
    subprocess.run([python, "-m", "venv", "--without-pip", place], check=True)
    uv = [Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--python", place / "bin/python"]
    environment = {**os.environ, "UV_LINK_MODE": "copy"}
    locked = ["--require-hashes", "-r", REPOSITORY / "requirements.txt"]
    subprocess.run([*uv, *locked], check=True, env=environment)
    subprocess.run([*uv, "--no-deps", wheel], check=True, env=environment)
    # Scripts and the environment's own notes name the folder that they were made in.
    for path in [place / "pyvenv.cfg", *(place / "bin").iterdir()]:
        if not path.is_symlink():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(str(place), str(HOME)), encoding="utf-8")
    for path in (place / "bin").glob("[Aa]ctivate*"):
        path.unlink()
    for path in list((place / "lib").rglob("__pycache__")):
        shutil.rmtree(path)
    (root / "usr/bin").mkdir(parents=True)
    for program in ("exporter", "listener"):
        (root / "usr/bin" / program).symlink_to(f"../lib/{NAME}/bin/{program}")


def _system_files(root: Path) -> None:
    from exporter.commands.config_reference import annotated_yaml
    from exporter.commands.install_units import UnitValues, filled, sealed, templates

    values = UnitValues(
        HOME / "bin", Path("/etc/dicom-media/exporter.yml"), Path("/var/lib/dicom-media"), "dicom-media"
    )
    files = {f"usr/lib/systemd/system/{name}": sealed(filled(text, values)) for name, text in templates().items()}
    files[f"usr/lib/sysusers.d/{NAME}.conf"] = 'u dicom-media - "DICOM Media Exporter" /var/lib/dicom-media\n'
    files[f"usr/lib/tmpfiles.d/{NAME}.conf"] = "d /var/lib/dicom-media 0750 dicom-media dicom-media -\n"
    files["etc/dicom-media/exporter.yml"] = annotated_yaml()
    files[f"usr/share/lintian/overrides/{NAME}"] = (HERE / "lintian-overrides").read_text(encoding="utf-8")
    _write(root, files)


def _documents(root: Path, version: str, maintainer: str) -> None:
    licence = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    notes = (REPOSITORY / "docs/licences.md").read_text(encoding="utf-8")
    folder = f"usr/share/doc/{NAME}"
    texts = "The texts of the GPL and the LGPL: /usr/share/common-licenses/GPL-2, GPL-3, LGPL-2.1 and LGPL-3.\n"
    _write(root, {f"{folder}/copyright": f"{licence}\n{notes}\n{texts}"})
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0")) or int((REPOSITORY / "CHANGELOG.md").stat().st_mtime)
    entry = f"{NAME} ({version}-1) stable; urgency=medium\n\n  * See CHANGELOG.md of the project.\n\n"
    entry += f" -- {maintainer}  {formatdate(seconds)}\n"
    (root / folder / "changelog.Debian.gz").write_bytes(gzip.compress(entry.encode(), 9, mtime=0))


def _control(root: Path, version: str, python: str, maintainer: str) -> None:
    minor = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info.minor)"], check=True, capture_output=True, text=True
    ).stdout.strip()
    kilobytes = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir()) // 1024
    text = (HERE / "control").read_text(encoding="utf-8")
    values = {
        "VERSION": f"{version}-1",
        "ARCHITECTURE": _architecture(),
        "SIZE": str(kilobytes),
        "MAINTAINER": maintainer,
        "PYTHON": f"python3 (>= 3.{minor}), python3 (<< 3.{int(minor) + 1})",
    }
    control = re.sub(r"@(\w+)@", lambda match: values[match[1]], text)
    _write(root, {"DEBIAN/control": control, "DEBIAN/conffiles": "/etc/dicom-media/exporter.yml\n"})
    for script in ("postinst", "prerm", "postrm"):
        target = root / "DEBIAN" / script
        shutil.copy(HERE / script, target)
        target.chmod(0o755)


def _write(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="/usr/bin/python3")
    parser.add_argument("--maintainer", default=MAINTAINER)
    parser.add_argument("--fast", action="store_true")
    given = parser.parse_args()
    print(build(given.wheel.absolute(), given.folder.absolute(), given.python, given.maintainer, fast=given.fast))
