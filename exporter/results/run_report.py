"""The file that shows what a run did (`exporter.page.report`): its name, and how one of ours is recognised.

Must never: take somebody else's file for a report, which would be replaced, or passed over as input.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

REPORT: Final = "report.html"
"""Its name in a data or output folder."""
GENERATOR: Final = "DICOM Media Exporter report"
"""Generator that its first bytes name."""
_BEGINNING: Final = 512


def is_run_report(path: Path) -> bool:
    """Whether a regular file is a report of ours.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return is_file and f'content="{GENERATOR}"'.encode() in file.read(_BEGINNING)
