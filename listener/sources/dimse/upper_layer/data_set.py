"""What takes the data set of a message while it arrives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from listener.sources.dimse.upper_layer import command as dimse
    from listener.sources.dimse.upper_layer.negotiation import AcceptedContext


class DataSetSink(Protocol):
    """A message whose data set is on its way."""

    context: AcceptedContext
    command: dimse.Command

    @property
    def is_endless(self) -> bool:
        """Whether the data set went on far beyond any limit."""
        ...

    def write(self, piece: memoryview) -> None:
        """Take the next bytes of the data set; the view is used until `flush`."""
        ...

    def flush(self) -> None:
        """Let go of views."""
        ...

    def discard(self) -> None:
        """The data set will never be complete."""
        ...
