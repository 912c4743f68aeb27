"""The members of one archive as entries of a run, and the archive as the last of them.

Contract: every member except folders is one entry. The archive itself is the last entry: skipped if all of it was read,
failed if it is damaged, cut, too large or changed meanwhile. A member is copied to the scratch folder just before a
worker gets it. A member whose first bytes show that it is no instance, or is an archive, is never copied.

Must never: write outside the scratch folder, or let one bad member affect another.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final

from exporter.dicom.structure import find_data_set
from exporter.errors import ExportError, NotDicom, SkipReason, TooLarge, Unreadable
from exporter.inputs.archives.found import HEAD_BYTES, foreign_archive, nested, open_archive
from exporter.inputs.archives.member import MemberKind
from exporter.inputs.archives.names import MemberNames, path_of
from exporter.inputs.contract import INSIDE, InputEntry
from exporter.outcome import Failed, Skipped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from exporter.inputs.archives.found import ArchiveFile
    from exporter.inputs.archives.member import Archive, ArchiveMember
    from exporter.inputs.contract import EarlierOutcomes
    from exporter.inputs.scratch import Scratch, ScratchCopy


FREE_MEMBERS: Final = 10_000
"""Number of members that any archive may have, however small."""
BYTES_PER_MEMBER: Final = 16
"""Bytes of the archive for each further member: an entry of a zip file takes 76 or more, but a tar file packs well."""


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """Limits of one archive."""

    max_members: int
    max_member_bytes: int
    max_ratio: int

    def members_of(self, archive_bytes: int) -> int:
        """Most members of an archive of that size."""
        return min(self.max_members, FREE_MEMBERS + archive_bytes // BYTES_PER_MEMBER)


class _Content:
    """A member, copied when a worker needs it."""

    def __init__(self, archive: Archive, member: ArchiveMember, scratch: Scratch, max_bytes: int) -> None:
        self._archive = archive
        self._member = member
        self._scratch = scratch
        self._max_bytes = max_bytes
        self._copy: ScratchCopy | None = None

    def readable(self) -> Path:
        """See `InputContent`."""
        member, limit = self._member, self._max_bytes
        if member.problem is not None:
            raise member.problem
        if member.size_bytes > limit:
            raise TooLarge(
                f"the member has {member.size_bytes} bytes, permitted are {limit} (limits.max_instance_bytes)"
            )
        parts = self._archive.content()
        head = b""
        for part in parts:
            head += part
            if len(head) >= HEAD_BYTES:
                break
        _refuse_what_is_no_instance(head, max(member.size_bytes, len(head)))
        self._copy = copy = self._scratch.copy()
        try:
            for part in chain((head,), parts):
                copy.write(part)
                if copy.size_bytes > limit:
                    raise TooLarge(f"the member has more than {limit} bytes (limits.max_instance_bytes)")
        except ExportError:
            copy.release()
            raise
        return copy.finish()

    def release(self) -> None:
        """See `InputContent`."""
        if self._copy is not None:
            self._copy.release()


class _Head:
    """First bytes of a member as a byte source, which remembers whether more bytes were requested."""

    def __init__(self, head: bytes, size: int) -> None:
        self._head = head
        self.size = size
        self.is_enough = True

    def read_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource`."""
        # A reader takes a whole window where it wants a few bytes: a cut window is enough if it is not a short one.
        part = self._head[offset : offset + length]
        if len(self._head) < self.size and len(part) < min(length, 1 << 10):
            self.is_enough = False
        return part

    def view_at(self, offset: int, length: int) -> bytes:
        """See `ByteSource`."""
        return self.read_at(offset, length)


def _refuse_what_is_no_instance(head: bytes, size: int) -> None:
    """Refuse members that a worker would refuse because of their first bytes.

    Raises:
        NotDicom: It is certainly not a DICOM data set.
    """
    if nested(head):
        kind = foreign_archive(head)
        what = f"a {kind} archive" if kind else "an archive"
        raise NotDicom(f"{what} inside an archive is not opened: unpack the outer one, and export that folder")
    if not head:
        raise NotDicom("the file is empty")
    source = _Head(head, size)
    try:
        find_data_set(source)
    except NotDicom:
        if source.is_enough:
            raise
    except ExportError:
        return  # it has the beginning of one: its worker says what is wrong with it


class ArchiveMembers:
    """One archive, as entries."""

    def __init__(self, name: str, path: Path, limits: ArchiveLimits) -> None:
        """Read the archive at `path`, which the ledger calls `name`."""
        self._name = name
        self._path = path
        self._limits = limits

    def entries(self, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        """Entries of the members, then of the archive."""
        try:
            with open_archive(self._path) as file:
                yield from self._entries(file, memory, scratch)
        except Unreadable as error:  # it could not even be opened
            yield InputEntry(self._name, 0, 0, decided=Failed.of(error))

    def _entries(self, file: ArchiveFile, memory: EarlierOutcomes, scratch: Scratch) -> Iterator[InputEntry]:
        about, count = file.about, 0
        outcome: Skipped | Failed
        archive = file.archive(self._limits.max_ratio, self._limits.max_member_bytes)
        try:
            for name, path, member in self._members(archive, about.st_size):
                count += 1
                if memory.is_done(name, member.size_bytes, about.st_mtime_ns):
                    continue
                content = decided = None
                if member.kind is MemberKind.OTHER:
                    message = "a link, pipe or device in an archive: only regular files are read"
                    decided = Skipped(SkipReason.NOT_REGULAR, message)
                else:
                    content = _Content(archive, member, scratch, self._limits.max_member_bytes)
                yield InputEntry(
                    name,
                    member.size_bytes,
                    about.st_mtime_ns,
                    content,
                    decided,
                    mirrors=f"{self._name}/{path}",
                    within=self._name,
                )
            if file.is_changed:
                raise Unreadable("the archive was changed while it was read")
            outcome = Skipped(SkipReason.ARCHIVE, f"an archive; its {count} members have outcomes of their own")
        except ExportError as error:
            message = f"{error}; {count} members before that have outcomes of their own"
            outcome = Failed.of(type(error)(message))
        yield InputEntry(self._name, about.st_size, about.st_mtime_ns, decided=outcome)

    def _members(self, archive: Archive, archive_bytes: int) -> Iterator[tuple[str, str, ArchiveMember]]:
        """Name, path and member of everything that is no folder.

        Raises:
            TooLarge: There are more members than permitted, folders included.
        """
        names = MemberNames(self._name)
        most = self._limits.members_of(archive_bytes)
        for number, member in enumerate(archive.members()):
            if number >= most:
                why = "archives.max_members" if most == self._limits.max_members else f"for its {archive_bytes} bytes"
                raise TooLarge(f"the archive has more than {most} members ({why})")
            if member.kind is not MemberKind.FOLDER:
                path = path_of(member)
                yield names.next_name(path), path, member

    def names(self) -> Iterator[str]:
        """Names of the members, up to where the archive can be read."""
        with suppress(ExportError), open_archive(self._path) as file:
            archive = file.archive(self._limits.max_ratio, self._limits.max_member_bytes)
            for name, _, _ in self._members(archive, file.about.st_size):
                yield name

    @contextmanager
    def copies(self, wanted: Collection[str], scratch: Scratch) -> Iterator[dict[str, Path]]:
        """Copies of the members of these names, all at once, without those that cannot be read.

        Raises:
            OutOfSpace: There is no room.
            TooLarge: They are more than copies may take.
        """
        held: list[_Content] = []
        found: dict[str, Path] = {}
        try:
            with open_archive(self._path) as file:
                self._copy_all(file, wanted, scratch, held, found)
            yield found
        finally:
            for content in held:
                content.release()

    def _copy_all(
        self,
        file: ArchiveFile,
        wanted: Collection[str],
        scratch: Scratch,
        held: list[_Content],
        found: dict[str, Path],
    ) -> None:
        left = set(wanted)
        archive = file.archive(self._limits.max_ratio, self._limits.max_member_bytes)
        try:
            for name, _, member in self._members(archive, file.about.st_size):
                if not left or scratch.is_full:
                    break
                if name not in left:
                    continue
                left.discard(name)
                content = _Content(archive, member, scratch, self._limits.max_member_bytes)
                held.append(content)
                try:
                    found[name] = content.readable()
                except ExportError:
                    continue  # it has a verdict of its own from when it was exported
        except ExportError:
            return  # the archive's own verdict tells of its damage
        if left and scratch.is_full:
            raise TooLarge("together they take more room than temporary copies may (archives.copies_bytes)")


def container_of(name: str) -> str:
    """Name of the archive that contains an entry; empty if none does."""
    container, inside, _ = name.partition(INSIDE)
    return container if inside else ""
