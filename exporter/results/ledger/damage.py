"""Count of the exporters that ended because their ledger is damaged, kept in a file beside it (`exporter.db.damage`).

Contract: the count belongs to one database file; another in its place begins at nothing. Nothing here raises: where it
cannot be counted, the message stays the short one.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path


def count(ledger: Path) -> int:
    """Count one more time; the times so far, this one included."""
    note = _note(ledger)
    times = 1
    with suppress(OSError, ValueError, TypeError, KeyError):
        inode = ledger.stat().st_ino
        with suppress(OSError, ValueError, TypeError, KeyError):
            before = json.loads(note.read_text(encoding="ascii"))
            times += int(before["times"]) * (before["inode"] == inode)
        descriptor = os.open(note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            json.dump({"inode": inode, "times": times}, file)
    return times


def forget(ledger: Path) -> None:
    """An exporter worked with the ledger and ended in order."""
    with suppress(OSError):
        _note(ledger).unlink(missing_ok=True)


def _note(ledger: Path) -> Path:
    return Path(f"{ledger}.damage")
