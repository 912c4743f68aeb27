"""The invariants that hold after every fault (I1-I3 of the fault table), checked on the files themselves.

I1: every acknowledged instance is in exactly one place: a metadata line, or kept in the spool. I2: nothing partial is
visible. I3: the metadata file parses, no instance twice.
"""

from __future__ import annotations

import collections
import hashlib
import json
from typing import TYPE_CHECKING, Any

from listener.spool.names import NAME
from listener.spool.quarantine import REPORT_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def spool_files(spool: Path) -> Iterator[Path]:
    """Every file a reader may take as an instance: whatever is not in `tmp/`."""
    for folder in ("new", "active", "done", "quarantine"):
        for path in sorted((spool / folder).rglob("*")):
            if path.is_file() and NAME.fullmatch(path.name):
                yield path


def uid_in(path: Path) -> str:
    """SOP Instance UID of a spool file, which has to be whole: its pixel data included."""
    import pydicom

    ds = pydicom.dcmread(path)
    if "PixelData" in ds and "NumberOfFrames" in ds and not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        wanted = ds.Rows * ds.Columns * int(ds.NumberOfFrames) * ds.SamplesPerPixel * ds.BitsAllocated // 8
        if len(ds.PixelData) < wanted:
            raise ValueError(f"{len(ds.PixelData)} of {wanted} bytes of pixel data")
    return str(ds.SOPInstanceUID)


def whole_spool_files(spool: Path, violations: list[str]) -> collections.Counter[str]:
    """How often each SOP Instance UID is kept in the spool; a file that is not whole is a violation."""
    kept: collections.Counter[str] = collections.Counter()
    for path in spool_files(spool):
        try:
            kept[uid_in(path)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, the file is not whole
            violations.append(f"partial file visible in spool/{path.parent.name}: {type(error).__name__} {error}")
    return kept


def raw_lines(path: Path) -> list[bytes]:
    """The lines of the metadata file that end in a newline; readers ignore what follows the last one."""
    if not path.is_file():
        return []
    return path.read_bytes().split(b"\n")[:-1]


def lines_of(path: Path, violations: list[str], *, at_rest: bool) -> list[dict[str, Any]]:
    """The metadata lines; one that is torn is a violation, and at rest a torn end too."""
    if at_rest and path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        violations.append("the metadata file ends in a torn line")
    lines = []
    for number, text in enumerate(raw_lines(path), 1):
        try:
            lines.append(dict(json.loads(text)))
        except (ValueError, TypeError):
            violations.append(f"line {number} of the metadata file is torn")
    return lines


def media_files(media: Path) -> list[Path]:
    """Every visible media file."""
    if not media.is_dir():
        return []
    found = (p for p in media.rglob("*") if p.is_file())
    return [p for p in found if not any(part.startswith(".") for part in p.relative_to(media).parts)]


def opens(path: Path) -> bool:
    """Whether a media file can be read to its end."""
    if path.suffix == ".png":
        from PIL import Image

        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError, ValueError):
            return False
        return True
    if path.suffix in {".mp4", ".mkv", ".mov"}:
        import av

        try:
            with av.open(str(path)) as container:
                return sum(1 for _ in container.decode(video=0)) > 0
        except (av.FFmpegError, OSError, IndexError):
            return False
    return path.stat().st_size > 0


def repeated(lines: list[dict[str, Any]]) -> list[str]:
    """Instances with more than one line; the same UID with other content is another instance, and flagged as such."""
    by_uid = collections.Counter(
        line.get("SOP Instance UID") for line in lines if line["export"].get("conflict_with") is None
    )
    by_file = collections.Counter(line["dicom_file"] for line in lines)
    return [f"{count} lines of one instance" for uid, count in by_uid.items() if uid and count > 1] + [
        f"{count} lines of one file" for count in by_file.values() if count > 1
    ]


def check_visible(
    data: Path, violations: list[str], *, media: Path | None = None, metadata: Path | None = None
) -> None:
    """I2 and I3 as a reader finds them right after a crash, before anything of ours has run again."""
    whole_spool_files(data / "spool", violations)
    media, metadata = media or data / "media", metadata or data / "metadata.jsonl"
    violations.extend(f"partial media visible: {p.name}" for p in media_files(media) if not opens(p))
    lines = lines_of(metadata, violations, at_rest=False)
    violations += repeated(lines)
    for line in lines:
        violations.extend(
            "a line tells of media that is not there"
            for medium in line["export"]["media"]
            if not (media / medium["path"]).exists()
        )


def check_settled(
    data: Path, acknowledged: Iterable[str], *, media: Path | None = None, metadata: Path | None = None
) -> list[str]:
    """I1-I3 once everything that was pending is done; the sentences say what is violated."""
    violations: list[str] = []
    media, metadata = media or data / "media", metadata or data / "metadata.jsonl"
    kept = whole_spool_files(data / "spool", violations)
    lines = lines_of(metadata, violations, at_rest=True)
    seen = {str(line.get("SOP Instance UID")) for line in lines}
    violations += repeated(lines)
    lost = [uid for uid in acknowledged if uid not in seen and uid not in kept]
    if lost:
        violations.append(f"{len(lost)} acknowledged instances are lost")
    told = {}
    for line in lines:
        for medium in line["export"]["media"]:
            if medium["path"] in told:
                violations.append("two lines tell of one media file")
            told[medium["path"]] = medium
    found = {p.relative_to(media).as_posix(): p for p in media_files(media)}
    violations.extend(f"told but not there: {_last(name)}" for name in told.keys() - found.keys())
    violations.extend(f"there but not told: {_last(name)}" for name in found.keys() - told.keys())
    for name in told.keys() & found.keys():
        content = found[name].read_bytes()
        if hashlib.sha256(content).hexdigest() != told[name]["sha256"]:
            violations.append(f"a media file is not what its line tells ({found[name].suffix})")
    left = list((data / "spool" / "tmp").iterdir()) if (data / "spool" / "tmp").is_dir() else []
    if left:
        violations.append(f"{len(left)} unfinished files are left in spool/tmp")
    reports = (data / "spool" / "quarantine").rglob(f"*{REPORT_SUFFIX}")
    violations.extend(
        "a report of quarantine has no file beside it"
        for report in reports
        if not report.with_name(report.name.removesuffix(REPORT_SUFFIX)).is_file()
    )
    return violations


def _last(name: str) -> str:
    return name.rpartition("/")[2][-24:]
