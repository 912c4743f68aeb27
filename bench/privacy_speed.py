"""Time of an export with and without de-identification: `python bench/privacy_speed.py FILE [FILE ...]`.

For each file a folder of copies with UIDs of their own is exported by `exporter backfill` with one worker, in turn
with the profiles `none` and `basic`, each time into a new output. Printed are the medians of processor and wall time
per instance, without the start of the programs, which an export of one copy measures.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pydicom

PROFILES = ("none", "basic")


def copies(source: Path, folder: Path, count: int) -> None:
    """Copies of an instance, each with a SOP Instance UID of its own."""
    folder.mkdir()
    data_set = pydicom.dcmread(source)
    for number in range(count):
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.3680043.8.498.{number}"
        data_set.save_as(folder / f"{number:05}.dcm")


def measured(folder: Path, output: Path, config: Path) -> tuple[float, float]:
    """Processor and wall seconds of one export."""
    command = ["backfill", str(folder), "--output", str(output), "--config", str(config), "--workers", "1"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "exporter", *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--copies", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        key = root / "key"
        key.write_bytes(b"k" * 32)
        key.chmod(0o600)
        for profile in PROFILES:
            text = f"privacy: {{profile: {profile}, key_file: {key}, pixels: allow}}\n"
            (root / f"{profile}.yml").write_text(text)
        for number, source in enumerate(options.files):
            folder, alone = root / f"in-{number}", root / f"alone-{number}"
            copies(source, folder, options.copies)
            copies(source, alone, 1)
            found: dict[str, list[tuple[float, float]]] = {profile: [] for profile in PROFILES}
            for turn in range(options.rounds):
                for profile in PROFILES:
                    outputs = [root / f"out-{number}-{turn}-{profile}-{kind}" for kind in ("one", "all")]
                    one = measured(alone, outputs[0], root / f"{profile}.yml")
                    every = measured(folder, outputs[1], root / f"{profile}.yml")
                    per = options.copies - 1
                    found[profile].append(((every[0] - one[0]) / per, (every[1] - one[1]) / per))
            none, basic = (tuple(map(statistics.median, zip(*found[profile], strict=True))) for profile in PROFILES)
            print(
                f"{source.name}: processor {none[0] * 1e3:.1f} -> {basic[0] * 1e3:.1f} ms ({basic[0] / none[0]:.3f}),"
                f" wall {none[1] * 1e3:.1f} -> {basic[1] * 1e3:.1f} ms ({basic[1] / none[1]:.3f})"
            )


if __name__ == "__main__":
    main()
