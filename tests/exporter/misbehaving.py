"""Jobs for worker processes under test: the name of the file to export says how the job behaves."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import OutOfSpace, Reason, SkipReason, StorageUnavailable
from exporter.outcome import Exported, Failed, InstanceIdentity, MediaFile, MediaType, Skipped

if TYPE_CHECKING:
    from exporter.work.protocol import Export, Steps, WorkerJob

KEPT: list[bytes] = []


def identity(content: str = "c") -> InstanceIdentity:
    """An identity with that content."""
    uid = "1.2.4" if content == "hang" else "1.2.3"  # others shall not wait for the output name of one that never ends
    return InstanceIdentity("1.2.840.10008.5.1.4.1.1.7", uid, "1.2", "1.2.1", content)


def prepare(settings: dict[str, Any]) -> Export:
    """The export function; ``settings["prepare"]`` makes the start itself go wrong."""
    if settings.get("prepare") == "crash":
        raise RuntimeError("no such library")
    if settings.get("prepare") == "hang":
        time.sleep(600)
    return export


def export(job: WorkerJob) -> Steps:  # noqa: PLR0911 - one for each word
    """Do what the file's name says."""
    word = Path(job.path).name.partition(".")[0]
    yield identity(word)
    match word:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "fault":
            ctypes.string_at(8)
        case "abort":
            os.abort()
        case "leave":
            os._exit(7)
        case "hang":
            time.sleep(600)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "spin":
            while True:
                pass
        case "eat":
            try:
                return Failed(Reason.INTERNAL, str(len(bytearray(4 << 30))), may_pass=False)
            except MemoryError:
                return Failed(Reason.TOO_LARGE, "needs more than limits.memory_mb", may_pass=False)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "shared":  # as if the memory did not hold two of them: the second one's start kills the first
            _kill_the_other(Path(job.path).parent)
        case "grow":
            KEPT.append(os.urandom(40 << 20))
        case "babble":
            print("Doe^Jane" * 100_000)  # noqa: T201
            sys.stderr.write("Doe^Jane" * 100_000)
            os.write(1, b"outcome {}\n")
        case "nonsense":
            os.write(_answers(), b'outcome {"status": "exported"}\n')
        case "garbage":
            os.write(_answers(), b"\xff\xfe" * 1000 + b"\n")
        case "full":
            raise OutOfSpace("writing a.png: no space left")
        case "write":
            _write(Path(job.folder) / "0.part", 3 << 20)
        case "pid":
            return Failed(Reason.INTERNAL, str(os.getpid()), may_pass=False)
        case "export":
            return written(job)
        case "vanish":
            return vanishing(job)
        case "unfold":
            outcome = written(job)
            shutil.rmtree(job.folder)
            return outcome
        case _:
            pass
    return Skipped(SkipReason.NO_MEDIA, word, identity(word), "{}")


def _kill_the_other(folder: Path) -> None:
    """Wait for the process that works on another file of this kind and kill it; nothing, once that has happened."""
    mine, happened = folder / f"{os.getpid()}.shared", folder / "happened"
    mine.touch()
    deadline = time.monotonic() + 100
    while not happened.exists() and time.monotonic() < deadline:
        for other in set(folder.glob("*.shared")) - {mine}:
            with suppress(FileExistsError):  # only one of the two
                happened.touch(exist_ok=False)
                os.kill(int(other.stem), signal.SIGKILL)
        time.sleep(0.01)


def written(job: WorkerJob) -> Exported:
    """One small file of the input's own bytes."""
    data = Path(job.path).read_bytes()
    (Path(job.folder) / "0.part").write_bytes(data)
    medium = MediaFile("0.part", ".png", MediaType.IMAGE, len(data), "0" * 64, "png")
    return Exported(identity("export"), (medium,), "{}", "1" * 64, "2" * 64)


def vanishing(job: WorkerJob) -> Exported:
    """The same, once the folder that the file `vanish` names has been taken away, if there is that file."""
    root = Path(job.path).parents[1]
    order = root / "vanish"
    if order.exists():
        Path(order.read_text()).rename(root / "away")
    try:
        return written(job)
    except FileNotFoundError:
        raise StorageUnavailable("a folder of ours") from None


def _write(path: Path, size: int) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(bytes(size))
        file.write(b"more")


def _answers() -> int:
    """The worker's own end of the pipe to its parent, as a worker taken over by its input would find it."""
    return next(fd for fd in range(3, 64) if _is_pipe_to_write(fd))


def _is_pipe_to_write(fd: int) -> bool:
    import fcntl
    import stat

    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return False
