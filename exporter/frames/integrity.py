"""Whether the entropy-coded data of a JPEG are whole: libjpeg fills what is missing with gray, and says nothing.

Contract: `refuse_damaged` raises for an 8-bit DCT codestream that FFmpeg's decoder, told to stop at any error, cannot
follow to its last block; every other codestream passes unseen. Costs about half of decoding. Of middles cut out of real
frames it finds nearly all; single wrong bits that still decode are beyond any JPEG decoder.

Must never: refuse what FFmpeg merely does not support.
"""

from __future__ import annotations

from typing import Final

from exporter.errors import CorruptPixels

_STOP_AT_ANY_ERROR: Final = {"err_detect": "explode+bitstream+buffer+careful+compliant+aggressive"}


def refuse_damaged(data: bytes) -> None:
    """Raise if the entropy-coded data of an 8-bit baseline or progressive JPEG are damaged.

    Raises:
        CorruptPixels: They are.
    """
    import av
    from av.error import FFmpegError, InvalidDataError

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = _STOP_AT_ANY_ERROR
    decoder.thread_count = 1
    try:
        decoder.decode(av.Packet(data))
    except InvalidDataError:
        raise CorruptPixels("the entropy-coded data of the JPEG codestream are damaged or incomplete") from None
    except FFmpegError:
        return  # a process or sampling that FFmpeg does not decode: no verdict
