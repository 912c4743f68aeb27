"""Who we are on the wire and in files (PS3.7 D.3.3.2, PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

IMPLEMENTATION_CLASS_UID: Final = "2.25.129788195098509901611245663618808640785"
"""Derived from a random UUID (PS3.5 B.2): the same for every release."""
IMPLEMENTATION_VERSION: Final = "DME_0_1"
"""Up to 16 characters; changes with releases."""
