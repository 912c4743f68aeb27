"""What pynetdicom's documentation leads to: a handler that writes `event.encoded_dataset()` to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, _config, evt


def main(port: int, folder: Path) -> None:
    _config.LOG_HANDLER_LEVEL = "none"

    def store(event: Any) -> int:
        (folder / f"{event.request.AffectedSOPInstanceUID}.dcm").write_bytes(event.encoded_dataset())
        return 0

    ae = AE("EXPORTER")
    ae.maximum_pdu_size = 131072
    ae.maximum_associations = 100
    ae.supported_contexts = AllStoragePresentationContexts
    ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
