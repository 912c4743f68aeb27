"""`exporter failures list|show|retry`: what failed, why, and trying again.

Contract: lists what the ledger has as failed or quarantined, and what the listener itself put into quarantine. The ID
of a failure is its name in the spool, or its path relative to the folder that was exported. Looking changes nothing;
`retry` makes failures pending again: a running exporter takes them up at once, a backfill with its next run.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import cyclopts
from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import DataOptions, existing, in_words
from exporter.page import failures as page_failures
from exporter.page.failures import Failure, failures_of
from listener.foundation.text import printable
from listener.spool import view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.privacy.input_names import InputNames

SourceOption = Annotated[
    Path | None,
    Parameter(
        name="--source",
        help="Folder that was exported: keyed IDs of its files are shown as their paths. Needs --config with the key.",
    ),
]

application = cyclopts.App(name="failures", help="List what failed, show why, try again.")

JsonOption = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
ReasonOption = Annotated[str | None, Parameter(name="--reason", help="Only failures of this reason.")]


@dataclass(frozen=True, slots=True)
class FailureNames:
    """IDs of failures, and the paths that they are keyed from where the output is de-identified."""

    names: InputNames | None
    """None without a configuration: then a key cannot be known."""
    source: Path | None

    @classmethod
    def of(cls, places: DataOptions, source: Path | None) -> Self:
        """Names under the configuration that the command names.

        Raises:
            KeyUnusable: Its key cannot be used.
        """
        if places.config is None:
            return cls(None, source)
        from exporter.privacy.input_names import InputNames

        settings = places.settings()
        folder = source or settings.dicom.dir
        return cls(InputNames.of(settings), folder.expanduser().resolve() if folder is not None else None)

    def ids(self, identifier: str) -> set[str]:
        """IDs that an identifier may mean: itself, and the name of the input at that path."""
        if self.names is None or not self.names.is_keyed:
            return {identifier}
        path = Path(identifier).expanduser()
        below = path.is_absolute() and self.source is not None and path.is_relative_to(self.source)
        relative = str(path.relative_to(self.source)) if below and self.source is not None else identifier
        return {identifier, self.names.name(relative)}

    def shown(self, failure: Failure) -> Failure:
        """A failure with the path of its input as ID, where that can be found."""
        if self.names is None or self.source is None or not self.names.is_keyed:
            return failure
        container, inside, rest = failure.id.partition("//")
        path = self.names.original(self.source, container)
        return failure if path is None else replace(failure, id=f"{path}{inside}{rest}")


@application.default
@application.command(name="list")
def list_failures(
    places: DataOptions | None = None,
    *,
    reason: ReasonOption = None,
    source: SourceOption = None,
    as_json: JsonOption = False,
) -> int:
    """List everything that failed: one line each, with its ID, reason and message."""
    places = places or DataOptions()
    data = existing(places.data)
    _known_reason(reason)
    names = FailureNames.of(places, source)
    with in_words():
        found = [names.shown(failure) for failure in failures_of(data) if reason in {None, failure.reason}]
    if as_json:
        rows = [{k: v for k, v in asdict(failure).items() if k != "details"} for failure in found]
        print(json.dumps(rows))
        return ExitCode.DONE
    for failure in found:
        print(f"{failure.reason:<18} {printable(failure.id)}   {printable(failure.message)}")
    print(f"{len(found)} failed" if found else "nothing failed")
    with in_words():
        for sentence in _waiting(data):
            print(sentence)
    return ExitCode.DONE


@application.command
def show(
    identifier: Annotated[str, Parameter(name="ID", help="ID of a failure, or a part of it that no other has.")],
    /,
    places: DataOptions | None = None,
    *,
    source: SourceOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show everything that is known of one failure."""
    places = places or DataOptions()
    data = existing(places.data)
    with in_words():
        failure = _only([*failures_of(data)], identifier, FailureNames.of(places, source))
        details = view.report(data / "spool", failure.reason, failure.id)
    facts = {key: value for key, value in asdict(failure).items() if value not in ({}, None)} | details
    if as_json:
        print(json.dumps(facts))
        return ExitCode.DONE
    for key, value in facts.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        print(f"{key:<12} {printable(shown)}")
    return ExitCode.DONE


@application.command
def retry(
    identifier: Annotated[
        str | None, Parameter(name="ID", help="ID of a failure, or a part of it that no other has.")
    ] = None,
    /,
    places: DataOptions | None = None,
    *,
    reason: ReasonOption = None,
    source: SourceOption = None,
) -> int:
    """Try one failure again, or all of one reason."""
    places = places or DataOptions()
    data = existing(places.data)
    if (identifier is None) == (reason is None):
        raise CommandError("name what to try again: an ID, or --reason and a reason", ExitCode.USAGE)
    _known_reason(reason)
    with in_words():
        name = (
            None if identifier is None else _only([*failures_of(data)], identifier, FailureNames.of(places, source)).id
        )
        count = page_failures.retry(data, name=name, reason=reason)
    hint = "" if (data / "spool").is_dir() else ": run the same `exporter backfill` once more"
    print(f"{count} to be tried again{hint if count else ''}")
    return ExitCode.DONE


def _waiting(data: Path) -> Iterator[str]:
    """Instances that wait for another attempt after a failure: not failed yet, and not well either."""
    from exporter.results.ledger import InstanceStatus, Ledger
    from exporter.results.ledger.types import overdue_sentences

    if not (data / "exporter.db").is_file():
        return
    with Ledger.open_read_only(data / "exporter.db") as ledger:
        reasons = {
            reason: n for (state, reason), n in ledger.counts().by_reason.items() if state == InstanceStatus.DEFERRED
        }
        if reasons:
            counted = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            yield f"{sum(reasons.values())} to be tried again: {counted}"
        yield from overdue_sentences(ledger.overdue(time.time()))


def _only(found: list[Failure], identifier: str, names: FailureNames) -> Failure:
    """The failure of that ID or path, or the only one whose ID has that part."""
    ids = names.ids(identifier)
    exact = [failure for failure in found if failure.id in ids]
    near = exact or [failure for failure in found if identifier in failure.id]
    if not near:
        raise CommandError(f"there is no failure {identifier}; `exporter failures list` shows all", ExitCode.USAGE)
    if len(near) > 1:
        raise CommandError(f"{len(near)} failures have {identifier} in their ID; name more of it", ExitCode.USAGE)
    return near[0]


def _known_reason(reason: str | None) -> None:
    from difflib import get_close_matches

    from exporter.errors import Reason

    words = [str(word) for word in Reason]
    if reason is not None and reason not in words:
        near = get_close_matches(reason, words, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise CommandError(f"no failure has the reason {reason} (permitted: {', '.join(words)}{guess})", ExitCode.USAGE)
