"""What makes the start and the end of our own processes cheap; never for a process that only uses this package."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Final

_OBJECTS: Final = 50_000
"""Objects between two looks for garbage: loading a library makes many thousand, and hardly any of them is garbage."""


def quicken() -> None:
    """Make what this process loads from now on cost less."""
    gc.set_threshold(_OBJECTS, 20, 100)
    atexit.register(gc.freeze)  # the memory goes back with the process, whole
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it looks for them in every installed distribution
