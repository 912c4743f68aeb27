"""SOP classes and transfer syntaxes of PS3.6, with what the receiving engine in force answers to each.

Contract: what is accepted is asked of the functions by which the engines answer; nothing here is a second list.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from exporter.frames.transfer_syntaxes import Family, family_of
from listener.intake.transfer_syntaxes import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    STORAGE_COMMITMENT_PUSH,
    VERIFICATION,
    choose,
    is_storage,
)
from listener.sources.dimse.upper_layer import negotiation

if TYPE_CHECKING:
    from listener.settings.listener import ListenerSection

_CLASS_KINDS: Final = frozenset({"SOP Class", "Meta SOP Class"})
UNLISTED: Final = {
    "private: outside `1.2.840.10008.`": "2.25.1",
    "below `1.2.840.10008.5.1.4.1.1.`, not known": "1.2.840.10008.5.1.4.1.1.999999",
    "any other below `1.2.840.10008.`, not known": "1.2.840.10008.9.9.9",
}
"""Kinds of UIDs that PS3.6 does not list, and an example of each."""
_LATER: Final = {
    "1.2.840.10008.1.2.4.110": ("JPEG XL Lossless", "Transfer Syntax"),
    "1.2.840.10008.1.2.4.111": ("JPEG XL JPEG Recompression", "Transfer Syntax"),
    "1.2.840.10008.1.2.4.112": ("JPEG XL", "Transfer Syntax"),
    "1.2.840.10008.1.2.8.1": ("Deflated Image Frame Compression", "Transfer Syntax"),
}
"""UIDs of PS3.6 that pydicom's dictionary has only once pynetdicom is loaded."""
_FAMILIES: Final = {
    Family.NATIVE: "decoded",
    Family.CODESTREAM: "decoded",
    Family.RLE: "decoded",
    Family.ENCAPSULATED_NATIVE: "decoded",
    Family.DEFLATED_FRAMES: "decoded",
    Family.VIDEO: "decoded, or its stream copied",
    Family.ELSEWHERE: "kept; the pixels are not in the instance: `unsupported_syntax`",
    Family.UNSUPPORTED: "kept; no decoder: `unsupported_syntax`",
    Family.UNKNOWN: "kept; not known: `unsupported_syntax`",
}


class RegisteredUid(NamedTuple):
    """A UID of PS3.6 Annex A."""

    uid: str
    name: str
    is_retired: bool

    @property
    def label(self) -> str:
        """Name for a table."""
        name = self.name.partition(" (Retired)")[0]
        return f"{name} (Retired)" if self.is_retired else name


@cache
def registered(*kinds: str) -> tuple[RegisteredUid, ...]:
    """UIDs of these types, in numerical order."""
    from pydicom._uid_dict import UID_dictionary  # the table itself: there is no public list of UIDs

    found = [
        RegisteredUid(uid, name, bool(retired))
        for uid, (name, kind, _, retired, _) in UID_dictionary.items()
        if kind in kinds and uid not in _LATER
    ]
    found += [RegisteredUid(uid, name, is_retired=False) for uid, (name, kind) in _LATER.items() if kind in kinds]
    return tuple(sorted(found, key=lambda one: [int(part) for part in one.uid.split(".")]))


def sop_classes() -> tuple[RegisteredUid, ...]:
    """Every SOP class of PS3.6, meta classes and retired ones included."""
    return registered(*sorted(_CLASS_KINDS))


def transfer_syntaxes() -> tuple[RegisteredUid, ...]:
    """Every transfer syntax of PS3.6, in the order in which one of a proposal is taken."""
    uids = registered("Transfer Syntax")
    preferred: list[RegisteredUid] = []
    left = {one.uid: one for one in uids}
    while left:
        preferred.append(left.pop(choose(tuple(left))))
    return tuple(preferred)


def use_of_pixels(transfer_syntax: str) -> str:
    """What becomes of pixel data in a transfer syntax."""
    return _FAMILIES[family_of(transfer_syntax)]


def is_accepted(settings: ListenerSection, sop_class: str, transfer_syntax: str = EXPLICIT_LITTLE) -> bool:
    """Whether the listener accepts a presentation context in the role of SCP."""
    if settings.engine == "native":
        return negotiation.is_served(sop_class, commitment=settings.commitment.enabled)
    from listener.sources.dimse.acceptor import pynetdicom_engine

    return pynetdicom_engine.is_served(sop_class, transfer_syntax)


def taken_classes(settings: ListenerSection) -> tuple[RegisteredUid, ...]:
    """SOP classes of which instances are taken by some way in."""
    others = (VERIFICATION, STORAGE_COMMITMENT_PUSH)
    return tuple(
        one
        for one in sop_classes()
        if one.uid not in others and (is_storage(one.uid) or is_accepted(settings, one.uid))
    )


def verification_syntaxes(settings: ListenerSection) -> tuple[str, ...] | None:
    """Transfer syntaxes in which alone Verification is accepted; None where it is in every one."""
    if settings.engine == "native":
        return None
    from listener.sources.dimse.acceptor import pynetdicom_engine

    return pynetdicom_engine.verification_syntaxes()


UNCOMPRESSED: Final = (
    f"Explicit VR Little Endian (`{EXPLICIT_LITTLE}`), Implicit VR Little Endian (`{IMPLICIT_LITTLE}`)"
)
"""Transfer syntaxes of what we request, in words."""
