"""Rows that are tests of other suites: each group is run by pytest, a skipped test is told as not run."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from functools import partial
from typing import TYPE_CHECKING, Final

from tests.faults.report import NotPermitted, Row, Scale, attempt
from tests.faults.senders import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUPS: Final = (
    ("F01-F28 network", "hostile peers against the listener", ("tests/listener/sources/dimse/test_hostile_peers.py",)),
    ("F24, F26 TLS", "listener", ("tests/listener/network/test_tls.py",)),
    ("F30-F45 hostile files", "backfill and live", ("tests/product/test_hostile.py",)),
    ("F55 kill -9 at random", "listener, exporter, worker", ("tests/product/test_kills.py",)),
    ("F58 metadata file harmed", "appender", ("tests/exporter/metadata",)),
    (
        "F59, F67 ledger harmed",
        "ledger, reconcile",
        ("tests/exporter/results/test_ledger.py", "tests/exporter/results/test_reconcile.py"),
    ),
    ("F60, F61 workers", "supervision", ("tests/exporter/work/test_supervisor.py",)),
    ("F80-F82 logs", "both daemons", ("tests/listener/foundation/test_logs.py",)),
)


def group(scratch: Path, fault: str, where: str, paths: tuple[str, ...]) -> Row:
    """One group of tests as one row."""
    missing = [path for path in paths if not (REPOSITORY / path).exists()]
    if missing:
        raise NotPermitted(f"{', '.join(missing)} is not there")
    result = scratch / "result.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={result}", *paths],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    if not result.is_file():
        return Row(fault, where, 0, (f"pytest ended with {done.returncode}: {done.stdout[-200:]}",), "-")
    cases = list(ET.parse(result).getroot().iter("testcase"))  # noqa: S314 - written by pytest a moment ago
    failed = [
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    reasons = {str(found.get("message")) for case in skipped if (found := case.find("skipped")) is not None}
    passed = len(cases) - len(failed) - len(skipped)
    figure = (
        f"{passed} tests pass, {len(failed)} fail, {len(skipped)} NOT RUN {sorted(reasons) if reasons else ''}".strip()
    )
    return Row(fault, where, passed + len(failed), tuple(f"{name} fails" for name in failed), figure)


def rows(scratch: Path, _: Scale) -> Iterator[Row]:
    """Every group."""
    for number, (fault, where, paths) in enumerate(GROUPS):
        at = scratch / f"suite-{number}"
        at.mkdir(parents=True)
        yield attempt(fault, where, partial(group, at, fault, where, paths))
