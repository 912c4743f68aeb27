"""What the spool cannot do, with the cause and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from listener.foundation import disk
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from pathlib import Path


class SpoolUnusable(Unusable):
    """The spool folder cannot be used at all."""

    def __init__(self, path: Path, cause: str, hint: str) -> None:
        super().__init__(f"the spool folder {path} cannot be used", cause, hint)
        self.path = path


class SpoolBusy(Unusable):
    """Another daemon of the same role works on this spool."""

    def __init__(self, role: str, path: Path, holder: str) -> None:
        super().__init__(
            f"another {role} already works on the spool {path.parent} ({holder})",
            hint="stop it, or give this one another data folder with --data",
        )
        self.role = role


class SpoolWriteFailed(Exception):
    """An item could not be made durable: nothing of it is visible, and its sender must not get a success."""

    def __init__(self, operation: str, cause: OSError) -> None:
        super().__init__(f"{operation} failed: {cause.strerror or cause}")
        self.is_full = disk.is_full(cause) or disk.is_too_large(cause)
        """Whether a disk, a quota or a file is as large as it may be, as against broken or read-only."""
