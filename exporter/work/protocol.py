"""What a worker is asked to do: the contract between the worker process and what it exports with.

Contract: the job crosses the worker's pipe as JSON. An export has two steps: `identify` opens the instance and tells
who it is, `export` makes its media; between them the parent may decide that it does not want the instance. This stands
in a module of its own because ``python -m exporter.work.worker`` runs that module under another name: a class defined
there would exist twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from exporter.outcome import InstanceIdentity, Outcome, Skipped

Steps = Generator[InstanceIdentity, None, Outcome]
"""The export of one instance: gives its identity, unless its outcome comes before that; resumed, it returns the
outcome. `close` ends it between the steps."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One instance to export."""

    path: str
    """The DICOM file; bytes that are no text are kept as `os.fsdecode` keeps them."""
    folder: str
    """An empty folder for partial media files, on the file system of the media folder."""
    received: bool = False
    """Whether the file came through the listener: where that wrote its file meta information, it is what the sender
    announced."""
    ae_title: str = ""
    """Called AE title whose settings apply; empty for the top-level settings."""
    ours: bool = False
    """Whether the file lies in a folder of the exporter: that it is not there is then no fault of the instance."""


Decide = Callable[[InstanceIdentity], Skipped | None]
"""Says whether an instance is exported (None), now that its identity is known."""
Export = Callable[[WorkerJob], Steps]
"""What a `target` makes of the settings: begins the export of one job."""


def identify(steps: Steps) -> InstanceIdentity | Outcome:
    """The first step: who the instance is, or its outcome where nothing follows.

    Raises:
        OutOfSpace, StorageUnavailable: A condition of the machine; says nothing about the instance.
    """
    try:
        return next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def export(steps: Steps) -> Outcome:
    """The second step, after `identify` gave the identity: the outcome.

    Raises:
        OutOfSpace, StorageUnavailable: A condition of the machine; says nothing about the instance.
    """
    try:
        next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    raise AssertionError("an export identifies its instance once")


def run(steps: Steps, decide: Decide) -> Outcome:
    """Both steps in this process, with the decision between them."""
    found = identify(steps)
    if not isinstance(found, InstanceIdentity):
        return found
    skipped = decide(found)
    if skipped is None:
        return export(steps)
    steps.close()
    return skipped
