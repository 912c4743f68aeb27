"""Masked frames: a reader that lets only kept pixels through, and nothing encoded.

Contract: `MaskedReader` stands in the place of a `FrameReader`. Its samples depend on kept pixels, the header and the
markers of the codestream alone: hidden pixels are black, bits above Bits Stored are cleared, bytes behind a frame are
not read. Encoded frames are never given, and `codec` is None, so that media copy nothing bit by bit; `bare` gives those
of which nothing is hidden, without what their pixels do not need.

Must never: return memory of the reader behind it in which hidden pixels are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.dicom.elements import text_of
from exporter.errors import PrivacyUnknown
from exporter.frames.bare_codestream import bare_codestream
from exporter.frames.cells import is_422, sign_extended
from exporter.frames.codestream import sniff
from exporter.frames.reader import Samples
from exporter.privacy.pixels.area import OWN_PIXEL, KeptArea
from exporter.privacy.pixels.black import black_of
from exporter.privacy.pixels.ladder import PixelPolicy
from exporter.privacy.pixels.reach import PAIR, reach_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.frames.reader import FrameReader
    from exporter.privacy.pixels.ladder import PixelDecision


class MaskedReader:
    """The frames of one instance, of which only kept pixels can be seen."""

    codec = None
    """None, whatever the frames are: there is nothing to copy."""

    def __init__(
        self, reader: FrameReader, instance: Instance, pixels: PixelDescription, decision: PixelDecision
    ) -> None:
        if decision.area is None:
            raise PrivacyUnknown(f"the pixels may not leave: {decision.reason}")
        self._reader = reader
        self._instance = instance
        self._pixels = pixels
        self._policy = decision.policy
        self._stated = decision.area
        self._areas: dict[object, KeptArea] = {OWN_PIXEL: decision.area}
        self._blacks: dict[tuple[str, int, str], Any] = {}
        self._was_lossy = text_of(instance.source_header, "LossyImageCompression") == "01"

    def samples(self, index: int, *, to_rgb: bool) -> Samples:
        """One frame with black over what is hidden.

        Raises:
            PrivacyUnknown: Hidden pixels change visible ones anywhere in the frame, and the policy is to deny.
        """
        area = self.area(index)
        samples = self._without_spare_bits(self._reader.samples(index, to_rgb=to_rgb))
        if not area.hides:
            return samples
        return Samples(area.filled(samples.values, self._black(samples, area)), samples.colour, samples.bits)

    def _black(self, samples: Samples, area: KeptArea) -> Any:
        """The value of hidden pixels; that of floats differs from frame to frame."""
        if samples.values.dtype.kind == "f":
            return black_of(samples, self._instance, self._pixels, area)
        key = (samples.colour, samples.bits, samples.values.dtype.kind)
        if key not in self._blacks:
            self._blacks[key] = black_of(samples, self._instance, self._pixels, area)
        return self._blacks[key]

    def area(self, index: int) -> KeptArea:
        """What is kept of one frame: the decision's area, less what its codestream mixes with hidden pixels.

        Raises:
            PrivacyUnknown: As of `samples`.
        """
        if not self._stated.hides or not self._stated.kept:
            return self._stated
        reach = PAIR if is_422(self._pixels) else OWN_PIXEL
        if self._reader.codec is not None:
            data = self._reader.encoded(index)
            header = sniff(data)
            if header is not None:  # else the reader says what is wrong
                found = reach_of(data, header, self._instance.transfer_syntax, was_lossy=self._was_lossy)
                if found is None:
                    return self._everywhere(index)
                reach = found
        if reach not in self._areas:
            self._areas[reach] = self._stated.beyond_reach(reach)
        return self._areas[reach]

    def encoded(self, index: int) -> bytes:
        """Encoded frames show what is hidden.

        Raises:
            PrivacyUnknown: Always.
        """
        raise PrivacyUnknown(f"frame {index + 1} is masked: its encoded form is not given")

    def bare(self, index: int) -> bytes | None:
        """The codestream of one frame without comments and application data; None where anything of it is hidden.

        Bits above Bits Stored would be in it, so that one of more bits is not given either.
        """
        if self._stated.hides or self._reader.codec is None:
            return None
        data = self._reader.encoded(index)
        header = sniff(data)
        if header is None or header.precision > self._pixels.bits_stored or not header.uniform:
            return None
        return bare_codestream(data, header)

    def fits(self, index: int) -> bool:
        """Whether one frame has the size that the header says."""
        return self._reader.fits(index)

    def _everywhere(self, index: int) -> KeptArea:
        """What the policy keeps of a frame in which hidden pixels change visible ones anywhere."""
        if self._policy is PixelPolicy.DENY:
            raise PrivacyUnknown(
                f"frame {index + 1} is coded with loss and without blocks: hidden parts change visible ones, and a "
                "mask would not be exact (privacy.pixels: blank and allow accept such frames)"
            )
        blank = KeptArea.nothing(self._stated.rows, self._stated.columns)
        return self._stated if self._policy is PixelPolicy.ALLOW else blank

    def _without_spare_bits(self, samples: Samples) -> Samples:
        """The samples with the bits above Bits Stored cleared: a codestream of more bits can hold overlays there."""
        values, bits = samples.values, self._pixels.bits_stored
        if values.dtype.kind == "f" or samples.bits <= bits or bits >= 8 * values.dtype.itemsize:
            return samples
        cells = values.view(f"u{values.dtype.itemsize}")
        if values.dtype.kind == "i":
            return Samples(sign_extended(cells, bits), samples.colour, bits)
        return Samples(cells & cells.dtype.type((1 << bits) - 1), samples.colour, bits)


def masked_picture(picture: NDArray[np.uint8], decision: PixelDecision) -> NDArray[np.uint8]:
    """A display picture of a video stream, gray or RGB, with black over what is hidden.

    A picture may have whole macroblocks beyond Rows and Columns: these are black, too.

    Raises:
        PrivacyUnknown: The instance is refused, or its pictures are smaller than its header says.
    """
    area = decision.area
    if area is None:
        raise PrivacyUnknown(f"the pixels may not leave: {decision.reason}")
    if picture.shape[0] < area.rows or picture.shape[1] < area.columns:
        raise PrivacyUnknown("the pictures of the video stream are smaller than the mask")
    if picture.shape[:2] == (area.rows, area.columns):
        return area.filled(picture, 0)
    whole: NDArray[Any] = np.zeros_like(picture)
    whole[: area.rows, : area.columns] = area.filled(picture[: area.rows, : area.columns], 0)
    return whole
