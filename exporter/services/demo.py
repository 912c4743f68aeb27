"""``python -m exporter.services.demo HOST PORT AE-TITLE``: send sample files that pydicom brings, as a modality would.

Contract: a real association; each file in its own transfer syntax, its bytes as they are; says what was sent. Nothing
is downloaded.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from listener.sources.dimse.upper_layer import command as dimse
from listener.sources.dimse.upper_layer.scu import (
    Proposal,
    RequestedAssociation,
    RequestError,
    RequestorTimes,
    contexts_of,
    request_association,
)

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
TIMES: Final = RequestorTimes(connect_s=10, pdu_s=30)
ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One file to send."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data_set: bytes

    @classmethod
    def read(cls, path: Path) -> Sample:
        """The sample in a file."""
        from pydicom import dcmread

        from exporter.dicom.bytesource import MemoryBytes
        from exporter.dicom.structure import find_data_set

        content = path.read_bytes()
        start = find_data_set(MemoryBytes(content))
        header = dcmread(path, stop_before_pixels=True)
        return cls(str(header.SOPClassUID), str(header.SOPInstanceUID), start.transfer_syntax, content[start.offset :])


def main(host: str, port: int, ae_title: str) -> int:
    """Send the samples; 0 if all were taken."""
    import pydicom

    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    samples = [Sample.read(folder / name) for name in SAMPLES]
    pairs = dict.fromkeys((one.sop_class, (one.transfer_syntax,)) for one in samples)
    try:
        with request_association(host, port, Proposal("DEMO", ae_title, contexts_of(pairs)), TIMES) as association:
            taken = sum(_is_taken(association, one) for one in samples)
    except RequestError as error:
        sys.stderr.write(f"demo: the listener does not take the samples: {error}\n")
        return 1
    sys.stdout.write(f"demo: {taken} of {len(samples)} sample instances sent; their media appear within seconds.\n")
    return 0 if taken == len(samples) else 1


def _is_taken(association: RequestedAssociation, sample: Sample) -> bool:
    """Whether the listener stores it (PS3.4 B.2)."""
    context = association.context(sample.sop_class, sample.transfer_syntax)
    if context is None:
        return False
    number = association.next_message_id()
    store = dimse.request(dimse.Field.C_STORE_RQ, number, sample.sop_class, sop_instance_uid=sample.sop_instance)
    association.send(context, store, sample.data_set)
    return association.response(number, within_s=ANSWER_S).status == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
