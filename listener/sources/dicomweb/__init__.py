"""STOW-RS: instances come over HTTP (PS3.18 10.5)."""

from listener.sources.dicomweb.source import DicomwebSource

__all__ = ["DicomwebSource"]
