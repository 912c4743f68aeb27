"""`exporter handover OUT --to label-studio|cvat --output DIR`: cines for annotation tools, frame by frame.

Contract: reads a data or output folder; the folder of the hand-over appears whole or not at all, and replaces an
earlier one that this command made, nothing else. Every frame of a written video was compared with its medium.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import Annotated, Literal

from cyclopts import Parameter

from exporter.commands import ExitCode
from exporter.commands.metadata import OutArgument  # noqa: TC001 - likewise
from exporter.commands.options import ConfigOption, exported_folder, in_words
from listener.foundation.text import printable

_MOST_SHOWN = 20


def handover(
    out: OutArgument,
    /,
    *,
    to: Annotated[Literal["label-studio", "cvat"], Parameter(help="Tool that the task file is for.")],
    output: Annotated[
        Path | None,
        Parameter(help="Folder of the hand-over; made, or replaced if it is one. Default: OUT-handover beside OUT."),
    ] = None,
    prefix: Annotated[
        str | None,
        Parameter(
            help="What the task file puts before the path of a video; default: Label Studio's local storage"
            " (`/data/local-files/?d=DIR/`), or DIR/ in the share of CVAT."
        ),
    ] = None,
    config: ConfigOption = None,
) -> int:
    """Hand cines over to an annotation tool: constant-rate videos, frame maps and a task file."""
    from exporter.tables.datasets.destination import data_set_folder
    from exporter.tables.handover.cines import hand_over
    from exporter.tables.handover.tools import write_cvat, write_label_studio

    source = exported_folder(out, config)
    target = output or source.root.absolute().with_name(f"{source.root.absolute().name}-handover")
    target = target.expanduser().absolute()
    with in_words(), source.lines() as lines, data_set_folder(target, source, "handover") as partial:
        done = hand_over((line for line, _ in lines.rows()), source.media, partial)
        if to == "label-studio":
            write_label_studio(
                partial, done.cines, prefix if prefix is not None else f"/data/local-files/?d={target.name}/"
            )
        else:
            write_cvat(partial, done.cines, prefix if prefix is not None else f"{target.name}/")
    frames = sum(one.video.frames for one in done.cines)
    print(printable(f"{target}: {len(done.cines)} cines, {frames} frames, each compared with its medium"))
    if done.left_out:
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(done.left_out.items()))
        print(printable(f"left out, since they are no video: {kinds}"))
    odd = sum(not one.video.plays_in_browsers for one in done.cines)
    if odd and to == "label-studio":
        print(f"{odd} of them are not H.264 with 4:2:0: not every browser plays them (`video.preset: training` does)")
    for path, reason in done.refused[:_MOST_SHOWN]:
        print(printable(f"{path}: {reason}"))
    if len(done.refused) > _MOST_SHOWN:
        print(f"and {len(done.refused) - _MOST_SHOWN} more")
    return ExitCode.SOME_FAILED if done.refused else ExitCode.DONE
