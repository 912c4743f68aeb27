"""The profile of de-identification that the settings name: its key, its options, and what it does to one instance.

Contract: `checked_fingerprint` is the check at start-up, in every process that reads the settings. Worker processes get
the path of the key file over their pipe, never its bytes, and the fingerprint that the check found: a worker that finds
another key does not start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import orjson

from exporter.dicom.elements import name_of, text_of
from exporter.errors import PrivacyUnknown
from exporter.outcome import Exported, Skipped, to_json
from exporter.privacy.deidentify import PrivacyPolicy, deidentify, rebuilt_file_meta, weeks_for
from exporter.privacy.identifiers import collect_identifiers
from exporter.privacy.key import check_fingerprint, fingerprint, key_of
from exporter.privacy.lists import pseudonyms_of
from exporter.privacy.pixels import LadderStep, MaskedReader, PixelPolicy, Tesseract, decide, masked_picture
from exporter.privacy.pseudonyms import CONTENT, SOURCE
from exporter.privacy.rules import PrivacyOption
from exporter.privacy.values import readable
from exporter.privacy.verification import refuse_identifiers
from exporter.privacy.vocabulary import standard_meanings
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from exporter.dicom.instance import Instance
    from exporter.dicom.pixels import PixelDescription
    from exporter.frames.reader import FrameReader
    from exporter.privacy.identifiers import CollectedIdentifiers
    from exporter.privacy.pixels import PixelDecision
    from exporter.settings.settings import PrivacySettings, Settings

_HASH_DIGITS: Final = 64
_DOCUMENT: Final = "EncapsulatedDocument"


class TextDetectionMissing(Unusable):
    """The program of `privacy.ocr` is not installed."""

    exit_code = 2


def checked_fingerprint(settings: Settings) -> str | None:
    """Check the key and the programs of de-identification.

    Returns:
        Fingerprint of the key; None where no instance is de-identified.

    Raises:
        KeyUnusable: The key file cannot be used.
        TextDetectionMissing: A program that the settings name is not installed.
    """
    if not settings.deidentifies:
        return None
    for one in (settings, *settings.by_ae_title.values()):
        if one.privacy.profile != "none":
            text_finder(one.privacy)
    return fingerprint(key_of(settings.privacy))


def text_finder(privacy: PrivacySettings) -> Tesseract | None:
    """The program of `privacy.ocr`; None where none is wanted.

    Raises:
        TextDetectionMissing: It is not installed.
    """
    if privacy.ocr == "none":
        return None
    found = Tesseract.installed()
    if found is None:
        raise TextDetectionMissing(
            "the program tesseract of `privacy.ocr` is not on the path",
            "pictures could not be searched for text",
            "install it (Debian: tesseract-ocr), or set `privacy.ocr: none`",
        )
    return found


class PrivacyProfile:
    """A profile of de-identification with its key, as a worker process holds it."""

    def __init__(self, privacy: PrivacySettings, key: bytes) -> None:
        self._name = privacy.profile
        self._pseudonyms = pseudonyms_of(privacy, key)
        self._key_fingerprint = fingerprint(key)
        self._options = frozenset(map(PrivacyOption, privacy.options))
        self._pixel_policy = PixelPolicy(privacy.pixels)
        self._permit = frozenset(privacy.permit)
        standard_meanings()  # loaded now, so that it does not count against the limits of the first instance
        self.finder = text_finder(privacy)
        """What reads text in pictures before they leave; None where they are not looked through."""

    @classmethod
    def load(cls, privacy: PrivacySettings, noted: str | None) -> Self | None:
        """The profile of the settings; None where instances are exported as they are.

        Args:
            privacy: The settings.
            noted: Fingerprint of the key as it was checked at start-up; None where no process checked it.

        Raises:
            KeyUnusable: The key file cannot be used, or holds another key than at start-up.
            TextDetectionMissing: A program is not installed.
        """
        if privacy.profile == "none":
            return None
        key = key_of(privacy)
        if noted is not None:
            check_fingerprint(key, noted)
        return cls(privacy, key)

    def deidentify(self, instance: Instance, *, shows_pixels: bool) -> DeidentifiedInstance:
        """Make an instance show its de-identified self from now on: header, identity, hashes and pixels.

        Args:
            instance: The instance, as its file holds it.
            shows_pixels: Whether anything is to be made of its pixels.

        Raises:
            PrivacyUnknown: Its pixels may not leave, or its parts cannot be cleaned.
            ExportError: The instance cannot be read.
        """
        source = instance.source_header
        keyed_patient = self._pseudonyms.patient_beside(text_of(source, "PatientID"))
        shifts = PrivacyOption.RETAIN_LONGITUDINAL_MODIFIED_DATES in self._options
        weeks = weeks_for(source, self._pseudonyms) if shifts else 0
        identifiers = collect_identifiers(source, self._options, weeks)
        decision = self._decide(instance) if shows_pixels else None
        policy = PrivacyPolicy(self._pseudonyms, self._options, decision is not None and _is_cleaned(decision))
        result = deidentify(source, policy, identifiers.words)
        if policy.cleans_pixels:
            result.data_set.BurnedInAnnotation = "NO"
        if shows_pixels and _DOCUMENT in source:
            _add_document(source, result.data_set)
        hashes = (
            self._pseudonyms.of(CONTENT, instance.identity.content_sha256, _HASH_DIGITS),
            self._pseudonyms.of(SOURCE, instance.source_sha256, _HASH_DIGITS),
        )
        mask = None
        if decision is not None and instance.pixels is not None:
            mask = _InstanceMask(instance, instance.pixels, decision)
        statement: dict[str, object] = {
            "profile": self._name,
            "key": self._key_fingerprint,
            "options": sorted(self._options),
            "dropped": list(result.dropped),
            "private_dropped": result.private_dropped,
            "pixels": None if decision is None else decision.record(),
            **({"permit": sorted(self._permit)} if self._permit else {}),
            **({"patient": keyed_patient} if keyed_patient is not None else {}),
            "text_detection": None if self.finder is None or decision is None else self.finder.name,
        }
        instance.replace_header(
            result.data_set,
            hashes,
            mask,
            file_meta=rebuilt_file_meta(result.data_set, instance.transfer_syntax),
            deidentification=statement,
        )
        return DeidentifiedInstance(identifiers)

    def _decide(self, instance: Instance) -> PixelDecision | None:
        """Which pixels may leave; None where there are none.

        Raises:
            PrivacyUnknown: None of them may, or the instance is a document.
        """
        if _DOCUMENT in instance.source_header and not self._permit - {"audio"}:
            raise PrivacyUnknown(
                f"{name_of(_DOCUMENT)}: documents and models may hold anything, none can be cleaned, and"
                " `privacy.permit` names none"
            )
        if instance.pixels is None:
            return None
        decision = decide(instance.source_header, instance.pixels, instance.transfer_syntax, self._pixel_policy)
        if decision.is_refused:
            raise PrivacyUnknown(
                f"the pixels may not leave: {decision.reason} (step {decision.step} of the ladder; privacy.pixels:"
                f" {self._pixel_policy})"
            )
        return decision


def _add_document(source: Dataset, target: Dataset) -> None:
    """Put an encapsulated document, which is searched as a medium before it counts, into a de-identified data set."""
    for tag in (0x00420011, 0x00420015):  # Encapsulated Document, Encapsulated Document Length
        element = readable(source, tag)
        if element is not None and element.VR in ("OB", "OW", "UN", "UL"):
            target.add(element)


def _is_cleaned(decision: PixelDecision) -> bool:
    """Whether what the pixels show was cleaned by evidence, or blanked: not merely let pass."""
    area = decision.area
    return area is not None and area.hides and (decision.step is not LadderStep.POLICY or not area.kept)


@dataclass(frozen=True, slots=True)
class _InstanceMask:
    """The mask of one instance; see `exporter.dicom.instance.PixelMask`."""

    instance: Instance
    pixels: PixelDescription
    decision: PixelDecision

    def masked(self, reader: FrameReader) -> FrameReader:
        """The frames, of which only kept pixels can be seen."""
        return MaskedReader(reader, self.instance, self.pixels, self.decision)

    def masked_picture(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture of a video stream with black over what is hidden."""
        return masked_picture(picture, self.decision)


@dataclass(frozen=True, slots=True)
class DeidentifiedInstance:
    """What is known of an instance that was de-identified."""

    identifiers: CollectedIdentifiers
    """Of the source: none of them may be in an output."""

    def verify(self, outcome: Exported | Skipped, folder: Path) -> None:
        """Search everything that an outcome would publish for the identifiers of the source.

        Args:
            outcome: The outcome, with partial files as media.
            folder: Folder of the partial files.

        Raises:
            PrivacyUnknown: One of them was found.
        """
        fields = orjson.loads(to_json(outcome))
        record = fields.pop("record")
        media = outcome.media if isinstance(outcome, Exported) else ()
        files = ((folder / one.file, one.suffix) for one in media)
        elements = orjson.loads(record or "{}")
        fields["export"] = elements.pop("export", None)
        refuse_identifiers(self.identifiers, elements, fields, files)
