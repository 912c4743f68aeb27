"""Errors of the operating system that say something about the machine and nothing about an instance.

Contract: a full disk is told from a folder that cannot be used; whatever else an error means is the caller's to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import OutOfSpace, StorageUnavailable
from listener.foundation.disk import is_out_of_space

if TYPE_CHECKING:
    from exporter.errors import MachineCondition


def out_of_space(what: str, error: OSError) -> OutOfSpace | None:
    """The error of ours where the disk takes no more for now; None where `error` says something else."""
    return OutOfSpace(f"{what}: {error.strerror}") if is_out_of_space(error) else None


def storage_error(what: str, error: OSError) -> MachineCondition:
    """The error of ours for a folder that every instance needs: whatever ails it says nothing about an instance."""
    return out_of_space(what, error) or StorageUnavailable(what, error)
