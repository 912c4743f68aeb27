"""The fork server of the workers: it loads their libraries while the exporter opens its ledger and reads its settings.

Contract: whoever needs workers soon enters `WORKERS` and gets a server that is shared in this process; importing this
module costs next to nothing.
"""

from __future__ import annotations

from typing import Final

from listener.foundation.fork_server import ForkServer

WORKER_VARIABLES: Final = {
    "OMP_NUM_THREADS": "1",  # there are as many workers as cores: threads inside them would compete
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
WORKERS: Final = ForkServer(
    "exporter.work.worker:main", load="exporter.work.pipeline:load_libraries", environment=WORKER_VARIABLES
)
