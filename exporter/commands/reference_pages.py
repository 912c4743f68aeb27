"""Reference of reasons and metrics, made from the classes and tables that use them.

Contract: `docs/reasons.md` and the table of metrics in `docs/monitoring.md` hold what this module makes, and tests
compare them: after a change run ``python -m exporter.commands.reference_pages`` in the repository.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

import exporter.dicom.bytesource  # noqa: F401 - it has error classes of its own
from exporter.errors import ExportError, Reason, SkipReason
from exporter.page.failures import REMEDIES
from exporter.page.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKS: Final = (
    "<!-- metrics: made by `python -m exporter.commands.reference_pages` -->\n",
    "<!-- end of metrics -->\n",
)
"""In `docs/monitoring.md`, around the table of metrics."""
_HEAD: Final = """\
# Reasons

<!-- made by `python -m exporter.commands.reference_pages` -->

The stable words for which an instance failed or was skipped: in the ledger, in metadata lines, as folders below
`spool/quarantine/`, as labels of [metrics](monitoring.md#metrics), and in `exporter failures`. The
[runbook](guides/operator.md#failures-by-reason) has an entry for each failure.

## Failures

"""


def reasons() -> str:
    """`docs/reasons.md`: every reason with what it means, whether it is tried again, and what to do."""
    failures = ["| reason | what happened | tried again by itself | what to do |", "|---|---|---|---|"]
    for reason in Reason:
        classes = list(_classes(ExportError, reason))
        told = " Or: ".join(_summary(one) for one in classes)
        passing = [one.may_pass for one in classes]
        again = "yes" if all(passing) else "yes, where that may help" if any(passing) else "no"
        link = f"[{reason}](guides/operator.md#{reason})"
        failures.append(f"| {link} | {told} | {again} | {REMEDIES[reason]} |")
    skips = ["| reason | what happened |", "|---|---|"]
    skips += [f"| `{SkipReason[name]}` | {text} |" for name, text in _member_docstrings(SkipReason)]
    return _HEAD + "\n".join(failures) + "\n\n## Skips\n\nNothing is wrong with these.\n\n" + "\n".join(skips) + "\n"


def metrics() -> str:
    """The table of metrics in `docs/monitoring.md`."""
    rows = [f"| `{name}` | {kind} | {meaning} |" for name, (kind, meaning) in METRICS.items()]
    return "\n".join(["| metric | kind | meaning |", "|---|---|---|", *rows]) + "\n"


def _classes(above: type[ExportError], reason: Reason) -> Iterator[type[ExportError]]:
    """Error classes of a reason that the product defines, the general one first."""
    for one in sorted(above.__subclasses__(), key=lambda one: (one.__module__, _line(one))):
        if one.__module__.startswith("exporter."):
            if one.reason is reason:
                yield one
            yield from _classes(one, reason)


def _line(one: type[ExportError]) -> int:
    return inspect.getsourcelines(one)[1]


def _summary(one: type[ExportError]) -> str:
    return " ".join((inspect.getdoc(one) or "").partition("\n\n")[0].split())


def _member_docstrings(words: type[SkipReason]) -> Iterator[tuple[str, str]]:
    """Members of an enumeration with the strings below them.

    Raises:
        ValueError: A member has none.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(words))).body
    assert isinstance(definition, ast.ClassDef)  # noqa: S101 - it is a class
    told = {}
    for member, text in pairwise(definition.body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(meaning))):
                told[name] = " ".join(meaning.split())
            case _:
                pass
    for name in words.__members__:
        if name not in told:
            raise ValueError(f"{words.__name__}.{name} has no docstring")
        yield name, told[name]


def rewrite(repository: Path) -> None:
    """Bring both pages of a checkout up to date."""
    (repository / "docs/reasons.md").write_text(reasons())
    document = repository / "docs/monitoring.md"
    head, mark, rest = document.read_text().partition(MARKS[0])
    document.write_text(head + mark + metrics() + MARKS[1] + rest.partition(MARKS[1])[2])


if __name__ == "__main__":
    rewrite(Path(__file__).resolve().parents[2])
