"""F54: killed at every system call of one instance's way, one after another; started again; nothing is lost.

strace kills the daemon as it enters the n-th write, fsync, rename, unlink or mkdir, for n = 1, 2, ... until the
instance gets through. Each thread counts its own calls, as strace does. Every point is followed by a restart and the
invariants I1-I3.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.exporter.rejecting import image_uid, note, save_image, save_note
from tests.faults.daemons import ONE_PROCESS, Daemons, Late, daemons, run, wait_for
from tests.faults.instances import STORAGE, instance
from tests.faults.invariants import check_settled, check_visible, lines_of, media_files, spool_files, whole_spool_files
from tests.faults.report import Row, Scale, attempt
from tests.faults.senders import program
from tests.faults.tracing import WRITING, attached, killed_at, wrapped
from tests.product.running import family
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FAULT: Final = "F54 crash points"
NO_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": "1"}
"""Writing Python's own caches is no part of an instance's way."""


@dataclass
class Points:
    """What was enumerated."""

    killed: int = 0
    by_call: dict[str, int] = field(default_factory=dict)
    acknowledged: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, call: str) -> None:
        self.killed += 1
        self.by_call[call] = self.by_call.get(call, 0) + 1

    @property
    def figure(self) -> str:
        calls = ", ".join(f"{count} {call}" for call, count in self.by_call.items())
        return f"{self.killed} points ({calls}); {self.acknowledged} acknowledged in spite of them"


# -- listener --------------------------------------------------------------------------------------------------------


def listener_points(scratch: Path, scale: Scale, *, damaged: bool, calls: tuple[str, ...] = WRITING) -> Row:
    """One instance is sent; the listener dies at the n-th call; nothing partial shows, what was answered is kept."""
    points = Points()
    for call in calls:
        for number in range(1, scale.points + 1):
            if not _kill_listener(scratch / f"{call}-{number}", call, number, points, damaged=damaged):
                break
    what = "listener, one instance refused" if damaged else "listener, one instance"
    return Row(FAULT, what, points.killed, tuple(points.violations), points.figure)


def _kill_listener(scratch: Path, call: str, number: int, points: Points, *, damaged: bool) -> bool:
    """Whether the listener died at this call; False where the instance needs fewer of them."""
    data = scratch / "data"
    scratch.mkdir(parents=True)
    uid, content = instance()
    path = scratch / "one.dcm"
    path.write_bytes(content[:-3000] if damaged else content)
    with daemons(data, scratch / "logs", extra=ONE_PROCESS) as product:
        listener = product.start("listener")
        options = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        with attached(listener.pid, scratch / "strace.log", *options):
            acknowledged = _send_damaged(product, path) if damaged else send(product, path)

            def over() -> bool:
                return listener.poll() is not None or '"ended":"released"' in product.log("listener")

            wait_for(over, 20, "the association ends, or the listener")
            died = listener.poll() is not None
        if not died:
            return False
        points.add(call)
        here = f"{call} {number}"
        if damaged:
            _check_refused(data, path.read_bytes(), points, here)
        else:
            _check_spool(data, [uid] if acknowledged else [], points, here)
        product.processes.pop("listener")
        product.start("listener")
        if list((data / "spool" / "tmp").iterdir()):
            points.violations.append(f"{here}: unfinished files stay after the restart")
        if not damaged and not send(product, path):
            points.violations.append(f"{here}: the listener started again does not store")
        points.acknowledged += acknowledged
    shutil.rmtree(scratch, ignore_errors=True)
    return True


def send(product: Daemons, path: Path) -> bool:
    """Send one instance with DCMTK; whether it was acknowledged."""
    done = subprocess.run(
        [program("storescu"), "-v", "-to", "5", "-td", "10", "-aec", "EXPORTER", "127.0.0.1", str(product.port), path],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )
    return "Received Store Response (Success)" in done.stdout + done.stderr


def _send_damaged(product: Daemons, path: Path) -> bool:
    """Send a file as it is, which DCMTK would not do with a damaged one; never acknowledged as stored."""
    from pydicom.uid import ExplicitVRLittleEndian
    from pynetdicom import AE, _config

    entity = AE()
    entity.acse_timeout = entity.dimse_timeout = 10
    entity.add_requested_context(STORAGE, ExplicitVRLittleEndian)
    association = associate(entity, "127.0.0.1", product.port, ae_title="EXPORTER")
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        answer = association.send_c_store(path)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = False
    release(association)
    return bool(answer) and answer.Status == 0


def _check_spool(data: Path, acknowledged: list[str], points: Points, here: str) -> None:
    found: list[str] = []
    kept = whole_spool_files(data / "spool", found)
    points.violations += [f"{here}: {violation}" for violation in found]
    points.violations += [f"{here}: an acknowledged instance is lost" for uid in acknowledged if uid not in kept]


def _check_refused(data: Path, sent: bytes, points: Points, here: str) -> None:
    """A refused file is kept as it came, to its last byte, and nowhere but in quarantine."""
    for path in spool_files(data / "spool"):
        if "quarantine" not in path.parts or path.read_bytes()[-1000:] != sent[-1000:]:
            points.violations.append(f"{here}: partial file visible in spool/{path.parent.name}")


# -- exporter --------------------------------------------------------------------------------------------------------


def exporter_points(scratch: Path, scale: Scale, *, frames: int, calls: tuple[str, ...] = WRITING) -> Row:
    """One instance waits in the spool; the exporter, or its worker, dies at the n-th call; the next one finishes."""
    points = Points()
    template = scratch / "template"
    uid = _prepare(template, frames)
    for call in calls:
        for number in range(1, scale.points + 1):
            if not _kill_exporter(scratch / f"{call}-{number}", template, uid, (call, number), points):
                break
    what = f"exporter, one instance, {frames} frames"
    return Row(FAULT, what, points.killed, tuple(points.violations), points.figure)


def _prepare(template: Path, frames: int) -> str:
    """A data folder that was used before, with one instance waiting."""
    template.mkdir(parents=True)
    with daemons(template / "data", template / "logs") as product:
        product.start("listener")
        for is_last in (False, True):
            uid, content = instance(frames=frames)
            path = template / "one.dcm"
            path.write_bytes(content)
            assert send(product, path)
            if not is_last:
                product.start("run")
                product.settled()
                product.stop("run")
        product.stop("listener")
    return uid


def _kill_exporter(scratch: Path, template: Path, uid: str, point: tuple[str, int], points: Points) -> bool:
    """Whether a process of the exporter died at this call; False where none makes so many."""
    call, number = point
    shutil.copytree(template / "data", scratch / "data", symlinks=True)
    data = scratch / "data"
    settings = "num_workers: 1\n"
    with daemons(data, scratch / "logs", extra=settings, environment=NO_BYTECODE) as product:
        inject = f"{call}:signal=KILL:when={number}"
        exporter = product.start("run", wrap=wrapped(inject, scratch / "strace.log"))

        def finished() -> bool:
            waiting = [p for p in spool_files(data / "spool") if p.parent.name in {"new", "active"}]
            return exporter.poll() is not None or not waiting

        wait_for(finished, 120, f"the exporter ends or finishes, {call} {number}")
        if exporter.poll() is None:  # strace itself would swallow the signal
            for pid in family(exporter.pid)[1:2]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            exporter.wait(timeout=60)
        product.kill_all()
        if not killed_at(scratch / "strace.log", call, number):
            shutil.rmtree(scratch, ignore_errors=True)
            return False
        points.add(call)
        found: list[str] = []
        check_visible(data, found)
        product.start("run")
        product.settled(120)
        found += product.reconciled()
        product.stop("run")
        found += check_settled(data, [uid])
        points.violations += [f"{call} {number}: {violation}" for violation in found]
    if not found:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


# -- backfill --------------------------------------------------------------------------------------------------------


def backfill_points(scratch: Path, scale: Scale, *, calls: tuple[str, ...] = WRITING) -> Row:
    """A folder of two files; `exporter backfill` dies at the n-th call; the same command again finishes."""
    points = Points()
    source = scratch / "in"
    source.mkdir(parents=True)
    uids = []
    for frames in (1, 3):
        uid, content = instance(frames=frames)
        (source / f"{frames}.dcm").write_bytes(content)
        uids.append(uid)
    for call in calls:
        for number in range(1, scale.points + 1):
            if not _kill_backfill(scratch / f"{call}-{number}", source, uids, (call, number), points):
                break
    return Row(FAULT, "backfill, two files", points.killed, tuple(points.violations), points.figure)


def _kill_backfill(scratch: Path, source: Path, uids: list[str], point: tuple[str, int], points: Points) -> bool:
    call, number = point
    out = scratch / "out"
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "exporter", "backfill", str(source), "--output", str(out), "--workers", "1"]
    log = scratch / "strace.log"
    subprocess.run(
        [*wrapped(f"{call}:signal=KILL:when={number}", log), *command],
        capture_output=True,
        check=False,
        timeout=180,
        env={**os.environ, **NO_BYTECODE},
    )
    if not killed_at(log, call, number):
        shutil.rmtree(scratch, ignore_errors=True)
        return False
    points.add(call)
    found: list[str] = []
    check_visible(out, found)
    again = run("backfill", source, "--output", out, "--workers", "1", timeout=180)
    if again.returncode != 0:
        found.append(f"the same command again ends with {again.returncode}: {again.stderr[-200:]}")
    found += check_settled(out, uids)
    reconciled = run("reconcile", "--data", out)
    found += [f"reconcile: {reconciled.stdout[-200:]}"] * (reconciled.returncode != 0)
    lines = (out / "metadata.jsonl").read_bytes()
    third = run("backfill", source, "--output", out, "--workers", "1", timeout=180)
    if third.returncode != 0 or (out / "metadata.jsonl").read_bytes() != lines:
        found.append("a third run is not without effect")
    points.violations += [f"{call} {number}: {violation}" for violation in found]
    if not found:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


# -- rejection -------------------------------------------------------------------------------------------------------


def rejection_points(scratch: Path, numbers: Sequence[int], *, calls: tuple[str, ...] = WRITING) -> Row:
    """An output of two images, and a note that rejects one; `exporter backfill` dies at the n-th call."""
    points = Points()
    source, out, config = scratch / "in", scratch / "template", scratch / "config.yml"
    config.write_text("media: {on_rejection: withdraw}\nnum_workers: 1\n")
    for number in (1, 2):
        save_image(source, number)
    done = run("backfill", source, "--output", out, "--config", config, timeout=180)
    if done.returncode != 0:
        raise Late(f"the first export ends with {done.returncode}")
    save_note(source, "z.dcm", note([image_uid(2)]))
    for call in calls:
        for number in numbers:
            if not _kill_rejection(scratch, source, (call, number), points):
                break
    return Row(FAULT, "backfill, a rejection note", points.killed, tuple(points.violations), points.figure)


def _kill_rejection(scratch: Path, source: Path, point: tuple[str, int], points: Points) -> bool:
    call, number = point
    out, log = scratch / f"{call}-{number}", scratch / f"{call}-{number}.log"
    shutil.copytree(scratch / "template", out)
    options = ["backfill", str(source), "--output", str(out), "--config", str(scratch / "config.yml")]
    subprocess.run(
        [*wrapped(f"{call}:signal=KILL:when={number}", log), sys.executable, "-m", "exporter", *options],
        capture_output=True,
        check=False,
        timeout=180,
        env={**os.environ, **NO_BYTECODE},
    )
    if not killed_at(log, call, number):
        return False
    points.add(call)
    found = []
    again = run(*options, timeout=180)
    if again.returncode != 0:
        found.append(f"the same command again ends with {again.returncode}: {again.stderr[-200:]}")
    images = sorted(path.name for path in media_files(out / "media") if path.suffix == ".png")
    if images != ["m1.png"]:
        found.append(f"the media folder holds {images}")
    lines = lines_of(out / "metadata.jsonl", found, at_rest=True)
    statuses = [line["export"]["status"] for line in lines if line["dicom_file"] == "m2.dcm"]
    if statuses != ["exported", "withdrawn"]:
        found.append(f"the lines of the rejected instance say {statuses}")
    reconciled = run("reconcile", "--deep", "--data", out)
    found += [f"reconcile: {reconciled.stdout[-200:]}"] * (reconciled.returncode != 0)
    points.violations += [f"{call} {number}: {violation}" for violation in found]
    return True


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Every row of the crash points."""
    for name, measure in (
        ("listener", partial(listener_points, scale=scale, damaged=False)),
        ("listener-refused", partial(listener_points, scale=scale, damaged=True)),
        ("exporter", partial(exporter_points, scale=scale, frames=1)),
        ("exporter-cine", partial(exporter_points, scale=replace(scale, points=min(scale.points, 4)), frames=3)),
        ("backfill", partial(backfill_points, scale=replace(scale, points=min(scale.points, 12)))),
        ("rejection", partial(rejection_points, numbers=range(1, min(scale.points, 40) + 1))),
    ):
        at = scratch / f"crash-{name}"
        at.mkdir(parents=True)
        yield attempt(FAULT, name, partial(measure, at))
