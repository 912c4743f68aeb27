"""The form of a shard: a tar archive in which the members of one instance, its sample, follow each other.

Contract: the members of a sample are ``<key><suffix>`` for every medium, ``<key><suffix>.<file>`` for every file of a
folder of frames, and last ``<key>.json``, the metadata line of the instance. The key is 32 hexadecimal digits that
follow from the instance's name: no dots, since readers cut names at the first one. Owner, mode and time of members are
fixed, and the line names media by their members and no other instance, so that the same instance has the same bytes
whoever exports it. A sample without its ``.json`` is incomplete.

Source: WebDataset, "The WebDataset Format"; POSIX.1-2001 (pax).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import orjson

from exporter.results.line import shown
from listener.foundation.text import json_escaped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from exporter.outcome import MediaFile

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)
"""End of an archive: two blocks of zeros."""
RECORD: Final = ".json"
"""Suffix of the member that holds the metadata line, and ends a sample."""
REMOVED: Final = "__removed__"
"""Name of a member that was removed; WebDataset passes over names of this form."""


@dataclass(frozen=True, slots=True)
class SampleMember:
    """One medium, or one file of a folder, as a member of a sample."""

    member: str
    path: str
    """Its path below the media folder, as metadata lines show it."""
    source: str
    """Its path relative to the folder of partial files."""
    sha256: str | None
    """Hash of its bytes; None where it is not known."""


@dataclass(frozen=True, slots=True)
class ShardMember:
    """One member as it stands in an archive."""

    name: str
    offset: int
    """Place of its bytes."""
    length: int
    start: int = 0
    """Place of its header."""

    @property
    def key(self) -> str:
        """Key of its sample."""
        return self.name.partition(".")[0]

    @property
    def end(self) -> int:
        """Place of the header after it."""
        return self.offset + padded(self.length)


def key_of(name: str) -> str:
    """Key of the sample of an instance, by the instance's name."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def study_mark(study_uid: str) -> str:
    """What the index says of the study of a sample: enough to keep a study together."""
    return hashlib.sha256(study_uid.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def padded(length: int) -> int:
    """Bytes that so many bytes take in an archive."""
    return -(-length // BLOCK) * BLOCK


def header(name: str, length: int) -> bytes:
    """Header of a member."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = length, 0o644
    return member.tobuf(tarfile.PAX_FORMAT)


def sample_members(
    name: str, folder: Path, partial: Sequence[MediaFile], final: Sequence[MediaFile]
) -> list[SampleMember]:
    """Members of the sample of an instance, without its line.

    Raises:
        OSError: A folder of frames cannot be listed.
    """
    key, found = key_of(name), []
    for before, after in zip(partial, final, strict=True):
        beginning = member_of(key, after)
        if after.suffix.endswith("/"):
            inside = before.file.rstrip("/")
            found += [
                SampleMember(f"{beginning}{shown(one)}", f"{shown(after.file)}{shown(one)}", f"{inside}/{one}", None)
                for one in sorted(os.listdir(folder / inside))  # noqa: PTH208 - names only
            ]
        else:
            found.append(SampleMember(beginning, shown(after.file), before.file, after.sha256))
    return found


def member_of(key: str, medium: MediaFile) -> str:
    """Name of the member of a medium; for a folder, the beginning of the names of its members."""
    suffix = f".{medium.kind}{RECORD}" if medium.suffix == RECORD else medium.suffix
    return f"{key}{suffix.rstrip('/')}{'.' if suffix.endswith('/') else ''}"


def sample_line(line: bytes, key: str, media: Sequence[MediaFile]) -> bytes:
    """A metadata line as it stands beside its media in a shard: they are named by their members."""
    said: dict[str, Any] = orjson.loads(line)
    ours = said["export"]
    for one, medium in zip(ours["media"], media, strict=True):
        one["path"] = member_of(key, medium)
    ours["duplicate_of"] = ours["conflict_with"] = None
    said["media_file"] = ours["media"][0]["path"] if ours["media"] else None
    return json_escaped(orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE))


def members_of(file: IO[bytes], start: int = 0) -> Iterator[ShardMember]:
    """Yield the members of an archive from a place on, up to its end, or to where it is cut or damaged."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:", format=tarfile.PAX_FORMAT) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                yield ShardMember(member.name, member.offset_data, member.size, member.offset)
    except tarfile.TarError:
        return


def samples_of(file: IO[bytes], start: int = 0) -> Iterator[list[ShardMember]]:
    """Yield the complete samples of an archive from a place on; removed members are left out."""
    sample: list[ShardMember] = []
    size = os.fstat(file.fileno()).st_size
    for member in members_of(file, start):
        if member.end > size:
            return
        if member.name == REMOVED:
            continue
        if sample and sample[0].key != member.key:
            sample = []
        sample.append(member)
        if member.name == f"{member.key}{RECORD}":
            yield sample
            sample = []
