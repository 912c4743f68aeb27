"""Senders of other houses: upper layers that share no code with DCMTK, pynetdicom or ours, each run as its users do.

Contract: a sender takes the files of `byte_identity` and an address, and sends what it can; what it cannot read, or has
no word for, it leaves out, and whether it could is not asked here: the other receiver tells. Each runs in a process of
its own. One process or association for each file where a program gives up at the first thing it does not like.

    GDCM          gdcmscu, Debian's libgdcm-tools (C++)
    odil          Debian's python3-odil (C++), through `peers/odil_scu.py`: it can propose any transfer syntax
    CTN           send_image of the Central Test Node, RSNA's reference implementation of the 1990s (C), Debian's ctn
    PixelMed      Debian's libpixelmed-java, where there is a Java
    dcmjs-dimse   npm, where there is a Node, through `peers/dcmjs_scu.js`; it speaks TLS
    pynetdicom2   PyPI, another line than pynetdicom; it sends a file's own bytes, and speaks TLS
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.uid import RLELossless, RTDoseStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.listener.sources.dimse.byte_identity import Sample, Sender

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[3]
DCMJS = REPOSITORY / ".peers" / "node_modules"
"""Where `tests/install-peers` puts what npm brings."""
PIXELMED = Path("/usr/share/java/pixelmed.jar")
ODIL_PYTHON = "/usr/bin/python3"

NAMES = ("GDCM", "odil", "CTN", "PixelMed", "dcmjs-dimse", "pynetdicom2")
SPEAK_TLS = ("dcmjs-dimse", "pynetdicom2")


def sender_of(name: str, find: Callable[[str], str]) -> Sender:
    """One of `NAMES`; skips the test where it is not installed."""
    makers: dict[str, Callable[[Callable[[str], str]], Sender]] = {
        "GDCM": gdcm,
        "odil": odil,
        "CTN": ctn,
        "PixelMed": pixelmed,
        "dcmjs-dimse": dcmjs,
        "pynetdicom2": pynetdicom2,
    }
    return makers[name](find)


def run(command: list[str], *, given: str = "", timeout_s: float = 600, **environment: str) -> str:
    """Run a program to its end; what it printed. No code is looked at: gdcmscu ends badly after all is done."""
    done = subprocess.run(
        command,
        input=given.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=timeout_s,
        check=False,
        env=os.environ | environment,
    )
    return done.stdout.decode(errors="replace")


def gdcm(find: Callable[[str], str]) -> Sender:
    """A process for each file: given many, it ends at the first that it cannot read."""
    program = find("gdcmscu")

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        assert not encrypted
        for sample in samples:
            run([program, "--store", "--call", called, "-i", str(sample.path), "127.0.0.1", str(port)], timeout_s=100)

    return send


def odil_python() -> str:
    """The system's Python, if it has odil."""
    if not Path(ODIL_PYTHON).is_file() or "yes" not in run([ODIL_PYTHON, "-c", "import odil; print('yes')"]):
        pytest.skip("python3-odil is not installed")
    return ODIL_PYTHON


def odil_run(port: int, called: str, *more: str) -> str:
    """What `peers/odil_scu.py` says: it sends files, or echoes."""
    return run([odil_python(), str(HERE / "peers" / "odil_scu.py"), "127.0.0.1", str(port), called, *more])


def odil(_: Callable[[str], str]) -> Sender:
    """One association for each transfer syntax, with the files of it one after the other."""

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        assert not encrypted
        odil_run(port, called, *(str(sample.path) for sample in samples))

    return send


def ctn(find: Callable[[str], str]) -> Sender:
    """A process for each file; it ends at the first failure. Each file's own transfer syntax is proposed."""
    program = find("send_image")

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        assert not encrypted
        for sample in samples:
            run([program, "-q", "-c", called, "127.0.0.1", str(port), str(sample.path)], timeout_s=100)

    return send


def pixelmed_command(find: Callable[[str], str], main: str) -> list[str]:
    """How one of PixelMed's programs is started."""
    if not PIXELMED.is_file():
        pytest.skip("libpixelmed-java is not installed")
    frugal = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [find("java"), *frugal, "-cp", str(PIXELMED), f"com.pixelmed.network.{main}"]


def pixelmed(find: Callable[[str], str]) -> Sender:
    """Files on one association as long as no class comes in two transfer syntaxes: of those it takes what it likes."""
    command = pixelmed_command(find, "StorageSOPClassSCU")

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        assert not encrypted
        associations: list[dict[str, tuple[str, list[Sample]]]] = []
        for sample in samples:
            for classes in associations:
                if classes.setdefault(sample.sop_class, (sample.syntax, []))[0] == sample.syntax:
                    classes[sample.sop_class][1].append(sample)
                    break
            else:
                associations.append({sample.sop_class: (sample.syntax, [sample])})
        for classes in associations:
            names = "".join(f"{sample.path}\n" for _, files in classes.values() for sample in files)
            run([*command, "127.0.0.1", str(port), called, "PIXELMED", "-"], given=names)

    return send


def dcmjs_run(find: Callable[[str], str], port: int, called: str, files: list[str], **options: Any) -> str:
    """What `peers/dcmjs_scu.js` says: it sends files, or echoes."""
    if not (DCMJS / "dcmjs-dimse").is_dir():
        pytest.skip("dcmjs-dimse is not installed")
    command = [find("node"), str(HERE / "peers" / "dcmjs_scu.js"), "127.0.0.1", str(port), called, json.dumps(options)]
    return run([*command, *files], timeout_s=1200, NODE_PATH=str(DCMJS))


def dcmjs(find: Callable[[str], str]) -> Sender:
    """An association for each file, without doses in RLE: it makes 775 MB of a small one, and falls silent in the midst
    of the message for half a minute or a whole one, about the deadline of every receiver and its own."""

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        files = [str(s.path) for s in samples if (s.sop_class, s.syntax) != (RTDoseStorage, RLELossless)]
        dcmjs_run(find, port, called, files, tls=encrypted)

    return send


def pynetdicom2_run(port: int, called: str, files: list[str], *, encrypted: bool) -> str:
    """What `peers/pynetdicom2_scu.py` says: it sends files, or echoes."""
    if importlib.util.find_spec("pynetdicom2") is None:
        pytest.skip("pynetdicom2 is not installed")
    command = [sys.executable, str(HERE / "peers" / "pynetdicom2_scu.py"), "127.0.0.1", str(port), called]
    return run([*command, "tls" if encrypted else "plain", *files])


def pynetdicom2(_: Callable[[str], str]) -> Sender:
    """An association for each file, in its own transfer syntax; the bytes of the file are sent as they are."""

    def send(samples: list[Sample], called: str, port: int, *, encrypted: bool) -> None:
        pynetdicom2_run(port, called, [str(sample.path) for sample in samples], encrypted=encrypted)

    return send
