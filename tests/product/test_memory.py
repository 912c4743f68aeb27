"""Large instances are received, and a gigabyte of frames goes through, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.listener.requestor import Requestor, data_set, pdu, pdv
from tests.product.hostile import US, element, header, meta
from tests.product.running import family, peak_resident_mb, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.product.running import Product

FRAMES = 2048
LIMIT_MB = 300
FULL = os.environ.get("EXPORTER_TEST_PEERS") == "full"
SIZES_MB = (2000, 500) if FULL else (200, 50)
"""One alone, then eight at once."""
RECEIVING_MB = 150


def gigabyte(path: Path) -> str:
    """Write 2,048 frames of 512 x 512 x 16 bit: one real frame, moved a little in each. Its SOP Instance UID."""
    source = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    frame = np.tile(source.pixel_array.astype("<u2"), (8, 8))
    uid = generate_uid()
    header = pydicom.Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.Modality = "OT"
    header.Rows, header.Columns = frame.shape
    header.NumberOfFrames = FRAMES
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.FrameIncrementPointer = 0x00181063
    header.FrameTime = 40
    header.save_as(path, enforce_file_format=True)
    with path.open("ab") as file:
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + (frame.nbytes * FRAMES).to_bytes(4, "little"))
        for k in range(FRAMES):
            file.write(np.roll(frame, k, axis=1).tobytes())
    return uid


@pytest.mark.slow
def test_one_gigabyte_is_received_and_exported_in_under_300_mb(
    product: Product, tmp_path: Path, peer: Callable[[str], str]
) -> None:
    path = tmp_path / "gigabyte.dcm"
    uid = gigabyte(path)
    server = product.start("serve")
    peaks: dict[int, float] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            for pid in family(server.pid):
                try:
                    peaks[pid] = max(peaks.get(pid, 0), peak_resident_mb(pid))
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        command = [peer("dcmsend"), "-aec", "EXPORTER", "127.0.0.1", str(product.port), str(path)]
        subprocess.run(command, check=True, timeout=300)
        status = product.settled(seconds=500)
    finally:
        stop.set()
        watcher.join()
    assert status["exported"] == 1, status
    (line,) = product.lines
    assert line["SOP Instance UID"] == uid
    (medium,) = line["export"]["media"]
    assert medium["frames"] == FRAMES
    assert medium["duration_s"] == pytest.approx(FRAMES * 0.040, abs=0.01)
    assert len(peaks) >= 2, "the watch saw the daemon and a worker"
    assert max(peaks.values()) < LIMIT_MB, peaks


def send_large(port: int, uid: str, size_mb: int) -> int:
    """Store an instance of so many megabytes, all zeros; the status of the response."""
    content = data_set(uid, pixels=b"")
    piece = bytes(125_000)  # within the longest PDU that the listener takes by default
    count = size_mb * 1_000_000 // len(piece)
    with Requestor(port, wait_s=300) as requestor:
        assert requestor.associate()[0] == 2
        requestor.send(pdu(4, pdv(1, 3, requestor.store_command(uid))))
        requestor.send(pdu(4, pdv(1, 0, content[:-4] + (count * len(piece)).to_bytes(4, "little"))))
        for number in range(1, count + 1):
            requestor.send(pdu(4, pdv(1, 2 if number == count else 0, piece)))
        status = requestor.response().status
        assert requestor.release() == 6
    return status


@pytest.mark.slow
def test_large_instances_one_alone_and_eight_at_once_are_received_in_under_150_mb(product: Product) -> None:
    """By all receiving processes together: the sum counts what they share once for each, and each at its own peak."""
    product.extra = "  processes: 2\n"
    listener = product.start("listener")
    alone, each = SIZES_MB
    assert send_large(product.port, "1.2.1", alone) == 0
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(send_large, product.port, f"1.2.2.{number}", each) for number in range(8)]
        assert {one.result() for one in sent} == {0}
    peaks = [peak_resident_mb(pid) for pid in family(listener.pid)]
    assert len(peaks) == 2
    print(f"{alone} MB, then 8 of {each} MB at once: {' and '.join(f'{peak:.0f}' for peak in peaks)} MB")  # noqa: T201
    assert sum(peaks) < RECEIVING_MB
    assert product.stop("listener") == 0
    sizes = sorted(path.stat().st_size for path in (product.data / "spool" / "new").iterdir())
    assert len(sizes) == 9
    assert sizes[-1] > alone * 1_000_000


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
"""Control groups of version 1; those of version 2 have their limit at the top."""
SHORT_MB = 170
"""Too little for one frame of 64 MB."""
SHORT_FOR_TWO_MB = 120
"""Too little for two workers at 128 frames of half a megabyte each, enough for one."""


@contextmanager
def memory_group(limit_mb: int) -> Iterator[Path]:
    """A control group of so much memory: a process is in it once its number is written into the file."""
    top = MEMORY_GROUPS if MEMORY_GROUPS.is_dir() else MEMORY_GROUPS.parent
    group = top / f"exporter-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if MEMORY_GROUPS.is_dir() else "memory.max")
        limit.write_text(str(limit_mb << 20))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no control group for memory can be made ({error.strerror})")
    try:
        yield group / "cgroup.procs"
    finally:
        deadline = time.monotonic() + 100
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        group.rmdir()


def backfill_within(procs: Path, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Export with two workers, within the memory of a control group."""
    script = 'echo $$ > "$0" && exec "$@"'
    exporter = (sys.executable, "-m", "exporter", "backfill", folder, "--output", out, "--workers", "2")
    command = ["sh", "-c", script, *map(str, (procs, *exporter))]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)


def sound(path: Path, frames: int, side: int) -> None:
    """An instance of 16 bits of so many frames."""
    ramp = (np.add.outer(np.arange(side), np.arange(side)) % 4096).astype("<u2")
    uid = generate_uid()
    values = {"allocated": US(16), "stored": US(12), "high": US(11), "frames": f"{frames} ".encode()}
    head = header(uid, rows=US(side), columns=US(side), **values)
    with path.open("wb") as file:
        file.write(meta(ExplicitVRLittleEndian, uid) + head)
        file.write(element(0x7FE0, 0x0010, b"OW", b"", length=ramp.nbytes * frames))
        for number in range(frames):
            file.write(np.roll(ramp, number).tobytes())


@pytest.mark.slow
def test_eight_sound_instances_of_64_mb_are_exported_where_memory_holds_only_one_at_a_time(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(8):
        sound(folder / f"{number}.dcm", frames=128, side=512)
    with memory_group(SHORT_FOR_TWO_MB) as procs:
        done = backfill_within(procs, folder, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exported 8;" in done.stdout
    assert "memory is short: running 1 of 2 workers" in done.stderr


@pytest.mark.slow
def test_what_memory_does_not_hold_at_all_stays_pending_and_is_exported_with_more(tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    sound(folder / "large.dcm", frames=1, side=5792)
    (folder / "small.dcm").write_bytes(Path(str(pydicom.data.get_testdata_file("CT_small.dcm"))).read_bytes())
    with memory_group(SHORT_MB) as procs:
        done = backfill_within(procs, folder, out)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "exported 1;" in done.stdout
    assert "1 left pending: memory is short" in done.stdout
    status = json.loads(run("status", "--json", "--data", out).stdout)
    assert (status["pending"], status["failed"]) == (1, 0)
    assert status["reasons"]["pending"] == {"memory_short": 1}
    assert run("backfill", folder, "--output", out).returncode == 0
