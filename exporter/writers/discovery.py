"""Writers that other distributions add, found by their entry points.

Contract: an entry point of the group `GROUP` names a class that fulfils `exporter.writers.contract.Writer` and is made
without arguments; its name is the name of the writer. Entry points are read once per process and taken in the order of
their names, so every process that sees the same distributions has the same writers in the same order. What cannot be
used is an error with distribution, entry point and what was expected, before anything is exported.

Must never: leave out an entry point that is there, whatever is wrong with it; only the settings leave a writer out.

Source: Python Packaging User Guide, "Entry points specification".
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from exporter.outcome import MediaType, WriterOrigin
from exporter.writers.contract import InstancePart
from listener.foundation.errors import Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from importlib.metadata import EntryPoint

    from exporter.settings.settings import InstalledWriterSection
    from exporter.writers.contract import Writer

GROUP: Final = "dicom_media_exporter.writers"
OWN_NAMES: Final = frozenset(MediaType) - {MediaType.NONE}
"""Names of the exporter's own writers: each is called like the media that it makes."""
_METHODS: Final[Mapping[str, tuple[str, ...]]] = {"score": ("instance", "settings"), "write": ("task",)}
_MEND: Final = "mend or uninstall that distribution"


class WriterUnusable(Unusable):
    """An installed writer cannot be used: nothing is exported before that is mended."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class InstalledWriter:
    """A writer of another distribution."""

    origin: WriterOrigin
    writer: Writer


@cache
def installed_writers() -> tuple[InstalledWriter, ...]:
    """Writers of other distributions, by name.

    Raises:
        WriterUnusable: An entry point cannot be loaded, breaks the contract, or has the name of another writer.
    """
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    _refuse_names_twice(points)
    return tuple(InstalledWriter(_origin(point), _loaded(point)) for point in points)


def enabled_writers(sections: Sequence[InstalledWriterSection]) -> tuple[InstalledWriter, ...]:
    """Installed writers that the settings do not switch off.

    Raises:
        WriterUnusable: As `installed_writers`; or the settings name a writer that is not installed.
    """
    found = installed_writers()
    names = [one.origin.name for one in found]
    for section in sections:
        if section.name not in names:
            raise WriterUnusable(
                f"`writers` of the configuration names {section.name!r}, which is not installed "
                f"(installed: {', '.join(names) or 'none'}); install its distribution beside the exporter"
            )
    disabled = {section.name for section in sections if not section.enabled}
    return tuple(one for one in found if one.origin.name not in disabled)


def check_origins(expected: Iterable[Mapping[str, str]]) -> None:
    """Compare the writers of this process with those of the process that started it.

    Raises:
        WriterUnusable: They differ, or as `installed_writers`.
    """
    theirs = [WriterOrigin(**origin) for origin in expected]
    ours = [one.origin for one in installed_writers()]
    if ours != theirs:
        raise WriterUnusable(
            f"worker processes find other writers ({_listed(ours)}) than the process that starts them "
            f"({_listed(theirs)}): install them into the exporter's environment, or name their folder in PYTHONPATH"
        )


def _listed(origins: Sequence[WriterOrigin]) -> str:
    return ", ".join(f"{one.name} of {one.distribution} {one.version}" for one in origins) or "none"


def _refuse_names_twice(points: Sequence[EntryPoint]) -> None:
    first: dict[str, EntryPoint] = {}
    for point in points:
        if point.name in OWN_NAMES:
            raise _unusable(point, "its name is that of a writer of the exporter; expected is a name of its own")
        if point.name in first:
            other = _distribution(first[point.name])[0]
            raise _unusable(point, f"the distribution {other} has a writer of that name; expected is one of each name")
        first[point.name] = point


def _loaded(point: EntryPoint) -> Writer:
    try:
        made = point.load()
    except (Exception, SystemExit) as error:
        raise _unusable(point, f"it cannot be imported ({type(error).__name__}: {error})") from error
    if not inspect.isclass(made):
        raise _unusable(point, f"it is no class but {type(made).__name__}; expected is a class that needs no arguments")
    try:
        writer: Any = made()
    except (Exception, SystemExit) as error:
        problem = f"it cannot be made ({type(error).__name__}: {error}); expected is a class that needs no arguments"
        raise _unusable(point, problem) from error
    kind, part = getattr(writer, "kind", None), getattr(writer, "part", None)
    if not isinstance(kind, MediaType) or kind is MediaType.NONE:
        permitted = ", ".join(sorted(OWN_NAMES))
        raise _unusable(point, f"`kind` is {kind!r}; expected is an exporter.outcome.MediaType (of {permitted})")
    if not isinstance(part, InstancePart):
        raise _unusable(point, f"`part` is {part!r}; expected is an exporter.writers.contract.InstancePart")
    for method, parameters in _METHODS.items():
        if not _takes(getattr(writer, method, None), len(parameters)):
            raise _unusable(point, f"expected is a method {method}({', '.join(parameters)}), which it does not have")
    found: Writer = writer
    return found


def _takes(method: object, arguments: int) -> bool:
    """Whether `method` can be called with so many positional arguments."""
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*range(arguments))
    except (TypeError, ValueError):
        return False
    return True


def _origin(point: EntryPoint) -> WriterOrigin:
    return WriterOrigin(point.name, *_distribution(point))


def _distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to, as far as its metadata state them."""
    stated = point.dist.metadata.json if point.dist is not None else {}
    return str(stated.get("name", "unknown")), str(stated.get("version", "unknown"))


def _unusable(point: EntryPoint, problem: str) -> WriterUnusable:
    name, version = _distribution(point)
    return WriterUnusable(
        f"the writer {point.name!r} ({point.value}) of the distribution {name} {version} cannot be used: {problem}; "
        f"{_MEND}"
    )
