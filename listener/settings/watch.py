"""One entry of the section `sources`: a watched folder."""

from __future__ import annotations

import os
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from listener.foundation.configuration import FilePath, Section
from listener.foundation.fields import PositiveSeconds

NamePattern = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class WatchSection(Section):
    """A folder whose files are taken in once they are complete."""

    watch: FilePath
    """The folder; it may come and go, as network folders do. It must lie apart from the data folder."""
    recursive: bool = True
    """Whether folders inside it are looked through, too; symbolic links never are."""
    after: Literal["leave", "move", "delete"] = "leave"
    """What becomes of a file that is durable in the spool: `leave` it where it is and remember it, `move` it to `done`,
    or `delete` it."""
    done: FilePath | None = None
    """Folder for `move`, in which the folders of `watch` are mirrored; it must be on the same file system. None is
    `.done` inside the watched folder."""
    patterns: Annotated[tuple[NamePattern, ...], Field(min_length=1)] = ("*",)
    """Names of files that are taken, with `*`, `?` and `[...]`, whatever the case. What they hold decides whether it
    is DICOM, not the name: what is none comes to `quarantine/not_dicom`."""
    ignore: tuple[NamePattern, ...] = (
        *(".*", "~*", "*~"),
        *("*.part", "*.partial", "*.tmp", "*.temp", "*.filepart", "*.crdownload"),
    )
    """Names of files and folders that are left alone: by default those that programs give to what they still write."""
    quiet_s: PositiveSeconds = 5.0
    """A file is complete once it has been the same for so long: size, times and file number, at two looks or more."""
    look_every_s: PositiveSeconds = 2.0
    """Pause between two looks; longer where a look takes long, so that looking takes a tenth of the time at most."""

    @model_validator(mode="after")
    def _done_is_used(self) -> Self:
        if self.done is not None and self.after != "move":
            raise ValueError("`done` needs `after: move`")
        return self


def overlap(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether one folder is, contains or lies inside the other, by their paths alone."""
    paths = (os.path.abspath(one), os.path.abspath(other))  # noqa: PTH100 - pathlib would follow links
    return os.path.commonpath(paths) in paths


def _are_apart(sections: tuple[WatchSection, ...]) -> tuple[WatchSection, ...]:
    """Refuse folders of which one is, or lies inside, another: its files would come twice."""
    for one, other in combinations((section.watch for section in sections), 2):
        if overlap(one, other):
            raise ValueError(f"{one} and {other} are watched, and one lies inside the other: name the outer one")
    return sections


WatchedFolders = Annotated[tuple[WatchSection, ...], AfterValidator(_are_apart)]
