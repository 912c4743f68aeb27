"""Elements that may differ by frame: functional groups first, the data set's top level after them (PS3.3 C.7.6.16).

Contract: `FrameElements.of(index, macro, keyword)` finds the value that holds for one frame, in the Standard's order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.dicom.elements import READING_ERRORS, is_unreadable_sequence, name_of, value_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class FrameElements:
    """The elements that hold for each frame."""

    def __init__(self, header: Dataset, notes: list[str] | None = None) -> None:
        """Find them in `header`; `notes` gets what cannot be read."""
        self._header = header
        self._notes = notes
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            self._note_unreadable(header, keyword)
        self._shared = _items(header, "SharedFunctionalGroupsSequence")
        self._per_frame = _items(header, "PerFrameFunctionalGroupsSequence")

    @property
    def count(self) -> int:
        """Number of frames that have functional groups of their own."""
        return len(self._per_frame)

    @property
    def vary(self) -> bool:
        """Whether there are per-frame functional groups at all."""
        return bool(self._per_frame)

    def item(self, index: int, macro: str) -> Dataset:
        """The data set that holds a macro's elements for one frame: its item, else the top level."""
        groups: list[Dataset] = []
        if index < len(self._per_frame):
            groups.append(self._per_frame[index])
        groups += self._shared[:1]
        for group in groups:
            found = _items(group, macro)
            if found:
                return found[0]
            self._note_unreadable(group, macro)
        return self._header

    def _note_unreadable(self, dataset: Dataset, keyword: str) -> None:
        if self._notes is not None and is_unreadable_sequence(dataset, keyword):
            note = f"{name_of(keyword)} cannot be read: what it says of frames is not applied"
            if note not in self._notes:
                self._notes.append(note)


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or cannot be read."""
    from pydicom.sequence import Sequence

    try:
        value = value_of(dataset, keyword)
        return list(value) if isinstance(value, Sequence) else []
    except READING_ERRORS:
        return []
