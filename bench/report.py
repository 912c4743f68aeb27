"""What all measurements share: the order of turns, the machine in one sentence, and the file of benchmarks."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")
REPORT: Final = Path("docs/benchmarks.md")


def in_turn(competitors: Sequence[T], turn: int) -> Sequence[T]:
    """All of them in another order every round: what one leaves to the disk is not always the same one's burden."""
    start = 3 * turn % len(competitors)
    order = (*competitors[start:], *competitors[:start])
    return order[::-1] if turn % 2 else order


def machine(folder: Path) -> str:
    """The machine in one sentence."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    kind = subprocess.run(["df", "--output=fstype", str(folder)], capture_output=True, text=True, check=True)
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"Machine: {os.cpu_count()} cores of {model}, {memory_gb:.0f} GB, Linux {platform.release()}, "
        f"{kind.stdout.split()[-1]}, Python {platform.python_version()}"
    )


def write(target: Path, text: str) -> None:
    """Put the section into the file of benchmarks, in place of an earlier one of that name."""
    heading = text.splitlines()[0]
    head = "# Benchmarks\n\nMade by `python -m bench`; every figure here was measured by the machine it names.\n\n"
    old = target.read_text() if target.exists() else head
    sections = old.split("\n## ")
    new = text.removeprefix("## ").rstrip("\n") + "\n"
    kept = [part for part in sections[1:] if f"## {part.splitlines()[0]}" != heading]
    body = "\n## ".join([sections[0].rstrip("\n") + "\n", *kept, new])
    target.write_text(body)
