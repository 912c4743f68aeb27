"""Instances with known pixels, and headers with known regions."""

from __future__ import annotations

from tests.exporter.frames.conftest import build, limits

__all__ = ["build", "limits"]
