"""The product and a real Orthanc: instances come and are deleted while either side is killed; each is exported once."""

from __future__ import annotations

import collections
import contextlib
import http.client
import io
import os
import random
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from tests.orthanc_server import OrthancRefused, OrthancServer
from tests.product.running import run, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.product.running import Product

FULL = os.environ.get("EXPORTER_TEST_ORTHANC") == "full"
INSTANCES, KILLS, RESTARTS, DELETED = (300, 5, 2, 50) if FULL else (60, 2, 1, 10)


def image(uid: UID, series: str, rng: np.random.Generator) -> bytes:
    """A file with noise of its own."""
    found = pydicom.Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID = SecondaryCaptureImageStorage
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID = uid
    found.PatientID, found.Modality = "P1", "OT"
    found.StudyInstanceUID, found.SeriesInstanceUID = "2.25.1", series
    found.Rows = found.Columns = 64
    found.SamplesPerPixel, found.PhotometricInterpretation = 1, "MONOCHROME2"
    found.BitsAllocated, found.BitsStored, found.HighBit, found.PixelRepresentation = 8, 8, 7, 0
    found.PixelData = rng.integers(0, 256, (64, 64), dtype=np.uint8).tobytes()
    written = io.BytesIO()
    found.save_as(written, enforce_file_format=True)
    return written.getvalue()


class Modality(threading.Thread):
    """Stores one instance after another in Orthanc, and deletes some: at once, or a while later."""

    def __init__(self, server: OrthancServer, seed: int) -> None:
        super().__init__()
        self.server = server
        self.uids = [generate_uid() for _ in range(INSTANCES)]
        chosen = random.Random(seed).sample(range(INSTANCES - 1), DELETED)  # noqa: S311 - no secret
        self.deleted = {self.uids[number] for number in chosen}
        self.stored = 0
        self._at_once, self._later = set(chosen[::2]), set(chosen[1::2])
        self._rng = np.random.default_rng(seed)

    def run(self) -> None:
        series = str(generate_uid())
        names: list[str] = []
        for number, uid in enumerate(self.uids):
            content = image(uid, series, self._rng)
            names.append(self._insist(self.server.add, content))
            if number in self._at_once:
                self._insist(self.server.delete, names[number])
            if number - 15 in self._later:
                self._insist(self.server.delete, names[number - 15])
            self.stored += 1
            time.sleep(0.02)  # so that kills come in the middle of it
        for number in self._later:
            if number + 15 >= INSTANCES:
                self._insist(self.server.delete, names[number])

    def has_stored(self, share: float) -> bool:
        """Whether so much of it is stored."""
        assert self.is_alive() or self.stored == INSTANCES, "the modality has failed"
        return self.stored >= share * INSTANCES

    def _insist(self, ask: Callable[[Any], Any], value: object) -> Any:
        """Ask until it is answered: the server may be away."""
        end = time.monotonic() + 100
        while True:
            try:
                return ask(value)
            except OrthancRefused as refused:
                if refused.status == 404:  # deleted, by the request that was not answered
                    return None
                raise
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < end, "Orthanc stays away"
                time.sleep(0.02)


@pytest.mark.slow
def test_each_instance_is_exported_once_while_either_side_is_killed_and_some_are_deleted(
    make_product: Callable[..., Product], peer: Callable[[str], str], tmp_path: Path
) -> None:
    with OrthancServer(peer("Orthanc"), tmp_path / "orthanc") as server:
        extra = f"orthanc:\n  url: {server.url}\n  name: tested\n  poll_s: 0.1\n  reconcile_s: 5\n  pause_s: 0.2\n"
        product = make_product(extra)
        product.start("run")
        product.start("listener")
        # What vanished before the first look at a log is not counted: let there be one before anything is deleted.
        server.add(image(generate_uid(), str(generate_uid()), np.random.default_rng(5)))
        first = newest_change(server)
        until(lambda: at_rest(product, first), seconds=60, describe="the poller has read the log")
        modality = Modality(server, seed=6)
        modality.start()
        try:
            trouble(product, server, modality)
        finally:
            modality.join(120)
        left = set(modality.uids) - modality.deleted
        until(lambda: left <= set(exported(product)), seconds=120, describe="every instance that is left is exported")
        last = newest_change(server)
        gauges = until(lambda: at_rest(product, last), seconds=30, describe="the poller is at rest")
        status = product.settled(seconds=120)
        product.stop("listener")
        product.stop("run")

    found = exported(product)
    assert {uid for uid, count in found.items() if count > 1} == set()
    lost = modality.deleted - set(found)
    told = gauges["orthanc_tested_gone"] + gauges["orthanc_tested_vanished"]
    print(  # noqa: T201 - figures of this run
        f"{len(found)} exported of {INSTANCES}; of {DELETED} deleted {DELETED - len(lost)} were exported before;"
        f" gone {gauges['orthanc_tested_gone']}, vanished {gauges['orthanc_tested_vanished']};"
        f" spooled twice and told apart {status['duplicates']}"
    )
    assert len(lost) <= told
    assert lost
    assert status["quarantined"] == 0
    assert status["duplicates"] <= KILLS * 8, "more than what was under way at a kill was taken twice"
    done = run("reconcile", "--data", product.data)
    assert done.returncode == 0, done.stdout


def trouble(product: Product, server: OrthancServer, modality: Modality) -> None:
    """Kill the listener and restart Orthanc, spread over the arrivals."""
    kills = [("listener", (number + 1) / (KILLS + 1)) for number in range(KILLS)]
    restarts = [("orthanc", (number + 0.5) / (RESTARTS + 0.3)) for number in range(RESTARTS)]
    rng = random.Random(42)  # noqa: S311 - no secret
    for what, when in sorted(kills + restarts, key=lambda event: event[1]):
        until(partial(modality.has_stored, when), seconds=120, describe="instances arrive")
        time.sleep(rng.uniform(0, 0.2))
        if what == "listener":
            product.stop("listener", signal.SIGKILL)
            time.sleep(rng.uniform(0, 0.3))
            product.start("listener", ready=False)
        else:
            server.restart(rng.choice([signal.SIGTERM, signal.SIGKILL]))


def exported(product: Product) -> collections.Counter[str]:
    """Instances by how often they were exported, from the metadata lines."""
    with contextlib.suppress(FileNotFoundError, AssertionError):
        return collections.Counter(
            line["SOP Instance UID"] for line in product.lines if line["export"]["status"] == "exported"
        )
    return collections.Counter()


def newest_change(server: OrthancServer) -> int:
    """Number of the last change that is still there."""
    page: dict[str, Any] = {"Done": False, "Last": 0}
    last = 0
    while not page["Done"]:
        page = server.json(f"/changes?since={page['Last']}&limit=1000")
        last = page["Changes"][-1]["Seq"] if page["Changes"] else last
    return last


def at_rest(product: Product, last: int) -> dict[str, int] | None:
    """What the listener counts, once it has nothing to do any more."""
    listener = product.status().get("listener")  # its port may be open before it has counted anything
    gauges: dict[str, int] = listener["gauges"] if listener is not None else {}
    rests = gauges.get("orthanc_tested_waiting") == 0 and gauges.get("orthanc_tested_position", 0) >= last
    return gauges if rests and gauges.get("orthanc_tested_failed") == 0 else None
