"""``python -m tests.faults [--quick] [PART ...]``: the fault report, row by row; exit code 1 on any violation.

Parts: power-ext4, power-xfs, interruptions, points, disks, errors, bad, costs, privacy, attacks, network, soak, steady,
connects, volume, members, lifecycle, watchdog, shards, suites; all without any. ``--scale volume_bytes=2e9`` runs more
or less of something.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.faults import (
    bad_dicom,
    connects,
    costs,
    crash_points,
    errors,
    full_disk,
    interruptions,
    lifecycle,
    members,
    network,
    network_fuzz,
    power_cut,
    privacy,
    shards,
    soak,
    steady,
    suites,
    volume,
    watchdog,
)
from tests.faults.report import FULL, QUICK, Scale, show, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults.report import Row

PARTS: Final[dict[str, Callable[[Path, Scale], Iterator[Row]]]] = {
    "power-ext4": partial(power_cut.rows, kinds=("ext4",)),
    "power-xfs": partial(power_cut.rows, kinds=("xfs",)),
    "interruptions": interruptions.rows,
    "points": crash_points.rows,
    "disks": full_disk.rows,
    "errors": errors.rows,
    "bad": bad_dicom.rows,
    "costs": costs.rows,
    "privacy": privacy.rows,
    "attacks": network.rows,
    "network": network_fuzz.rows,
    "soak": soak.rows,
    "steady": steady.rows,
    "connects": connects.rows,
    "volume": volume.rows,
    "members": members.rows,
    "lifecycle": lifecycle.rows,
    "watchdog": watchdog.rows,
    "shards": shards.rows,
    "suites": suites.rows,
}


def main() -> int:
    """Run the parts and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault report.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without any")
    parser.add_argument("--quick", action="store_true", help="little of everything")
    parser.add_argument("--scratch", type=Path, help="where to work; a temporary folder otherwise")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append each row as a line of JSON")
    names = [field.name for field in fields(Scale)]
    parser.add_argument(
        "--scale", action="append", default=[], metavar="NAME=NUMBER", help=f"more or less of: {', '.join(names)}"
    )
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    try:
        changes = {name: int(float(number)) for name, _, number in (word.partition("=") for word in options.scale)}
        scale = replace(QUICK if options.quick else FULL, **changes)
    except (TypeError, ValueError) as error:
        parser.error(f"--scale: {error}")
    # What ends this run by a signal unwinds it: mounts and processes are cleaned up on the way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    done: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="faults-", dir=options.scratch, ignore_cleanup_errors=True) as scratch:
        for name in options.parts or PARTS:
            for row in PARTS[name](Path(scratch) / name, scale):
                done.append(row)
                print(show(row), flush=True)  # noqa: T201 - the report
                if options.json is not None:
                    with options.json.open("a") as file:
                        file.write(json.dumps(asdict(row)) + "\n")
    print(total(done))  # noqa: T201 - the report
    return int(any(row.violations for row in done))


if __name__ == "__main__":
    sys.exit(main())
