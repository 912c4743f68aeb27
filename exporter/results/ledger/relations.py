"""Relation of an instance to others of its SOP Instance UID: duplicate, conflict, or neither.

Contract: pure values. The answer depends on the order in which instances came, which is the order of their row numbers,
never on which of them was finished first. A later instance counts only where it does not know the one in question:
so an attempt that is repeated after a crash, or under other settings, finds what the first one found, and of two
contents under one UID at least one is flagged, whatever happened in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exporter.results.ledger.types import DuplicateCheck

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.outcome import InstanceIdentity

UNNUMBERED: Final = 1 << 62
"""Row number of what the ledger does not know: it comes after everything."""


@dataclass(frozen=True, slots=True)
class IdentifiedInstance:
    """One instance whose identity and relations are known."""

    name: str
    number: int
    """Number of the instance's row."""
    identity: InstanceIdentity
    ae_title: str
    relation: DuplicateCheck


def relate(
    identity: InstanceIdentity, name: str, number: int, ae_title: str, others: Iterable[IdentifiedInstance]
) -> DuplicateCheck:
    """The relation of an instance.

    Args:
        identity: Of the instance.
        name: Of the instance, which is nothing to itself.
        number: Of its row.
        ae_title: Our AE title whose settings count for it; duplicates are looked for within it.
        others: Instances of the same SOP Instance UID.
    """
    duplicate = conflict = None
    for other in sorted(others, key=lambda one: one.number):
        if other.name == name:
            continue
        if other.identity.content_sha256 == identity.content_sha256:
            # A duplicate is no original: two copies must not point at each other.
            if duplicate is None and other.ae_title == ae_title and other.relation.duplicate_of is None:
                duplicate = other.name
        elif (
            conflict is None
            and identity.sop_instance_uid
            and (other.number < number or other.relation.conflict_with is None)
        ):
            conflict = other.name
    return DuplicateCheck(duplicate, conflict)
