"""kill -9 of daemons and of what they start, at random under load: nothing acknowledged is lost, torn or doubled."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from tests.listener.requestor import EXPLICIT, Requestor, proposed
from tests.product.running import family, run

if TYPE_CHECKING:
    from tests.product.running import Product

KILLS = int(os.environ.get("EXPORTER_TEST_KILLS", "12"))
OF = {"receiving process": "listener", "worker": "run"}
"""Which daemon starts such processes, and goes on when one of them is killed."""
STORAGE = "1.2.840.10008.5.1.4.1.1.7.2"


def instance(rng: np.random.Generator, uid: str, frames: int) -> bytes:
    """The data set of a small instance with noise of its own, one frame or a few."""
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = STORAGE, uid
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.Rows = ds.Columns = 64
    ds.NumberOfFrames = frames
    ds.FrameTime = 40
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = rng.integers(0, 256, (frames, 64, 64), dtype=np.uint8).tobytes()
    ds["PixelData"].VR = "OB"
    with DicomBytesIO() as buffer:
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        return buffer.getvalue()


class Sender(threading.Thread):
    """Sends one instance after another, reconnecting as long as it takes; remembers what was acknowledged."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__()
        self.port, self.rng = port, np.random.default_rng(seed)
        self.acknowledged: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            # A killed listener cuts the connection at any byte: what is not answered is not acknowledged.
            with contextlib.suppress(OSError, AssertionError), Requestor(self.port, wait_s=30) as requestor:
                if requestor.associate(proposed(1, STORAGE, EXPLICIT))[0] == 2:
                    self._send(requestor)
            self.stop.wait(0.05)

    def _send(self, requestor: Requestor) -> None:
        while not self.stop.is_set():
            uid = str(generate_uid())
            content = instance(self.rng, uid, frames=int(self.rng.choice([1, 1, 1, 4])))
            if requestor.store(uid, content, sop_class=STORAGE).status == 0:
                self.acknowledged.append(uid)
            self.stop.wait(0.02)  # as fast as two cores can export, so that the backlog stays small


@pytest.mark.slow
def test_kill_9_at_random_under_load_loses_nothing_tears_nothing_doubles_nothing(product: Product) -> None:
    rng = random.Random(11112)  # noqa: S311 - which process dies is no secret
    product.extra = "  processes: 3\n"  # whatever the machine has; our own serves first, so that others get some, too
    product.start("listener")
    product.start("run")
    senders = [Sender(product.port, seed) for seed in range(2)]
    for sender in senders:
        sender.start()
    killed: collections.Counter[str] = collections.Counter()
    try:
        while killed.total() < KILLS:
            time.sleep(rng.uniform(0.3, 1.5))
            victim = rng.choice(["listener", "receiving process", "run", "worker"])
            if victim in OF:
                descendants = family(product.processes[OF[victim]].pid)[1:]
                if not descendants:
                    continue
                os.kill(rng.choice(descendants), signal.SIGKILL)
            else:
                assert product.stop(victim, signal.SIGKILL) == -signal.SIGKILL, "it lived until then"
                product.start(victim, ready=victim == "listener")
            killed[victim] += 1
    finally:
        for sender in senders:
            sender.stop.set()
        for sender in senders:
            sender.join(100)
    acknowledged = [uid for sender in senders for uid in sender.acknowledged]
    assert len(acknowledged) > 5 * KILLS, "there was load"
    status = product.settled()
    lines = product.lines
    seen = collections.Counter(line["SOP Instance UID"] for line in lines)
    assert list((product.data / "spool" / "quarantine").rglob("*.dcm")) == [], "nothing is judged for what was killed"
    assert [uid for uid in acknowledged if uid not in seen] == []
    assert [uid for uid, n in seen.items() if n > 1] == []
    assert status["exported"] == len(lines)
    told = {medium["path"] for line in lines for medium in line["export"]["media"]}
    assert {p.relative_to(product.data / "media").as_posix() for p in product.media} == told
    for path in product.media:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
    assert run("reconcile", "--data", product.data).returncode == 0
    print(f"{killed.total()} kills {dict(killed)}, {len(acknowledged)} acknowledged, {len(lines)} lines, 0 lost")  # noqa: T201
