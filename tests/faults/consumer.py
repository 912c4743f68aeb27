"""A process that takes items out of a spool as the exporter does, and tells what each of them was.

``python -m tests.faults.consumer SPOOL JOURNAL``: claims what waits, oldest first, looks at every byte, writes a line
``<UID> <size> <right|wrong>`` into JOURNAL, and finishes the item, which deletes it. Ends once its standard input has
ended and nothing waits any more.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from listener.spool.spool import Spool
from tests.faults.invariants import uid_in
from tests.faults.numbered import look_at

if TYPE_CHECKING:
    from listener.spool.incoming import SpoolItem

AT_ONCE: Final = 500
PAUSE_S: Final = 0.05


def told_of(item: SpoolItem) -> str:
    """What is to be said of an item; one of another sender is right if it is whole."""
    content = item.path.read_bytes()
    found = look_at(content)
    if found is None:
        try:
            found = uid_in(item.path), True
        except Exception:  # noqa: BLE001 - whatever it is, the file is not whole
            found = "-", False
    uid, is_right = found
    return f"{uid} {len(content)} {'right' if is_right and len(content) == item.size_bytes else 'wrong'}\n"


def consume(spool: Spool, journal: int) -> int:
    """Take what waits now; how many items."""
    count = 0
    for item in spool.pending(AT_ONCE):
        claimed = spool.claim(item)
        if claimed is not None:
            os.write(journal, told_of(claimed).encode())
            spool.finish(claimed)
            count += 1
    return count


def main(root: Path, journal: Path) -> int:
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    told = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with Spool.open(root) as spool, spool.lock("exporter"):
        spool.recover_exporter()
        while True:
            is_last = over.is_set()
            if not consume(spool, told):
                if is_last:
                    return 0
                over.wait(PAUSE_S)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
