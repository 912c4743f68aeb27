"""The whole statement: cover page, every section of the template in order, each with its body."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from exporter.commands.conformance import (
    annexes,
    communication,
    configuration,
    overview,
    security,
    services,
    status_codes,
)
from exporter.commands.conformance.template import SECTIONS

if TYPE_CHECKING:
    from exporter.settings.settings import Settings

_CHAPTERS = (overview, services, configuration, communication, status_codes, security, annexes)


def statement(settings: Settings, *, is_default: bool) -> str:
    """The statement of these settings, as Markdown.

    Args:
        settings: The settings in force.
        is_default: Whether they are the defaults; the cover page says so.
    """
    bodies: dict[str, str] = {}
    for chapter in _CHAPTERS:
        bodies |= chapter.bodies(settings)
    parts = [_cover(is_default=is_default)]
    for section in SECTIONS:
        parts.append(f"{'#' * (section.depth + 1)} {section.number} {section.title}")
        parts.append(bodies.pop(section.number))
    assert not bodies, bodies.keys()  # noqa: S101 - a body for a section that is not in the template
    return "\n\n".join(part for part in parts if part) + "\n"


def _cover(*, is_default: bool) -> str:
    revision, date, _ = overview.REVISIONS[-1]
    of = "the default settings" if is_default else "the settings of one site"
    return "\n".join(
        (
            "# DICOM Conformance Statement",
            "",
            "| | |",
            "|---|---|",
            "| Product | DICOM Media Exporter |",
            f"| Version | {_release()} |",
            f"| Document | revision {revision}, {date}, for {of} |",
            "| Template | PS3.2 Annex N |",
            "| Made by | `exporter conformance` |",
        )
    )


def _release() -> str:
    try:
        return version("dicom-media-exporter")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0 (not installed)"
