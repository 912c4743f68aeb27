"""The decision which pixels of an instance may leave, from its header.

Contract: `decide` always answers, with the step of the ladder on which it ended. Device masks hide their rectangles
whatever the step; on their own they prove nothing, unless people vouched for them. In this order:

1. `device_mask`: masks that cannot be believed refuse the instance; a mask that is vouched for keeps the rest.
2. `ultrasound_regions`: their union is kept.
3. `sop_class`: a picture of one sample per pixel that was computed (CT, MR, PT, NM, doses, segmentations, ...) is kept,
   unless something flags it.
4. `policy`: what is unknown is denied, blanked or allowed.

Burned In Annotation YES, and a label of a slide in the picture, deny what neither region nor device mask covers; NO
proves nothing and is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from exporter.dicom.elements import text_of
from exporter.frames.transfer_syntaxes import Family, family_of
from exporter.privacy.pixels.area import KeptArea
from exporter.privacy.pixels.device_masks import HiddenByDevice, vendored_masks
from exporter.privacy.pixels.flags import burned_in, class_rule, flag_of, may_show_face, why_unproven
from exporter.privacy.pixels.regions import region_evidence
from exporter.privacy.pixels.rules import ladder_rules

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from exporter.dicom.pixels import PixelDescription
    from exporter.privacy.pixels.device_masks import DeviceMasks


class PixelPolicy(StrEnum):
    """What becomes of pictures of which nothing is known (`privacy.pixels`)."""

    DENY = "deny"
    BLANK = "blank"
    ALLOW = "allow"


class LadderStep(StrEnum):
    """The steps of the ladder, as records name them."""

    DEVICE_MASK = "device_mask"
    ULTRASOUND_REGIONS = "ultrasound_regions"
    SOP_CLASS = "sop_class"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class PixelDecision:
    """Which pixels of an instance may leave, and why."""

    step: LadderStep
    reason: str
    """A sentence without values of the patient."""
    policy: PixelPolicy
    area: KeptArea | None
    """What is kept, in every frame; None where the instance is refused."""
    masks: tuple[str, ...] = ()
    """Names of the device masks that match."""
    notes: tuple[str, ...] = ()
    face: bool = False
    """Whether something in the header speaks for a recognisable face; False is no statement that there is none."""

    @property
    def is_refused(self) -> bool:
        """Whether nothing of the instance may leave."""
        return self.area is None

    def record(self) -> dict[str, object]:
        """The decision as the metadata line and `explain` show it."""
        area = self.area
        return {
            "step": self.step.value,
            "reason": self.reason,
            "refused": self.is_refused,
            "kept_share": 0.0 if area is None else round(area.share(), 4),
            "device_masks": list(self.masks),
            "recognisable_face": "flagged" if self.face else "not flagged",
            "notes": list(self.notes),
        }


def decide(
    header: Dataset,
    pixels: PixelDescription,
    transfer_syntax: str,
    policy: PixelPolicy = PixelPolicy.DENY,
    masks: DeviceMasks | None = None,
) -> PixelDecision:
    """Climb the ladder for one instance.

    Args:
        header: The instance's own header, before anything is removed from it.
        pixels: Its pixel description.
        transfer_syntax: Its transfer syntax UID.
        policy: What becomes of what is unknown.
        masks: Device masks; those that come with the product by default.
    """
    case = _Case(header, pixels, policy, (masks or vendored_masks()).hidden_by(header, pixels.rows, pixels.columns))
    decision = case.decide()
    area = decision.area
    if area is None or not area.hides or family_of(transfer_syntax) is not Family.VIDEO or not area.kept:
        return decision
    return case.by_policy(
        "in a video stream, hidden parts of a picture change visible ones: a mask would not be exact", area
    )


class _Case:
    """One instance on the ladder."""

    def __init__(self, header: Dataset, pixels: PixelDescription, policy: PixelPolicy, device: HiddenByDevice) -> None:
        self._header = header
        self._rows, self._columns = pixels.rows, pixels.columns
        self._pixels = pixels
        self._policy = policy
        self._device = device
        self._notes: tuple[str, ...] = ()

    def decide(self) -> PixelDecision:
        if self._device.refusal is not None:
            return self._decision(LadderStep.DEVICE_MASK, self._device.refusal, None)
        if self._device.vouched:
            reason = "a device mask that is vouched for says where text stands"
            return self._kept(LadderStep.DEVICE_MASK, reason, self._whole())
        if text_of(self._header, "SOPClassUID") in ladder_rules().ultrasound.sop_classes:
            evidence = region_evidence(self._header, self._rows, self._columns)
            self._notes = evidence.notes
            if evidence.kept:
                area = KeptArea(self._rows, self._columns, evidence.kept, self._device.rectangles)
                return self._kept(LadderStep.ULTRASOUND_REGIONS, "the ultrasound regions are kept", area)
        said = burned_in(self._header)
        if said is not None and not self._device.rectangles:
            return self._burned_in(said)
        return self._by_class()

    def _by_class(self) -> PixelDecision:
        rule = class_rule(self._header)
        flag = self._unknown() if rule is None else flag_of(self._header, self._pixels, rule)
        if rule is None or flag is not None:
            return self.by_policy(flag or self._unknown(), self._whole())
        reason = f"{rule.name} of one sample per pixel, and nothing flags it"
        return self._kept(LadderStep.SOP_CLASS, reason, self._whole())

    def by_policy(self, reason: str, area: KeptArea) -> PixelDecision:
        """What the policy makes of what is unknown."""
        kept = {PixelPolicy.DENY: None, PixelPolicy.BLANK: self._nothing(), PixelPolicy.ALLOW: area}[self._policy]
        return self._decision(LadderStep.POLICY, reason, kept)

    def _burned_in(self, said: str) -> PixelDecision:
        """A picture that is said to hold text in a place that is not known: no policy lets it pass."""
        reason = f"{said}, and neither region nor device mask covers it"
        blank = self._policy is PixelPolicy.BLANK
        return self._decision(LadderStep.POLICY, reason, self._nothing() if blank else None)

    def _unknown(self) -> str:
        if self._device.rectangles:
            return "a device mask hides its rectangles, and nothing proves the rest clean"
        if self._notes:
            return self._notes[-1]
        unproven = why_unproven(self._header)
        return unproven or "no region, device mask or rule by SOP class says what the picture holds"

    def _kept(self, step: LadderStep, reason: str, area: KeptArea) -> PixelDecision:
        if not area.pixels():
            return self.by_policy("nothing is left to keep", self._nothing())
        return self._decision(step, reason, area)

    def _decision(self, step: LadderStep, reason: str, area: KeptArea | None) -> PixelDecision:
        face = may_show_face(self._header)
        return PixelDecision(step, reason, self._policy, area, self._device.names, self._notes, face)

    def _whole(self) -> KeptArea:
        return KeptArea.whole(self._rows, self._columns, self._device.rectangles)

    def _nothing(self) -> KeptArea:
        return KeptArea.nothing(self._rows, self._columns)
