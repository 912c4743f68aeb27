"""Ownership of a media folder by one exporter, noted where every other exporter sees it: the owner file.

Contract: one exporter works on a media folder, also where ledgers differ, hosts differ, or the file system has no
locks. Its owner file, ``.partial/owner``, says which: host, boot, process and its start, ledger; it is touched every
`BEAT_S`. An owner that is certainly dead (this kernel's and its process is gone, or this host has been started again
since) is taken over at once. Of any other the owner file itself tells: no beat for `STALE_S`, by the clock of the file
system, and none while one watches, is death as well; so is a person's word (`take_over`), but never against a process
of this kernel that lives. An owner that finds another's name in its file stops.

Like the notes of `exporter.results.intents` the file is a symbolic link that leads nowhere, made and replaced in one
step; it is a regular file where there are no links. Its age needs no clock of ours: it is compared with that of a file
made now in the same folder.

Must never: take over from an exporter that may live, or write into a folder that another one has taken.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import socket
import stat
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote, unquote

from exporter.errors import StorageUnavailable
from exporter.machine_conditions import out_of_space
from exporter.results.intents import MediaFolderUnusable
from exporter.results.output_names import PARTIAL
from listener.foundation import locks
from listener.foundation.disk import is_out_of_space
from listener.foundation.errors import Unusable
from listener.foundation.process_identity import boot_id, is_running, process_namespace, start_of, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.results.ledger import Ledger

OWNER: Final = "owner"
BEAT_S: Final = 10.0
STALE_S: Final = 180.0
"""Without a beat for so long, an owner that cannot be asked is dead. NFS may show a beat a minute late."""
WATCH_S: Final = 25.0
"""Time that an owner without a beat is watched before it is taken over: a clock may have been set."""
GRACE_S: Final = 30.0
"""Time that `.partial` may be gone before it is made anew: it may have been moved away and come back."""
_FORM: Final = "exporter-1"
_TICK_S: Final = 1.0
_TRIES: Final = 5
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})


class MediaFolderTaken(MediaFolderUnusable):
    """Another exporter works on the media folder, or may."""

    def __init__(self, path: Path, why: str, hint: str) -> None:
        Unusable.__init__(self, f"another exporter works on the media folder {path} ({why})", hint=hint)


@dataclass(frozen=True, slots=True)
class MediaFolderOwner:
    """Contents of an owner file."""

    host: str
    machine: str
    """``/etc/machine-id``; empty if absent."""
    boot: str
    """The kernel's boot id: the same in every container on it."""
    processes: str
    """The namespace in which `pid` counts."""
    pid: int
    started: int
    """Start of the process, in clock ticks since boot."""
    device: int
    """Number of the media folder's device, which is one for each mounted file system of a kernel."""
    ledger: str
    """Mark of its ledger."""
    ledger_file: str
    """Hash of its path."""
    token: str
    """Random, one for each time that an exporter takes the folder."""

    @classmethod
    def here(cls, media: Path, ledger: Ledger) -> Self:
        """This process as the owner of a media folder, working with a ledger."""
        pid = os.getpid()
        return cls(
            socket.gethostname(),
            text_of("/etc/machine-id"),
            boot_id(),
            process_namespace(),
            pid,
            start_of(pid),
            media.stat().st_dev,
            ledger.mark,
            hashlib.sha256(os.fsencode(ledger.path.resolve())).hexdigest()[:16],
            secrets.token_hex(8),
        )

    @property
    def in_words(self) -> str:
        """The owner in words, for messages."""
        return f"process {self.pid} on {self.host}"


_NUMBERS: Final = tuple(place for place, one in enumerate(fields(MediaFolderOwner)) if one.type == "int")
UNKNOWN: Final = MediaFolderOwner("an unknown host", "", "", "", 0, 0, 0, "", "", "")
"""Owner of a file that cannot be understood."""


class Ownership:
    """The media folder is ours, as far as anybody can know; keeps the owner file alive."""

    def __init__(self, media: Path, owner: MediaFolderOwner, former: MediaFolderOwner | None) -> None:
        self.former = former
        """Owner that had the folder before and did not give it back."""
        self.owner = owner
        self._media = media
        self._folder = _identity(media)
        self._turn = threading.Lock()
        self._beaten_at = _now()
        self._gone_since: float | None = None
        self._lost: MediaFolderTaken | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owner", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the folder was still ours at the last beat.

        Raises:
            MediaFolderTaken: It was not.
        """
        if self._lost is not None:
            raise self._lost

    def confirm(self) -> None:
        """Make sure that nobody can have taken the folder yet; cheap while the beat goes on.

        Raises:
            MediaFolderTaken: Another exporter has.
            StorageUnavailable: It cannot be known: this process, or the file system, has stood still for long.
        """
        if _now() - self._beaten_at > STALE_S / 2:
            self._beat()
        self.check()
        if _now() - self._beaten_at > STALE_S / 2:
            raise StorageUnavailable(f"media folder {self._media}: its owner file cannot be written")

    def close(self) -> None:
        """Give the folder back."""
        self._stop.set()
        self._thread.join()
        with self._turn, suppress(OSError):
            found = _read(self._media)
            if found is not None and found.token == self.owner.token:
                _path(self._media).unlink()

    def _run(self) -> None:
        while not self._stop.wait(min(BEAT_S, _TICK_S)):
            if _now() - self._beaten_at >= BEAT_S or self._gone_since is not None:
                self._beat()

    def _beat(self) -> None:
        """Write the owner file anew; an obstacle passes, or `check` reports it in time."""
        with self._turn, suppress(OSError):
            found = _read(self._media)
            if found is None:
                if not self._may_be_made_again():
                    return
                _path(self._media).parent.mkdir(mode=0o700, exist_ok=True)
                _make(_path(self._media), self.owner)
            elif found.token != self.owner.token:
                why = f"{found.in_words} has taken it over from this one"
                self._lost = MediaFolderTaken(self._media, why, "stop one of the two, or give it another media.dir")
                return
            else:
                _touch(self._media, self.owner)
            self._gone_since = None
            self._beaten_at = _now()

    def _may_be_made_again(self) -> bool:
        """Whether an owner file that is gone is to be made anew: in the folder that was ours, or one in its place."""
        now = _now()
        self._gone_since = self._gone_since or now
        device, _ = _identity(self._media)  # another device: a file system is not mounted that was
        return device == self._folder[0] and (_path(self._media).parent.is_dir() or now - self._gone_since >= GRACE_S)


@contextmanager
def locked(media: Path) -> Iterator[bool]:
    """Keep other exporters of this kernel out of a media folder.

    Yields:
        Whether the file system has locks.

    Raises:
        MediaFolderTaken: Another exporter works there.
    """
    descriptor = os.open(media, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        has_locks = True
        try:
            locks.try_to_lock(descriptor)
        except locks.LockBusy:
            found = _found(media)
            why = f"{found.in_words}" if found is not None else "it has the folder locked"
            raise MediaFolderTaken(media, why, "wait for it to end, or choose another media.dir") from None
        except OSError:
            has_locks = False
        yield has_locks
    finally:
        os.close(descriptor)


@contextmanager
def owned(media: Path, ledger: Ledger, *, has_locks: bool, take_over: bool = False) -> Iterator[Ownership]:
    """Own a media folder while the block runs.

    Args:
        media: The folder; `.partial` is made in it.
        ledger: The ledger that is worked with.
        has_locks: Whether this process holds a lock on the folder: then no other process of this kernel lives there.
        take_over: Whether an owner that cannot be asked is taken for dead.

    Raises:
        MediaFolderTaken: Another exporter works there, or may.
        MediaFolderUnusable: The folder cannot be written.
        OutOfSpace: The disk is full, and no lock keeps others out.
    """
    try:
        owner = MediaFolderOwner.here(media, ledger)
        (media / PARTIAL).mkdir(mode=0o700, parents=True, exist_ok=True)
        former = _claim(media, owner, has_locks=has_locks, take_over=take_over)
    except OSError as error:
        raise out_of_space(f"media folder {media}", error) or MediaFolderUnusable(media, error) from error
    ownership = Ownership(media, owner, former)
    try:
        yield ownership
    finally:
        ownership.close()


def _claim(media: Path, owner: MediaFolderOwner, *, has_locks: bool, take_over: bool) -> MediaFolderOwner | None:
    """Write the owner file; the owner that it was taken over from, if there was one."""
    former: MediaFolderOwner | None = None
    for _ in range(_TRIES):
        found = _read(media)
        if found is None:
            with suppress(FileExistsError):
                _make_or_wait(_path(media), owner, has_locks=has_locks)
                return former
            continue
        _refuse_the_living(media, found, has_locks=has_locks, take_over=take_over)
        if _put_aside(media, found, owner.token):
            former = found
    raise MediaFolderTaken(media, "several exporters want it at once", "start one of them only")


def _make_or_wait(path: Path, owner: MediaFolderOwner, *, has_locks: bool) -> None:
    """Write the owner file; on a full disk, where a lock keeps others out, leave that to a later beat."""
    try:
        _make(path, owner)
    except OSError as error:
        if not is_out_of_space(error) or not has_locks:
            raise


def _refuse_the_living(media: Path, found: MediaFolderOwner, *, has_locks: bool, take_over: bool) -> None:
    """Return where an owner is dead.

    Raises:
        MediaFolderTaken: It is not, or may not be.
    """
    is_alive = _is_alive(media, found, has_locks=has_locks)
    if is_alive is False:
        return
    if is_alive:
        raise MediaFolderTaken(media, found.in_words, "wait for it to end, or choose another media.dir")
    if take_over:
        return
    age_s = _age_s(media)
    if age_s > STALE_S:
        until = time.monotonic() + WATCH_S
        while time.monotonic() < until and _age_s(media) >= age_s and _read(media) == found:
            time.sleep(min(_TICK_S, WATCH_S / 4))
        if time.monotonic() >= until:
            return
    why = f"{found.in_words}, last sign of life {max(age_s, 0):.0f} s ago"
    hint = (
        f"stop it, or choose another media.dir; if it is dead, start again once it has given no sign for {STALE_S:.0f} "
        "s, or with --take-over"
    )
    raise MediaFolderTaken(media, why, hint)


def _is_alive(media: Path, found: MediaFolderOwner, *, has_locks: bool) -> bool | None:
    """Whether an owner lives; None where that cannot be known here."""
    if found.boot and found.boot == boot_id():
        if has_locks and found.device == media.stat().st_dev:
            return False  # this kernel would have its lock
        return is_running(found.pid, found.started) if found.processes == process_namespace() else None
    is_same_host = bool(found.boot) and (found.host, found.machine) == (
        socket.gethostname(),
        text_of("/etc/machine-id"),
    )
    if is_same_host and _age_s(media) > time.clock_gettime(time.CLOCK_BOOTTIME):
        return False  # its last beat came before this host was started
    return None


def _put_aside(media: Path, found: MediaFolderOwner, token: str) -> bool:
    """Take away the owner file of a dead owner.

    Returns:
        Whether the file was still that owner's.
    """
    path, aside = _path(media), _path(media).with_name(f".{OWNER}-{token}-former")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return False
    if _read_at(aside) == found:
        aside.unlink()
        return True
    with suppress(OSError):  # somebody was faster: it is that one's
        if not os.path.lexists(path):
            aside.rename(path)
    with suppress(OSError):
        aside.unlink()
    return False


# -- the file --------------------------------------------------------------------------------------------------------


def _path(media: Path) -> Path:
    return media / PARTIAL / OWNER


def _found(media: Path) -> MediaFolderOwner | None:
    with suppress(OSError):
        return _read(media)
    return None


def _read(media: Path) -> MediaFolderOwner | None:
    """Owner of a media folder; None without one."""
    return _read_at(_path(media))


def _read_at(path: Path) -> MediaFolderOwner | None:
    try:
        is_link = stat.S_ISLNK(path.lstat().st_mode)
        text = os.readlink(path) if is_link else path.read_text(encoding="ascii")  # noqa: PTH115 - the text as it is
    except FileNotFoundError:
        return None
    return _parsed(text)


def _written(owner: MediaFolderOwner) -> str:
    """Contents of an owner file: a path that leads nowhere, of names that every file system permits."""
    return "/".join((_FORM, *(quote(str(value), safe="")[:200] or "-" for value in astuple(owner))))


def _parsed(text: str) -> MediaFolderOwner:
    form, *words = text.split("/")
    values: list[Any] = ["" if word == "-" else unquote(word) for word in words]
    try:
        for place in _NUMBERS:
            values[place] = int(values[place])
        return MediaFolderOwner(*values) if form == _FORM else UNKNOWN
    except (ValueError, TypeError, IndexError):
        return UNKNOWN


def _make(path: Path, owner: MediaFolderOwner) -> None:
    """Make a file that says who the owner is.

    Raises:
        FileExistsError: Something of that name is there.
        OSError: The file system refuses.
    """
    text = _written(owner)
    try:
        path.symlink_to(text)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)


def _touch(media: Path, owner: MediaFolderOwner) -> None:
    """Give an owner file the time of now, by the file system's own clock; it takes no space."""
    try:
        os.utime(_path(media), follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _replace(media, owner)


def _replace(media: Path, owner: MediaFolderOwner) -> None:
    path = _path(media)
    fresh = path.with_name(f".{OWNER}-{owner.token}")
    fresh.unlink(missing_ok=True)
    _make(fresh, owner)
    fresh.replace(path)


def _age_s(media: Path) -> float:
    """Seconds since the last beat, by the file system's own clock; 0 where there is no owner file any more."""
    probe = _path(media).with_name(f".{OWNER}-{secrets.token_hex(8)}")
    _make(probe, UNKNOWN)
    try:
        return (probe.lstat().st_mtime_ns - _path(media).lstat().st_mtime_ns) / 1e9
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink()


# -- the machine -----------------------------------------------------------------------------------------------------


def _identity(folder: Path) -> tuple[int, int]:
    there = folder.stat()
    return there.st_dev, there.st_ino


def _now() -> float:
    """Seconds since this host was started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
