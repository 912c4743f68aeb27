"""``python -m exporter.demo HOST PORT AE-TITLE``: send some of pydicom's bundled sample files, as a modality would.

Contract: a real association; each file in its own transfer syntax; says what was sent. Nothing is downloaded.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from listener.sources.dimse.requesting import associate, release

SAMPLES: Final = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
    "examples_jpeg2k.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "rtdose.dcm",
    "waveform_ecg.dcm",
    "test-SR.dcm",
)


def main(host: str, port: int, ae_title: str) -> int:
    """Send the samples; 0 if all were taken."""
    import pydicom
    from pydicom import dcmread
    from pynetdicom import AE, _config

    _config.UNRESTRICTED_STORAGE_SERVICE = True
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    headers = [(folder / name, dcmread(folder / name, stop_before_pixels=True)) for name in SAMPLES]
    entity = AE(ae_title="DEMO")
    for context in {(header.SOPClassUID, header.file_meta.TransferSyntaxUID) for _, header in headers}:
        entity.add_requested_context(*context)
    association = associate(entity, host, port, ae_title=ae_title)
    if not association.is_established:
        sys.stderr.write("demo: the listener does not accept the association\n")
        return 1
    taken = sum(association.send_c_store(path).get("Status") == 0 for path, _ in headers)
    release(association)
    sys.stdout.write(f"demo: {taken} of {len(headers)} sample instances sent; their media appear within seconds.\n")
    return 0 if taken == len(headers) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
