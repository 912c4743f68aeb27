"""The job of a worker and its two steps: the interface between the worker process and the function that exports.

Contract: the job crosses the worker's pipe as JSON. An export has two steps: `identify` opens the instance and reports
its identity, `export` makes its media; between them the parent may decide to skip the instance. These types are in a
module of their own because ``python -m exporter.work.worker`` runs that module under another name: a class defined
there would exist twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, fields

from exporter.outcome import InstanceIdentity, Outcome, Skipped

Steps = Generator[InstanceIdentity, None, Outcome]
"""The export of one instance: yields its identity, unless it has an outcome before that; resumed, it returns the
outcome. `close` ends it between the steps."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """One instance to export."""

    path: str
    """The DICOM file; a path that is not valid text is encoded as by `os.fsdecode`."""
    folder: str
    """An empty folder for partial media files, on the file system of the media folder."""
    received: bool = False
    """Whether the listener received the file; then the file meta information is what the sender announced."""
    ae_title: str = ""
    """Called AE title whose settings apply; empty for the top-level settings."""
    ours: bool = False
    """Whether the file lies in a folder of the exporter; if it is missing there, the instance is not at fault."""


def message_of(values: WorkerJob | InstanceIdentity) -> dict[str, str | bool]:
    """The fields as a message has them; they hold nothing that would have to be copied."""
    return {one.name: getattr(values, one.name) for one in fields(values)}


Decide = Callable[[InstanceIdentity], Skipped | None]
"""Decides, from the identity, whether an instance is exported (None) or skipped."""
Export = Callable[[WorkerJob], Steps]
"""Begins the export of one job; a `target` makes this function from the settings."""


def identify(steps: Steps) -> InstanceIdentity | Outcome:
    """Run the first step.

    Returns:
        The identity of the instance, or its outcome if there is no second step.

    Raises:
        OutOfSpace, StorageUnavailable: A condition of the machine; says nothing about the instance.
    """
    try:
        return next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def export(steps: Steps) -> Outcome:
    """Run the second step, after `identify` returned an identity.

    Returns:
        The outcome.

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
    """Run both steps in this process, with the decision between them."""
    found = identify(steps)
    if not isinstance(found, InstanceIdentity):
        return found
    skipped = decide(found)
    if skipped is None:
        return export(steps)
    steps.close()
    return skipped
