"""The ways in: one package per way, and the list of those that a configuration asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from listener.settings import ListenerSettings
    from listener.sources.contract import Source, Surroundings


def further_sources(settings: ListenerSettings, surroundings: Surroundings) -> list[Source]:
    """Every source beside the DIMSE one; what a source needs is imported only where it is asked for."""
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
