"""The section `dicomweb`: instances over HTTP."""

from __future__ import annotations

from listener.configuration import Section


class DicomwebSection(Section):
    """STOW-RS (PS3.18 10.5), on the address that `status` gives."""

    enabled: bool = False
    """Whether instances are taken over HTTP."""
