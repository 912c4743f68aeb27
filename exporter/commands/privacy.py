"""`exporter privacy check`: an existing output, searched for what its sources would identify, and for leaking settings.

Contract: looks only; prints places, never values. Ends with 3 where there are any.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, existing, in_words, settings_of
from listener.foundation.text import printable

application = cyclopts.App(name="privacy", help="Check what was de-identified.")


@application.command
def check(
    out: Annotated[Path, Parameter(name="OUT", help="Data or output folder of an exporter.")],
    /,
    *,
    source: Annotated[
        Path | None, Parameter(help="Folder that was exported; default: `dicom.dir`, and what the spool still has.")
    ] = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Search an output for identifiers that its sources still have, and for settings that leak.

    Every instance of the sources is compared with its line, its media and their names; every other file below OUT is
    searched for the patients and UIDs of all of them. The spool holds originals and is passed over. Ends with 3 where
    something was found: places, never values.
    """
    settings = settings_of(config)
    data = existing(out)
    if not (data / "exporter.db").is_file():
        raise CommandError(f"{out} has no exporter.db yet: nothing was exported, so there is nothing to check")
    with in_words():
        from exporter.inputs.leaks import find_leaks
        from exporter.privacy.key import check_fingerprint, key_of
        from exporter.results.deidentification import fingerprint_of
        from exporter.results.ledger import Ledger
        from listener.settings.listener import DataFolder

        with Ledger.open_read_only(data / "exporter.db") as ledger:
            begun_with = fingerprint_of(ledger)
        if begun_with is not None:
            if not settings.deidentifies:
                raise CommandError(
                    f"{out} is de-identified, and without its key no source is recognised: give --config FILE",
                    ExitCode.USAGE,
                )
            check_fingerprint(key_of(settings.privacy), begun_with, out)
        folder = source or settings.dicom.dir
        report = find_leaks(DataFolder(data), settings, folder.expanduser() if folder is not None else None)
    if report.sources == report.unknown and not report.places:
        raise CommandError(
            f"none of {report.sources} sources is in {out}: name the folder that was exported with --source DIR",
            ExitCode.USAGE,
        )
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        for place, finding in report.places.items():
            print(f"{printable(place)}: {printable(finding)}")
        unread = f" ({report.unread} files are no instances, or cannot be read)" if report.unread else ""
        print(
            f"{report.sources} instances of the sources{unread}, {report.files} files of the output:"
            f" {len(report.places) or 'no'} places that may identify somebody"
        )
    return ExitCode.SOME_FAILED if report.places else ExitCode.DONE
