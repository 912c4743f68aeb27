"""With a profile, the page shows only media that were cleared."""

from __future__ import annotations

from typing import Any

import pytest

from exporter.page.app import may_show_media
from exporter.settings.settings import Settings

BASIC = {"profile": "basic"}


@pytest.mark.parametrize(
    ("top", "of_title", "shown"),
    [
        ({}, None, True),
        (BASIC, None, True),
        (BASIC, BASIC, True),
        ({**BASIC, "pixels": "blank"}, None, True),
        ({**BASIC, "permit": ["pdf"]}, None, True),
        ({**BASIC, "pixels": "allow"}, None, False),
        ({**BASIC, "permit": ["audio"]}, None, False),
        (BASIC, {"profile": "none"}, False),
        ({}, BASIC, False),
        (BASIC, {**BASIC, "pixels": "allow"}, False),
    ],
)
def test_media_are_shown_only_where_all_of_them_were_cleared(
    top: dict[str, Any], of_title: dict[str, Any] | None, shown: bool
) -> None:
    titles = [] if of_title is None else [{"ae_title": "RESEARCH", "privacy": of_title}]
    settings = Settings.model_validate(
        {
            "privacy": {"key_file": "/key", **top},
            "listener": {"more_ae_titles": ["RESEARCH"]},
            "ae_titles": titles,
        }
    )
    assert may_show_media(settings) == shown
