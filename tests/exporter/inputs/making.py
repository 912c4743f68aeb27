"""Archives for tests, honest and hostile ones, and ways to read them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import threading
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.data import get_testdata_file

from exporter.errors import ExportError
from exporter.inputs.archives.members import ArchiveLimits, ArchiveMembers
from exporter.inputs.backfill import BackfillRequest, Progress, backfill
from exporter.settings.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.inputs.scratch import Scratch
    from exporter.outcome import Failed, Skipped
    from exporter.work.contract import PublishedResult

CT, MR = (Path(str(get_testdata_file(name))).read_bytes() for name in ("CT_small.dcm", "MR_small.dcm"))
LIMITS = ArchiveLimits(max_members=1000, max_member_bytes=1 << 20, max_ratio=50)
Files = list[tuple[str, bytes]]
STUDY: Files = [("study/1.dcm", CT), ("study/2", MR), ("notes.txt", b"no DICOM"), ("study/3.IMA", CT)]


class OneWay(io.RawIOBase):
    """A pipe: what is written cannot be mended later, so that sizes follow the content."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self.content += bytes(part)
        return len(part)


def zipped(files: Files, method: int = zipfile.ZIP_DEFLATED, *, one_way: bool = False) -> bytes:
    target = OneWay() if one_way else io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that are there twice
        with zipfile.ZipFile(target, "w", method) as archive:
            for name, content in files:
                archive.writestr(zipfile.ZipInfo(name), content, method)
    return target.content if isinstance(target, OneWay) else target.getvalue()


def tarred(files: Files, mode: str = "w", tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode=mode, format=tar_format) as archive:  # type: ignore[call-overload]  # a mode is one of several literals there
        for name, content in files:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return target.getvalue()


EVERY_KIND = {
    "stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "deflated.zip": zipped,
    "bzip2.zip": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "one-way.zip": lambda files: zipped(files, one_way=True),
    "pax.tar": tarred,
    "gnu.tar": lambda files: tarred(files, tar_format=tarfile.GNU_FORMAT),
    "ustar.tar": lambda files: tarred(files, tar_format=tarfile.USTAR_FORMAT),
    "gzip.tgz": lambda files: tarred(files, "w:gz"),
    "bzip2.tar.bz2": lambda files: tarred(files, "w:bz2"),
    "xz.tar.xz": lambda files: tarred(files, "w:xz"),
}


def header(name: bytes, size: int = 0, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """A header of tar with a right checksum."""
    field = b"%011o\0" % size if size_field is None else size_field
    block = bytearray(struct.pack("100s8s8s8s12s12s8s1s355x", name, b"644", b"0", b"0", field, b"0", b" " * 8, kind))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class Nothing:
    """No memory."""

    def foresee(self, names: Sequence[str]) -> None:
        pass

    def is_done(self, name: str, size_bytes: int, mtime_ns: int, changed_ns: int = 0) -> bool:  # noqa: ARG002 - the contract's shape
        return False

    def key(self, name: str) -> str:
        return name

    def failed(self, prefix: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
        return ()

    def closed_folders(self, root: Path) -> tuple[str, ...]:  # noqa: ARG002 - the contract's shape
        return ()


def read(
    path: Path, scratch: Scratch, limits: ArchiveLimits = LIMITS
) -> tuple[dict[str, bytes | str], Skipped | Failed]:
    """Content or reason of every member by its name within the archive, and the outcome of the archive itself."""
    found: dict[str, bytes | str] = {}
    outcome: Skipped | Failed | None = None
    for entry in ArchiveMembers("a", path, limits).entries(Nothing(), scratch):
        assert outcome is None, "the archive comes last, and once"
        if entry.within is None:
            assert entry.name == "a"
            outcome = entry.decided
            continue
        assert entry.name.startswith("a//")
        name = entry.name.removeprefix("a//")
        assert name not in found
        if entry.decided is not None:
            found[name] = str(entry.decided.reason)
            continue
        assert entry.content is not None
        try:
            found[name] = entry.content.readable().read_bytes()
        except ExportError as error:
            found[name] = str(error.reason)
        entry.content.release()
        assert scratch.used_bytes == 0
    assert outcome is not None
    return found, outcome


def run(folder: Path, output: Path, **sections: Any) -> tuple[Progress, dict[str, PublishedResult]]:
    """One whole run; its tally and its results by name."""
    tally = Progress()
    request = BackfillRequest(folder, output, Settings.model_validate(sections), workers=1)
    results: dict[str, PublishedResult] = {}
    for one in backfill(request, tally, threading.Event()):
        assert one.work.name not in results
        results[one.work.name] = one
    return tally, results


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metadata.jsonl").read_text().splitlines()]


def media(output: Path) -> list[str]:
    root = output / "media"
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
