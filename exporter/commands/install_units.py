"""`exporter install-units`: the systemd units of the daemons, for the program, user and folders of this machine.

Contract: a unit carries the digest of its own text in its last line. A file with this line and another text was edited
by hand, a file without it is not ours: neither is replaced or removed. Nothing is started, stopped or enabled.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode

SYSTEM_UNITS: Final = Path("/etc/systemd/system")
SYSTEMD_RUNS: Final = Path("/run/systemd/system")
"""Exists where systemd is the init process (sd_booted(3))."""
_SEAL: Final = "# dicom-media-exporter install-units sha256:"
_PLAIN: Final = re.compile(r"/[A-Za-z0-9/._@+-]*")
"""Paths that a unit file holds as they are: no blank, quote or specifier (systemd.syntax(7))."""
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_HIDDEN: Final = ("/home", "/root", "/run/user")
"""Folders that `ProtectHome` hides from the daemons (systemd.exec(5))."""


@dataclass(frozen=True)
class UnitValues:
    """What differs between machines."""

    programs: Path
    """Folder of the programs `exporter` and `listener`."""
    config: Path
    data: Path
    user: str

    def check(self) -> None:
        """Refuse what a unit cannot hold, or what its daemon could not see.

        Raises:
            CommandError: One sentence.
        """
        for what, path in (("the program", self.programs), ("--config", self.config), ("--data", self.data)):
            if not _PLAIN.fullmatch(str(path)):
                raise CommandError(
                    f"{what} is {path}: a unit takes absolute paths of letters, digits and ._@+- only",
                    ExitCode.USAGE,
                )
            if any(path.is_relative_to(folder) for folder in _HIDDEN):
                raise CommandError(
                    f"{what} is {path}: the units hide {', '.join(_HIDDEN)} from the daemons; place it elsewhere",
                    ExitCode.USAGE,
                )
        if not _USER.fullmatch(self.user):
            raise CommandError(
                f"--user is {self.user!r}: not a name that useradd(8) permits; name small letters, digits, _ and -",
                ExitCode.USAGE,
            )


def install_units(
    *,
    to: Annotated[Path, Parameter(help="Folder of the units.")] = SYSTEM_UNITS,
    user: Annotated[str, Parameter(help="User and group that the daemons run as.")] = "dicom-media",
    config: Annotated[Path, Parameter(help="Configuration file of the daemons.")] = Path(
        "/etc/dicom-media/exporter.yml"
    ),
    data: Annotated[Path, Parameter(help="Data folder of the daemons.")] = Path("/var/lib/dicom-media"),
    print_: Annotated[bool, Parameter(name="--print", negative="", help="Print the units; write nothing.")] = False,
    remove: Annotated[bool, Parameter(negative="", help="Remove the units again.")] = False,
) -> int:
    """Install hardened systemd units of the daemons, print them, or remove them."""
    values = UnitValues(Path(sys.executable).parent, config, data, user)
    values.check()
    units = {name: sealed(filled(text, values)) for name, text in templates().items()}
    if print_:
        for name, text in units.items():
            print(f"# {name}\n{text}")
        return ExitCode.DONE
    for name in units:
        _refuse_foreign(to / name)
    try:
        done = [_remove(to / name) if remove else _install(to / name, text) for name, text in units.items()]
    except OSError as error:
        raise CommandError(
            f"{error.filename or to}: {error.strerror}; run it as root, or name a folder with --to"
        ) from error
    for line in done:
        print(line)
    print(_next_step(list(units), remove=remove))
    return ExitCode.DONE


def templates() -> dict[str, str]:
    """The units as they come with the package, by file name."""
    folder = files("exporter.commands") / "units"
    return {
        place.name: place.read_text(encoding="utf-8")
        for place in sorted(folder.iterdir(), key=lambda place: place.name)
        if place.name.endswith(".service")
    }


def filled(text: str, values: UnitValues) -> str:
    """A unit for this machine: the paths and the user of the templates replaced."""
    text = text.replace("/opt/dicom-media-exporter/.venv/bin", str(values.programs))
    text = text.replace("/etc/dicom-media/exporter.yml", str(values.config))
    text = text.replace("/var/lib/dicom-media", str(values.data))
    return re.sub(r"^(User|Group)=dicom-media$", rf"\1={values.user}", text, flags=re.MULTILINE)


def sealed(text: str) -> str:
    """A unit with the digest of its text in its last line."""
    return f"{text}{_SEAL}{_digest(text)}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_foreign(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise CommandError(
            f"{path} cannot be read: {error.strerror}; move it away, or name a folder with --to"
        ) from error
    body, seal, digest = text.rpartition(_SEAL)
    if not seal or digest.strip() != _digest(body):
        raise CommandError(
            f"{path} is not as this command writes it and is left as it is; keep changes in a drop-in"
            f" (systemctl edit {path.stem}) and move the file away"
        )


def _install(path: Path, text: str) -> str:
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if before == text:
        return f"{path}: unchanged"
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise
    return f"{path}: {'installed' if before is None else 'replaced'}"


def _remove(path: Path) -> str:
    if not path.exists():
        return f"{path}: not there"
    path.unlink()
    return f"{path}: removed"


def _next_step(names: list[str], *, remove: bool) -> str:
    if not SYSTEMD_RUNS.is_dir():
        return "systemd does not run here: the units take effect on a machine where it does"
    if remove:
        return "now: systemctl daemon-reload (daemons that run still run: systemctl stop " + " ".join(names) + ")"
    daemons = " ".join(name.removesuffix(".service") for name in names)
    return f"now: systemctl daemon-reload && systemctl enable --now {daemons}"
