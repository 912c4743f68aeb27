"""What the spool cannot do, with the cause and what to do about it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

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
        self.errno = cause.errno

    @property
    def is_full(self) -> bool:
        """Whether a disk or a quota is exhausted, as against broken or read-only."""
        return self.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
