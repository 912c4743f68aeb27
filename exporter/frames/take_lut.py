"""Values through a table, in blocks: numpy makes 8-byte indices of what it looks up, a whole frame's would be large.

Contract: one result per index, ``table[index]``; indices beyond the table get its last entry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK: Final = 1 << 18
"""Values looked up at once: their indices stay in the processor's cache."""


def look_up(table: NDArray[np.uint8], index: np.ndarray) -> NDArray[np.uint8]:
    """Entries of `table` for unsigned `index` of shape ``(rows, columns[, 3])``.

    A table of shape ``(entries, 3)`` gives colours: a last axis of 3 is added.
    """
    found = np.empty((*index.shape, *table.shape[1:]), np.uint8)
    step = max(1, _BLOCK // max(1, int(np.prod(index.shape[1:]))))
    for top in range(0, index.shape[0], step):
        table.take(index[top : top + step], axis=0, mode="clip", out=found[top : top + step])
    return found
