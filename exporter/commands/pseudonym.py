"""`exporter pseudonym`: the pseudonyms of given identifiers, UIDs, inputs and AE titles, for who has the key.

Contract: one pseudonym a line, in the order of what was given. Originals are read from arguments or standard input, and
are written nowhere but into a crosswalk that was asked for: a CSV file for its owner alone (0600), never below the
output.
"""

from __future__ import annotations

import csv
import os
import sys
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, settings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.privacy.pseudonyms import Pseudonyms
    from exporter.settings.settings import Settings


class PseudonymKind(StrEnum):
    """Kind of what a pseudonym stands for."""

    PATIENT = "patient"
    IDENTIFIER = "identifier"
    UID = "uid"
    INPUT = "input"
    AE_TITLE = "ae-title"


def pseudonym(
    values: Annotated[
        tuple[str, ...], Parameter(name="ID", help="Identifiers; without any, standard input has one a line.")
    ] = (),
    /,
    *,
    kind: Annotated[
        PseudonymKind,
        Parameter(
            help="What they are: patient IDs; other identifiers, such as accession numbers; UIDs; paths of inputs,"
            " relative to the folder that is exported; called AE titles."
        ),
    ] = PseudonymKind.PATIENT,
    crosswalk: Annotated[
        Path | None, Parameter(help="New CSV file for its owner alone that gets every original beside its pseudonym.")
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Print the pseudonyms that the key of the configuration gives to identifiers.

    Needs `privacy.key_file`. Identifiers on a command line can be seen by other users of the machine: standard input
    keeps them private.
    """
    settings = settings_of(config)
    pseudonym_of = _pseudonyms(settings, kind)
    rows = ((value, pseudonym_of(value)) for value in (values or _lines()))
    if crosswalk is None:
        for _, found in rows:
            print(found)
        return ExitCode.DONE
    _refuse_below_output(crosswalk, settings)
    count = _write(crosswalk, rows)
    print(f"wrote {count} pseudonyms beside their originals; keep the file as safe as the key")
    return ExitCode.DONE


def _lines() -> Iterator[str]:
    """What standard input says, a value for each line that is not empty."""
    for line in sys.stdin:
        if value := line.rstrip("\r\n"):
            yield value


def _pseudonyms(settings: Settings, kind: PseudonymKind) -> Callable[[str], str]:
    """The function that gives the pseudonyms of one kind.

    Raises:
        CommandError: The configuration names no key.
        KeyUnusable, ListUnusable: Its key, or its table of pseudonyms, cannot be used.
    """
    from exporter.privacy.input_names import InputNames
    from exporter.privacy.key import key_of
    from exporter.privacy.lists import pseudonyms_of
    from exporter.privacy.pseudonyms import IDENTIFIER

    if settings.privacy.key_file is None:
        raise CommandError(
            "pseudonyms need a key: give --config FILE, and name the key there with `privacy.key_file`", ExitCode.USAGE
        )
    pseudonyms = pseudonyms_of(settings.privacy, key_of(settings.privacy))
    names = InputNames(pseudonyms)
    match kind:
        case PseudonymKind.PATIENT:
            return _of_patient(pseudonyms)
        case PseudonymKind.IDENTIFIER:
            return lambda value: pseudonyms.of(IDENTIFIER, value)
        case PseudonymKind.UID:
            return lambda value: pseudonyms.uid(value.strip())
        case PseudonymKind.INPUT:
            return lambda value: names.name(value.removeprefix("./"))
        case PseudonymKind.AE_TITLE:
            return lambda value: names.pseudonym_of_title(value.strip())


def _of_patient(pseudonyms: Pseudonyms) -> Callable[[str], str]:
    """The function that gives the pseudonym of a patient ID.

    Raises:
        CommandError: A table gives the pseudonyms, and not that one.
    """
    from exporter.errors import PrivacyUnknown
    from exporter.privacy.pseudonyms import PATIENT

    def pseudonym_of(value: str) -> str:
        try:
            return pseudonyms.of(PATIENT, value)
        except PrivacyUnknown as error:
            raise CommandError(f"there is no pseudonym: {error}") from error

    return pseudonym_of


def _refuse_below_output(crosswalk: Path, settings: Settings) -> None:
    """Refuse a crosswalk in a folder that holds output.

    Raises:
        CommandError: It lies below a media folder, or beside a ledger or metadata lines.
    """
    place = crosswalk.expanduser().absolute()
    outputs = [path for path in (settings.media.dir, settings.metadata.file and settings.metadata.file.parent) if path]
    for folder in place.parents:
        if (folder / "exporter.db").exists() or any(folder == output.absolute() for output in outputs):
            raise CommandError(
                f"{crosswalk} lies below the output {folder}: a crosswalk beside what is de-identified undoes it;"
                " name a place outside",
                ExitCode.USAGE,
            )


def _write(crosswalk: Path, rows: Iterator[tuple[str, str]]) -> int:
    """Write the crosswalk whole, or not at all.

    Returns:
        Number of rows.

    Raises:
        CommandError: It is there already, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    place, count = crosswalk.expanduser(), 0
    try:
        fd = os.open(place, flags, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(("original", "pseudonym"))
                for row in rows:
                    writer.writerow(row)
                    count += 1
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            place.unlink()
            raise
    except FileExistsError:
        raise CommandError(f"{crosswalk} exists and is not replaced; name a new file", ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(f"{crosswalk} cannot be written: {error.strerror}; choose another place") from error
    return count
