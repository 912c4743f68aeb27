"""Frames of an instance: stored values for measuring, display values for looking, the encoded bytes for copying.

Contract: one boundary around every pixel format. Frames come one at a time, in order; memory holds a few of them, never
the object. Only `exporter.errors` come out. `rendering` says afterwards what was done on the way to display values.

Must never: render a frame by another frame's window, return memory that no pixel was written to, or go on in silence
where the data contradict themselves.
"""

from __future__ import annotations

from exporter.frames.display import DisplayOptions
from exporter.frames.frames import Frames, open_frames

__all__ = ["DisplayOptions", "Frames", "open_frames"]
