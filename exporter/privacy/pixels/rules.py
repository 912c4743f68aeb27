"""The ladder's rules as they stand in `ladder.yaml`, read once.

Contract: `ladder_rules` returns the rules, checked; a file that is not as it must be is a defect and raises.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict

_FILE: Final = Path(__file__).with_name("ladder.yaml")


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UltrasoundRules(_Rules):
    """Which instances have regions, and which regions are no evidence."""

    sop_classes: frozenset[str]
    nearly_whole: float
    far_outside: float


class ClassRule(_Rules):
    """SOP classes whose pictures pass unless flagged, and what their IOD demands."""

    name: str
    modalities: frozenset[str]
    bits_allocated: frozenset[int]
    photometric: frozenset[str]
    sop_classes: frozenset[str]
    words_of: frozenset[str] | None = None
    """Keywords of the elements whose words and values flag an instance; None for all."""
    is_made_of_pictures: bool = False
    """Whether the pictures are drawn over others or computed from them, and can show their text."""


class UnprovenClasses(_Rules):
    """SOP classes of pictures that are left to the policy, and the reason."""

    name: str
    why: str
    sop_classes: frozenset[str]


class FaceRules(_Rules):
    """Signs of a face."""

    sop_classes: frozenset[str]
    body_parts: frozenset[str]
    codes: frozenset[str]
    words: tuple[str, ...]


class LadderRules(_Rules):
    """All rules."""

    ultrasound: UltrasoundRules
    classes: tuple[ClassRule, ...]
    left_to_policy: tuple[UnprovenClasses, ...]
    flagged_if_present: tuple[str, ...]
    flagged_words: dict[str, tuple[str, ...]]
    flagged_values: dict[str, tuple[str, ...]]
    faces: FaceRules


@cache
def ladder_rules() -> LadderRules:
    """The rules of `ladder.yaml`."""
    return LadderRules.model_validate(yaml.safe_load(_FILE.read_text(encoding="utf-8")))
