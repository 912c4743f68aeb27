"""The section `orthanc`: which servers are polled, and how."""

from __future__ import annotations

from listener.configuration import Section


class OrthancSection(Section):
    """One Orthanc server that is polled for new instances."""

    url: str
    """Where its REST interface is, such as `https://orthanc.example.org:8042/`."""
