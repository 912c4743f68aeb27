"""What a worker is asked to do: the contract between the worker process and what it exports with.

Contract: values that cross the worker's pipe as JSON, and the shape of an export function. It stands in a module of its
own because ``python -m exporter.work.worker`` runs that module under another name: a class defined there would exist
twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from exporter.outcome import InstanceIdentity, Outcome


class ExportStopped(Exception):
    """The parent does not want this instance exported, now that it knows which it is."""


class Ask(Protocol):
    """Tells the parent who the instance is, and returns when the export shall go on."""

    def __call__(self, identity: InstanceIdentity) -> None:
        """Ask.

        Raises:
            Stopped: The export shall not go on.
        """
        ...


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One instance to export."""

    path: str
    """The DICOM file; bytes that are no text are kept as `os.fsdecode` keeps them."""
    folder: str
    """An empty folder for partial media files, on the file system of the media folder."""
    ask: bool
    """Whether the parent wants to decide once it knows the identity."""
    received: bool = False
    """Whether the file came through the listener: where that wrote its file meta information, it is what the sender
    announced."""
    ae_title: str = ""
    """Our AE title whose settings count; empty: the settings of the top."""
    ours: bool = False
    """Whether the file lies in a folder of the exporter: that it is not there is then no fault of the instance."""


class Export(Protocol):
    """What a `target` makes of the settings: exports one job."""

    def __call__(self, job: WorkerJob, ask: Ask) -> Outcome:
        """Export.

        Raises:
            OutOfSpace, StorageUnavailable: A condition of the machine; says nothing about the instance.
            Stopped: The parent does not want it.
        """
        ...
