"""The ways in: one package per way, and the list of those that a configuration asks for.

contract  what a source is given, and what it does
dimse     C-STORE and C-ECHO
dicomweb  STOW-RS
orthanc   Orthanc servers that are polled
watch     watched folders
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSettings
    from listener.sources.contract import Source, Surroundings


def further_sources(settings: ListenerSettings, surroundings: Surroundings) -> list[Source]:
    """Every source beside the DIMSE one; the modules of a source are imported only where it is configured."""
    sources: list[Source] = []
    if settings.sources:
        from listener.sources.watch.source import WatchSource

        sources += [WatchSource(section, settings, surroundings) for section in settings.sources]
    if settings.orthanc:
        from listener.sources.orthanc.source import OrthancSource

        sources += [OrthancSource(section, surroundings) for section in settings.orthanc]
    if settings.dicomweb.enabled:
        from listener.sources.dicomweb.source import DicomwebSource

        sources.append(DicomwebSource(settings, surroundings))
    return sources
