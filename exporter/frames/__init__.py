"""Frames of an instance: stored values for measuring, display values for looking, the encoded bytes for copying.

Contract: one boundary around every pixel format. Frames come one at a time, in order; memory holds a few of them, never
the object. Only `exporter.errors` come out. `rendering` says afterwards what was done on the way to display values.

Must never: render a frame by another frame's window, return memory that no pixel was written to, or go on in silence
where the data contradict themselves.

    frames             frames of an instance, one by one
    reader             one reader per way of storing pixels
    fragments          where the bytes of each frame are
    codecs             one codec library for every compressed frame
    codestream         headers of codestreams, before anything is decoded
    bare_codestream    codestreams without comments and application data
    jpeg_xl_bits       fields of JPEG XL headers
    completeness       whether a codestream holds what its headers announce
    jpeg_integrity     JPEG data that a decoder repairs in silence
    rle                RLE Lossless
    stream             a video stream as one file
    transfer_syntaxes  families of transfer syntaxes
    cells              native cells to stored values
    palette            palette colours
    colour             colour models to RGB
    display            stored to display values
    luts               lookup tables of the data set
    take_lut           a table applied to an array
    overlays           overlay planes
    functional_groups  elements of one frame
"""

from __future__ import annotations

from exporter.frames.display import DisplayOptions
from exporter.frames.frames import Frames, open_frames

__all__ = ["DisplayOptions", "Frames", "open_frames"]
