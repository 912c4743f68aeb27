"""`exporter dataset OUT DIR --format folder|webdataset`: media and their rows as training code loads them.

Contract: reads a data or output folder; the data set appears whole or not at all, and replaces an earlier one that this
command made, nothing else.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from exporter.commands import ExitCode
from exporter.commands.metadata import (
    ColumnOptions,
    KeyFileOption,
    OutArgument,
    SharesOption,
    misfits_sentence,
    parsed_shares,
)
from exporter.commands.options import ConfigOption, exported_folder, in_words
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.tables.datasets.croissant import PublicationTerms
    from exporter.tables.datasets.samples import DatasetSamples
    from exporter.tables.projection import Projection


def dataset(
    out: OutArgument,
    folder: Annotated[Path, Parameter(name="DIR", help="Folder of the data set; made, or replaced if it is one.")],
    /,
    columns: ColumnOptions | None = None,
    *,
    format: Annotated[  # noqa: A002 - the documented name
        Literal["folder", "webdataset"],
        Parameter(help="folder: images/, videos/, audio/ with Parquet tables; webdataset: shards of samples."),
    ] = "folder",
    shares: SharesOption = "0.8,0.1,0.1",
    key_file: KeyFileOption = None,
    shard_bytes: Annotated[
        int, Parameter(validator=validators.Number(gte=1 << 20), help="Most bytes of a shard (webdataset).")
    ] = 10**9,
    license: Annotated[str, Parameter(help="Licence that croissant.json names (folder).")] = "not stated",  # noqa: A002
    config: ConfigOption = None,
) -> int:
    """Make a data set of what was exported, split by patient."""
    from exporter.results.stores.shard_reading import ExtractedMedia
    from exporter.tables.datasets.croissant import PublicationTerms
    from exporter.tables.datasets.destination import data_set_folder
    from exporter.tables.datasets.samples import DatasetSamples
    from exporter.tables.projection import Projection

    source = exported_folder(out, config)
    request = (columns or ColumnOptions()).request()
    target = folder.expanduser().absolute()
    with (
        in_words(),
        source.lines() as lines,
        data_set_folder(target, source) as partial,
        ExtractedMedia(source.media) as extracted,
    ):
        projection = Projection.of(lines, source.patients(key_file, parsed_shares(shares)), request)
        samples = DatasetSamples(lines, source.media, extracted, projection.patients)
        if format == "folder":
            sentence = _write_folder(partial, samples, projection, PublicationTerms(lines.date, license))
        else:
            sentence = _write_shards(partial, samples, projection, shard_bytes)
    print(printable(f"{target}: {sentence}{misfits_sentence(projection.misfits)}"))
    if samples.missing:
        print(printable(f"{samples.missing} media of the lines are not in {source.media}: their rows are left out"))
        return ExitCode.SOME_FAILED
    return ExitCode.DONE


def _write_folder(partial: Path, samples: DatasetSamples, projection: Projection, terms: PublicationTerms) -> str:
    from exporter.tables.datasets.folder import write_folder

    summary = write_folder(partial, samples, projection, terms)
    rows: Counter[str] = Counter()
    for (root, split), number in sorted(summary.rows.items()):
        rows[f"{root} {split}"] += number
    parts = [", ".join(f"{place} {number}" for place, number in rows.items()) or "no media"]
    if summary.other_kinds:
        kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(summary.other_kinds.items()))
        parts.append(f"media that no loader takes left out ({kinds})")
    if summary.copied:
        parts.append(f"{summary.copied} media copied, where they could not be linked")
    return "; ".join(parts)


def _write_shards(partial: Path, samples: DatasetSamples, projection: Projection, shard_bytes: int) -> str:
    from exporter.tables.datasets.webdataset import write_shards

    shards = write_shards(partial, samples, projection, shard_bytes)
    return ", ".join(f"{split} {samples.instances[split]} instances in {n} shards" for split, n in shards.items()) or (
        "no media"
    )
