"""De-identification of one instance on its way through the pipeline: before it has an identity, and before it counts.

Contract: `deidentified` is called once for each instance, after it was compared with the sender's command and before
anything of it is reported. From then on the instance shows its de-identified self. `DeidentifiedInstance.verify` looks
through the outcome before the worker answers.

Must never: let an instance pass whose settings name a profile that was not loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.errors import PrivacyUnknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from exporter.dicom.instance import Instance
    from exporter.privacy.profile import DeidentifiedInstance, PrivacyProfile
    from exporter.settings.settings import MediaSettings


def deidentified(
    instance: Instance, settings: MediaSettings, profile: PrivacyProfile | None
) -> DeidentifiedInstance | None:
    """De-identify an instance as the settings say; None where they leave it as it is.

    Raises:
        PrivacyUnknown: It cannot be de-identified, a picture of it shows an identifier or a date, or its document
            holds an identifier or cannot be searched.
        ExportError: The instance cannot be read.
    """
    if profile is None:
        if settings.privacy.profile != "none":
            raise PrivacyUnknown(f"`privacy.profile: {settings.privacy.profile}` was not loaded")
        return None
    found = profile.deidentify(instance, shows_pixels=settings.media.enabled)
    if "EncapsulatedDocument" in instance.header:
        _search_document(instance, found)
    if profile.finder is not None and instance.mask is not None:
        from exporter.privacy.pixels import text_that_denies

        pictures = _pictures(instance, settings)
        denial = text_that_denies(pictures, profile.finder, found.identifiers.spellings)
        if denial is not None:
            raise PrivacyUnknown(denial)
    return found


def _search_document(instance: Instance, found: DeidentifiedInstance) -> None:
    """Search a permitted document before any of it is written, be it to a partial file."""
    from exporter.privacy.verification import refuse_document
    from exporter.writers.document import document_of, is_empty_document, kind_of

    if is_empty_document(instance.header):
        return
    document = document_of(instance)[0]
    kind = kind_of(document)
    if kind is not None:  # else its writer refuses it
        refuse_document(found.identifiers, document, kind.suffix)


def _pictures(instance: Instance, settings: MediaSettings) -> Iterator[NDArray[Any]]:
    """Every picture of an instance as it would be shown."""
    from exporter.dicom.timing import schedule_of
    from exporter.frames import open_frames
    from exporter.writers.pictures.display_frames import still_pictures, stream_pictures
    from exporter.writers.pictures.video_stream import kinds_of

    frames = open_frames(instance, settings.limits)
    if not frames.is_video_stream:
        yield from still_pictures(frames, settings.display)
        return
    rate = schedule_of(instance.header, frames.count, default_rate_hz=settings.video.default_rate_hz).rate
    with frames.open_stream() as source:
        kind = kinds_of(source.read(1024), instance.transfer_syntax)[0]
    yield from stream_pictures(frames, kind, rate, settings.limits)
