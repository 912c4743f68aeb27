"""Pixel masks: which part of an instance's pictures may leave, and black over all others.

Contract: `decide` climbs one ladder for each instance (device masks, ultrasound regions, rules by SOP class, the
policy for what is unknown; `ladder.yaml`) and says on which step it ended. `MaskedReader` and `masked_picture` then
let nothing through that lies outside the kept area. What is kept never depends on what is hidden: where a codec mixes
the two, the kept area shrinks by the codec's reach, and where the reach is the whole picture, the instance is refused.

Must never: believe that a picture is clean because an element or a device mask says so, or put an element's value into
a message.

    area          rectangles, and the kept area of a picture
    device_masks  where devices burn text into pictures: hints by signature
    regions       ultrasound regions that are evidence
    rules         the rules of `ladder.yaml`
    flags         signs of burned-in text and of faces in the header
    ladder        the decision
    reach         how far hidden pixels change decoded ones, by codestream
    black         the darkest stored value of a colour space
    masked        masked frames
    text_search   text in what is kept, which can only deny
"""

from __future__ import annotations

from exporter.privacy.pixels.ladder import LadderStep, PixelDecision, PixelPolicy, decide
from exporter.privacy.pixels.masked import MaskedReader, masked_picture
from exporter.privacy.pixels.text_search import Tesseract, TextFinder, text_that_denies

__all__ = [
    "LadderStep",
    "MaskedReader",
    "PixelDecision",
    "PixelPolicy",
    "Tesseract",
    "TextFinder",
    "decide",
    "masked_picture",
    "text_that_denies",
]
