"""`exporter metadata csv|parquet|series|mapping|combine`: tables of the metadata lines, and one file of several.

Contract: reads a data or output folder, also while an exporter writes to it; a table appears whole or not at all. The
last line that is printed says the number of rows and columns, and what is not in the table as it is in the lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter, validators

from exporter.commands import CommandError, ExitCode
from exporter.commands.options import ConfigOption, exported_folder, in_words
from listener.foundation.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from exporter.tables.columns import Column, ColumnRequest
    from exporter.tables.lines import MetadataLines
    from exporter.tables.output_folder import ExportedFolder
    from exporter.tables.projection import Batch

application = cyclopts.App(name="metadata", help="Make tables of the metadata lines.")

OutArgument = Annotated[
    Path, Parameter(name="OUT", help="Data folder, output folder of a backfill, or a metadata file.")
]
ToOption = Annotated[Path | None, Parameter(name="--to", help="The table; default: a file in OUT.")]
KeyFileOption = Annotated[
    Path | None,
    Parameter(name="--key-file", help="Key of pseudonyms; default: pseudonym.key in OUT, made where there is none."),
]
SharesOption = Annotated[
    str, Parameter(name="--shares", help="Shares of train, validation and test, by patient; they add up to 1.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Which columns a table has."""

    keys: Annotated[
        Literal["keyword", "name", "tag"],
        Parameter(help="What columns of elements are called: PatientID, Patient ID or 00100020."),
    ] = "keyword"
    columns: Annotated[
        str,
        Parameter(
            help="Which elements have one: all, public (no private ones), common, or a file with one keyword, name or"
            " tag on each line."
        ),
    ] = "all"
    share: Annotated[
        float,
        Parameter(validator=validators.Number(gt=0, lte=1), help="Common: filled in at least this share of the rows."),
    ] = 0.9

    def request(self) -> ColumnRequest:
        """The columns as `exporter.tables` takes them.

        Raises:
            CommandError: The file of columns cannot be read.
        """
        from exporter.results.metadata.keys import KeyStyle
        from exporter.tables.columns import ColumnChoice, ColumnRequest

        style = KeyStyle(self.keys)
        if self.columns in set(ColumnChoice) - {ColumnChoice.SPECIFIC}:
            return ColumnRequest(style, ColumnChoice(self.columns), self.share)
        path = Path(self.columns).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            cause = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise CommandError(
                f"--columns {self.columns}: {cause}; permitted are all, public, common, and a file with one keyword,"
                " name or tag on each line",
                ExitCode.USAGE,
            ) from error
        words = tuple(word for line in text.splitlines() if (word := line.strip()) and not word.startswith("#"))
        return ColumnRequest(style, ColumnChoice.SPECIFIC, listed=words)


@application.command(name="csv")
def csv_table(
    out: OutArgument,
    /,
    columns: ColumnOptions | None = None,
    *,
    to: ToOption = None,
    key_file: KeyFileOption = None,
    shares: SharesOption = "0.8,0.1,0.1",
    config: ConfigOption = None,
) -> int:
    """Write all lines as one CSV file: one row per instance."""
    return _instances(exported_folder(out, config), columns, ".csv", to=to, key_file=key_file, shares=shares)


@application.command(name="parquet")
def parquet_table(
    out: OutArgument,
    /,
    columns: ColumnOptions | None = None,
    *,
    to: ToOption = None,
    key_file: KeyFileOption = None,
    shares: SharesOption = "0.8,0.1,0.1",
    config: ConfigOption = None,
) -> int:
    """Write all lines as one Parquet file: one row per instance, every column in its type."""
    return _instances(exported_folder(out, config), columns, ".parquet", to=to, key_file=key_file, shares=shares)


@application.command(name="series")
def series_table(
    out: OutArgument,
    /,
    *,
    to: ToOption = None,
    key_file: KeyFileOption = None,
    shares: SharesOption = "0.8,0.1,0.1",
    config: ConfigOption = None,
) -> int:
    """Write one row per series under the names of idc-index, as CSV or (--to FILE.parquet) as Parquet."""
    from exporter.tables.series import SERIES_COLUMNS, series_batches

    folder = exported_folder(out, config)
    target = _target(folder, to, "series.csv", (".csv", ".parquet"))
    with in_words(), folder.lines() as lines, folder.input_sizes() as size_of:
        patients = folder.patients(key_file, parsed_shares(shares))
        rows = _write(target, SERIES_COLUMNS, series_batches(lines, patients, size_of))
    print(printable(f"{rows} series in {target}{_left_out(lines)}"))
    return ExitCode.DONE


@application.command(name="mapping")
def mapping_table(
    out: OutArgument,
    /,
    *,
    to: ToOption = None,
    key_file: KeyFileOption = None,
    config: ConfigOption = None,
) -> int:
    """Write which input became which media, as CSV or (--to FILE.parquet) as Parquet."""
    from exporter.tables.mapping import MAPPING_COLUMNS, mapping_batches

    folder = exported_folder(out, config)
    target = _target(folder, to, "mapping.csv", (".csv", ".parquet"))
    with in_words(), folder.lines() as lines:
        rows = _write(target, MAPPING_COLUMNS, mapping_batches(lines, folder.patients(key_file)))
    print(printable(f"{rows} rows in {target}{_left_out(lines)}"))
    return ExitCode.DONE


@application.command(name="combine")
def combine_lines(
    *folders: Annotated[
        str,
        Parameter(
            name="NAME=OUT",
            help="Data folders of exporters, each with the name of its media folder below the one that all share.",
        ),
    ],
    to: Annotated[Path, Parameter(name="--to", help="The metadata file, which must end in .jsonl.")],
) -> int:
    """Write the lines of several exporters as one file with one line for each instance."""
    from exporter.tables.combined import combine

    found: dict[str, ExportedFolder] = {}
    for word in folders:
        name, sign, out = word.partition("=")
        if not (name and sign and out) or name.strip("/") in found:
            raise CommandError(
                f"{word}: name each data folder once as NAME=OUT, such as a=/srv/exporter-a", ExitCode.USAGE
            )
        found[name.strip("/")] = exported_folder(Path(out), None)
    if not found:
        raise CommandError("name data folders as NAME=OUT, such as a=/srv/exporter-a", ExitCode.USAGE)
    target = to.expanduser()
    if target.suffix != ".jsonl" or not target.parent.is_dir():
        raise CommandError(f"--to {to}: name a file in a folder that is there, ending in .jsonl", ExitCode.USAGE)
    with in_words():
        counts = combine(found, target)
    print(
        printable(
            f"{counts.instances} instances in {target}; {counts.duplicates} duplicates left out; {counts.conflicts} in"
            " conflict with an earlier one"
        )
    )
    return ExitCode.DONE


def parsed_shares(text: str) -> tuple[float, float, float]:
    """The shares of train, validation and test.

    Raises:
        CommandError: They are not three numbers.
    """
    try:
        train, validation, test = map(float, text.split(","))
    except ValueError as error:
        raise CommandError(
            f"--shares {text}: three numbers that add up to 1 are permitted, such as 0.8,0.1,0.1", ExitCode.USAGE
        ) from error
    return train, validation, test


def _instances(
    folder: ExportedFolder,
    columns: ColumnOptions | None,
    suffix: str,
    *,
    to: Path | None,
    key_file: Path | None,
    shares: str,
) -> int:
    from exporter.tables.projection import Projection

    request = (columns or ColumnOptions()).request()
    target = _target(folder, to, f"metadata{suffix}", (suffix,))
    with in_words(), folder.lines() as lines:
        table = Projection.of(lines, folder.patients(key_file, parsed_shares(shares)), request)
        rows = _write(target, table.columns, table.batches())
    exceptions = f"{misfits_sentence(table.misfits)}{_left_out(lines)}"
    print(printable(f"{rows} rows, {len(table.columns)} columns in {target}{exceptions}"))
    return ExitCode.DONE


def _write(target: Path, columns: Sequence[Column], batches: Iterable[Batch]) -> int:
    if target.suffix == ".csv":
        from exporter.tables.csv_file import write_csv

        return write_csv(target, columns, batches)
    from exporter.tables.parquet_file import write_parquet

    return write_parquet(target, columns, batches)


def _target(folder: ExportedFolder, to: Path | None, name: str, suffixes: tuple[str, ...]) -> Path:
    """The file to write.

    Raises:
        CommandError: It has another suffix than its format, or lies in no folder.
    """
    target = (to or folder.root / name).expanduser()
    if target.suffix not in suffixes:
        raise CommandError(f"--to {target}: the name must end in {' or '.join(suffixes)}", ExitCode.USAGE)
    if not target.parent.is_dir() or target.is_dir():
        raise CommandError(f"--to {target}: name a file in a folder that is there", ExitCode.USAGE)
    return target


def misfits_sentence(misfits: dict[str, int]) -> str:
    """The end of a sentence about values that did not fit their column."""
    total = sum(misfits.values())
    if not total:
        return ""
    most = sorted(misfits.items(), key=lambda one: (-one[1], one[0]))[:3]
    named = ", ".join(f"{name} {number}" for name, number in most)
    return f"; {total} values did not fit the type of their column and are empty there ({named})"


def _left_out(lines: MetadataLines) -> str:
    """The end of a sentence about lines that are no rows."""
    counts = lines.counts
    parts = (
        (counts.superseded, "lines superseded by a later one"),
        (counts.others, "lines of other programs or damaged left out"),
        (counts.torn, "incomplete last line left out"),
    )
    return "".join(f"; {number} {what}" for number, what in parts if number)
