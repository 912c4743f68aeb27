"""F30-F45: broken instances by the thousand, through backfill and through the listener; each gets a named reason.

A mutant is a seed of one codec with something changed in its header, its offsets or its codestream; its number makes
it again. Nothing but the instance and its worker process may suffer: no `internal`, no end of the run, bounded memory.
"""

from __future__ import annotations

import collections
import json
import random
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from exporter.dicom.elements import quiet_reading
from exporter.errors import Reason, SkipReason
from tests.faults.daemons import SMALL_MARKS, daemons, run
from tests.faults.invariants import media_files, opens, raw_lines
from tests.faults.report import Row, Scale, attempt
from tests.faults.seeds import seeds
from tests.faults.senders import Canary
from tests.product.hostile import write_hostile_files
from tests.product.running import family, peak_resident_mb
from tests.pynetdicom_requestor import associate, release

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FAULT: Final = "F30-F45 bad instances"
BATCH: Final = 2_000
LIMITS: Final = "limits: {cpu_s: 20, wall_s: 40}\n"
MOST_MB: Final = 1_500
"""Of one process: below `limits.memory_mb`, which bounds the address space."""
NUMBERS: Final = (0, 1, 2, 3, 7, 8, 16, 63, 64, 127, 255, 256, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 1 << 31, 0xFFFFFFFF)
UID_TEXT: Final = re.compile(r"[0-9.]{1,64}")
UNCOMPRESSED: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
SWAPS: Final = (
    b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.57", b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2.4.80",
    b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.2",
    b"1.2.840.10008.1.2.4.102", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.203",
)  # fmt: skip


def mutant(number: int) -> tuple[str, bytes]:
    """(what was done, bytes) of one mutant; the same for the same number."""
    rng = random.Random(number)  # noqa: S311 - a number makes the mutant again
    names = sorted(seeds())
    name = names[number % len(names)]
    data = bytearray(seeds()[name])
    start = 132 if data[128:132] == b"DICM" else 0
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        kind = rng.choice(("flip", "flip", "number", "number", "cut", "insert", "remove", "double", "pixels", "syntax"))
        done.append(kind)
        _mutate(rng, data, kind, start)
    return f"{name}: {' '.join(done)}", bytes(data)


def _mutate(rng: random.Random, data: bytearray, kind: str, start: int) -> None:
    if len(data) < start + 16:
        return
    at = rng.randrange(start, len(data))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 4, 32))):
            data[rng.randrange(start, len(data))] = rng.randrange(256)
    elif kind == "number":
        size = rng.choice((1, 2, 4))
        value = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = rng.randbytes(rng.choice((1, 2, 3, 8, 100)))
    elif kind == "remove":
        del data[at : at + rng.choice((1, 2, 3, 8, 100))]
    elif kind == "double":
        data[at:at] = data[at : at + rng.choice((2, 8, 100, 1000))]
    elif kind == "pixels":  # within the pixel data, where the codestreams are
        pixels = data.rfind(b"\xe0\x7f\x10\x00")
        if pixels > 0 and pixels + 32 < len(data):
            where = min(len(data) - 1, pixels + 12 + int(rng.expovariate(1 / 60)))
            data[where] = rng.choice((rng.randrange(256), 0xFF, 0))
    else:
        for syntax in SWAPS:
            found = data.find(syntax + b"\0") if len(syntax) % 2 else data.find(syntax)
            if 0 <= found < 400:
                other = rng.choice(SWAPS)
                data[found : found + len(syntax)] = other.ljust(len(syntax), b"\0")[: len(syntax)]
                return


# -- backfill --------------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """The most memory that any process of a family ever had resident."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.most_mb = 0.0
        self.workers: set[int] = set()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.1):
            for pid in family(self.pid):
                try:
                    self.most_mb = max(self.most_mb, peak_resident_mb(pid))
                except OSError:
                    continue
                self.workers.add(pid)

    def stop(self) -> None:
        self._done.set()
        self.join(10)


def backfill_row(scratch: Path, count: int) -> Row:
    """Mutants in folders of two thousand, each folder through `exporter backfill`."""
    violations: list[str] = []
    reasons: collections.Counter[str] = collections.Counter()
    most_mb, seconds, workers = 0.0, 0.0, 0
    for first in range(0, count, BATCH):
        folder, out = scratch / f"in-{first}", scratch / f"out-{first}"
        folder.mkdir()
        numbers = range(first, min(first + BATCH, count))
        for number in numbers:
            (folder / f"{number:06d}.dcm").write_bytes(mutant(number)[1])
        started = time.monotonic()
        watch = _backfill(folder, out, scratch, violations)
        seconds += time.monotonic() - started
        most_mb, workers = max(most_mb, watch.most_mb), workers + len(watch.workers) - 1
        found = _judge(out, len(numbers), violations)
        reasons += found
        if not violations:
            shutil.rmtree(folder)
            shutil.rmtree(out)
    if most_mb > MOST_MB:
        violations.append(f"a process had {most_mb:.0f} MB resident")
    told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    figure = f"{told}; peak {most_mb:.0f} MB; {workers} worker processes; {count / max(seconds, 0.1):.0f} inputs/s"
    return Row(FAULT, f"backfill, {len(seeds())} seeds", count, tuple(violations), figure)


def bombs_row(scratch: Path) -> Row:
    """Files that are small and claim much: every limit on, the most memory of any process is the figure."""
    violations: list[str] = []
    folder, out = scratch / "in", scratch / "out"
    files = write_hostile_files(folder)
    largest = max(path.stat().st_size for path in files) >> 20
    started = time.monotonic()
    watch = _backfill(folder, out, scratch, violations)
    seconds = time.monotonic() - started
    reasons = _judge(out, len(files), violations)
    if watch.most_mb > MOST_MB:
        violations.append(f"a process had {watch.most_mb:.0f} MB resident")
    told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    figure = f"{told}; largest file {largest} MB, peak {watch.most_mb:.0f} MB; {seconds:.0f} s for all"
    return Row("F30-F35 bombs and lies", "backfill", len(files), tuple(violations), figure)


def _backfill(folder: Path, out: Path, scratch: Path, violations: list[str]) -> Watch:
    config = scratch / "limits.yml"
    config.write_text(LIMITS)
    log = scratch / "backfill.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "exporter",
                "backfill",
                folder,
                "--output",
                out,
                "--config",
                config,
                "--workers",
                "2",
            ],
            stdout=words,
            stderr=words,
        )
    watch = Watch(process.pid)
    watch.start()
    try:
        code = process.wait(timeout=3600)
    finally:
        process.kill()
        watch.stop()
    if code not in (0, 3):
        violations.append(f"backfill ended with {code}: {log.read_text(errors='replace')[-300:]}")
    if b"Traceback" in log.read_bytes():
        violations.append("a traceback of backfill")
    return watch


def _judge(out: Path, count: int, violations: list[str]) -> collections.Counter[str]:
    """The reasons, by number; what must not be is told."""
    reasons: collections.Counter[str] = collections.Counter()
    status = json.loads(run("status", "--json", "--data", out).stdout)
    done = status["exported"] + status["skipped"] + status["failed"]
    if done != count or status["pending"] or status["active"]:
        violations.append(f"{done} of {count} inputs have an outcome: {status}")
    reasons["exported"] = status["exported"]
    reasons["skipped"] = status["skipped"]
    for row in json.loads(run("failures", "list", "--json", "--data", out).stdout):
        reasons[row["reason"]] += 1
        if row["reason"] not in {*Reason, *SkipReason}:
            violations.append(f"{row['id']}: no named reason but {row['reason']!r}")
        if row["reason"] == Reason.INTERNAL:
            violations.append(f"{row['id']}: internal: {row.get('message')}")
    # A damaged video stream is copied as it is, and its line says so: players show what can be shown of it.
    warned = _warned_of_damage(out)
    broken = [p for p in media_files(out / "media") if not opens(p)]
    untold = [p for p in broken if p.relative_to(out / "media").as_posix() not in warned]
    violations.extend(f"{path.name}: exported, does not open, and its line does not say so" for path in untold)
    reasons["exported, damage told"] = len(broken) - len(untold)
    reconciled = run("reconcile", "--data", out)
    if reconciled.returncode != 0:
        violations.append(f"reconcile: {reconciled.stdout[-200:]}")
    return reasons


def _warned_of_damage(out: Path) -> set[str]:
    """Paths of media whose line says that pictures are damaged."""
    lines = [json.loads(text) for text in raw_lines(out / "metadata.jsonl")]
    damaged = [line["export"] for line in lines if any("damaged" in warning for warning in line["export"]["warnings"])]
    return {medium["path"] for export in damaged for medium in export["media"]}


# -- listener --------------------------------------------------------------------------------------------------------


def listener_row(scratch: Path, count: int) -> Row:
    """Mutated data sets, offered by a sender that does not look at them; then the exporter has them."""
    violations: list[str] = []
    answers: collections.Counter[str] = collections.Counter()
    with daemons(scratch / "data", scratch / "logs", extra=SMALL_MARKS + LIMITS) as product:
        listener = product.start("listener")
        exporter = product.start("run")
        path = scratch / "mutant.dcm"
        watch = Watch(exporter.pid)
        watch.start()
        with Canary(product.port) as canary:
            sent = number = 0
            while sent < count:
                number += 1
                path.write_bytes(mutant(number)[1])
                answer = _offer(product.port, path)
                if answer is not None:
                    answers[answer] += 1
                    sent += 1
                    if answer == "no answer":
                        violations.append(f"mutant {number}: no answer")
        status = product.settled(600)
        watch.stop()
        violations += canary.failures
        for name, process in (("listener", listener), ("run", exporter)):
            if process.poll() is not None:
                violations.append(f"{name} ended with {process.returncode}")
            if "Traceback" in product.log(name):
                violations.append(f"a traceback in the log of {name}")
        quarantine = scratch / "data" / "spool" / "quarantine"
        reasons = collections.Counter(p.parent.name for p in quarantine.rglob("*.dcm"))
        if reasons["internal"] or set(reasons) - set(Reason):
            violations.append(f"quarantined for {dict(reasons)}")
        violations += product.reconciled()
    figure = (
        f"answers {dict(answers)}; then {status['exported']} exported, {status['skipped']} skipped, quarantine "
        f"{dict(reasons)}; peak of the exporter's processes {watch.most_mb:.0f} MB; {canary.figure}"
    )
    return Row(FAULT, "listener, then exporter", count, tuple(violations), figure)


def _offer(port: int, path: Path) -> str | None:
    """Send the file as it is; the status as a word; None where no sender could offer it."""
    with quiet_reading():  # a sender that does not mind what it sends; pydicom's settings stay as they are for others
        return _offered(port, path)


def _offered(port: int, path: Path) -> str | None:
    from pydicom.filereader import read_file_meta_info
    from pynetdicom import AE, _config
    from pynetdicom.presentation import build_context

    try:
        about = read_file_meta_info(path)
        sop_class, syntax = str(about.MediaStorageSOPClassUID), str(about.TransferSyntaxUID)
        if not UID_TEXT.fullmatch(sop_class) or not UID_TEXT.fullmatch(syntax):
            return None  # nothing that a sender could propose
        context = build_context(sop_class, [syntax])
    except Exception:  # noqa: BLE001 - pydicom has no base class for what a broken head raises
        return None
    entity = AE()
    entity.acse_timeout = entity.dimse_timeout = 20
    entity.requested_contexts = [context]
    association = associate(entity, "127.0.0.1", port, ae_title="EXPORTER")
    if not association.is_established:
        return None
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        answer = association.send_c_store(path)
    except (ValueError, RuntimeError, struct.error, AttributeError, KeyError):
        return None  # the sender itself could not
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = False
        release(association)
    return f"0x{answer.Status:04X}" if answer and "Status" in answer else "no answer"


# -- the element walk ------------------------------------------------------------------------------------------------


def walk_row(count: int) -> Row:
    """The listener's walk over mutated data sets: it never raises, and pieces make no difference."""
    from listener.intake.transfer_syntaxes import encoding_of
    from listener.intake.walk import DataSetScanner

    violations: list[str] = []
    faults: collections.Counter[str] = collections.Counter()
    started = time.monotonic()
    slowest_s = 0.0
    for number in range(count):
        what, data = mutant(number)
        rng = random.Random(-number)  # noqa: S311 - as above
        encoding = encoding_of(_encoding(data) if rng.random() < 0.8 else rng.choice(UNCOMPRESSED))
        assert encoding is not None
        body = memoryview(data)[_data_set(data) :]
        results = []
        for pieces in (1 << 20, rng.choice((1, 3, 7, 64)) if len(body) < 5000 else 997):
            walk = DataSetScanner(encoding, max_depth=64, max_elements=100_000)
            one = time.monotonic()
            try:
                for at in range(0, len(body), pieces):
                    walk.feed(body[at : at + pieces])
                fault = walk.finish()
            except Exception as error:  # noqa: BLE001 - it must not raise, whatever it is
                violations.append(f"mutant {number} ({what}): {type(error).__name__}")
                break
            slowest_s = max(slowest_s, time.monotonic() - one)
            results.append((fault.cause if fault else "sound", walk.sop_class_uid, walk.sop_instance_uid))
        if len(set(results)) > 1:
            violations.append(f"mutant {number} ({what}): pieces make a difference: {results[0][0]}, {results[1][0]}")
        faults[results[0][0] if results else "raised"] += 1
    told = ", ".join(f"{number} {word}" for word, number in faults.most_common())
    figure = f"{told}; {2 * count / (time.monotonic() - started):.0f} walks/s, slowest {slowest_s:.2f} s"
    return Row(FAULT, "the listener's element walk", count, tuple(violations), figure)


def _encoding(data: bytes) -> str:
    """The uncompressed syntax whose encoding the file's own has."""
    head = data[:500]
    implicit, _, big = UNCOMPRESSED
    if big.encode() + b"\0" in head:
        return big
    return implicit if implicit.encode() + b"\0" in head else UNCOMPRESSED[1]


def _data_set(data: bytes) -> int:
    """Where the data set begins, roughly: behind a group 0002 of the stated length."""
    if data[128:132] != b"DICM" or len(data) < 144:
        return 0
    (length,) = struct.unpack_from("<I", data, 140)
    return 144 + int(length) if length < len(data) else 132


def rows(scratch: Path, scale: Scale) -> Iterator[Row]:
    """Mutants everywhere."""
    for name, measure in (
        ("bombs", bombs_row),
        ("walk", lambda _: walk_row(scale.mutants)),
        ("backfill", partial(backfill_row, count=scale.mutants)),
        ("listener", partial(listener_row, count=max(scale.mutants // 20, 20))),
    ):
        at = scratch / f"bad-{name}"
        at.mkdir(parents=True)
        yield attempt(FAULT, name, partial(measure, at))
