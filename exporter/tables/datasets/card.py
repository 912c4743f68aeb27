"""The data set card `README.md`, for readers and the Hugging Face Hub.

Contract: contains only facts that the data set itself contains; names no input and no patient.

Source: Hugging Face, "Dataset Cards" (YAML front matter, `configs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from exporter.tables.columns import Column

CARD: Final = "README.md"
LOADERS: Final = {"images": "imagefolder", "videos": "videofolder", "audio": "audiofolder"}
_SAMPLE_RULES: Final = """\
Splits are by patient: no patient is in two of them. `patient_pseudonym` is a keyed pseudonym; who has the key file can
make it from a Patient ID, nobody else. The other columns hold the elements of the instances as they were exported,
patient data included unless they were de-identified before.
"""


@dataclass(frozen=True, slots=True)
class FolderTable:
    """The table of one split of one root."""

    root: str
    split: str
    path: Path
    rows: int


def write_card(folder: Path, columns: Sequence[Column], tables: Sequence[FolderTable]) -> None:
    """Write the card of a folder data set.

    Raises:
        OSError: It cannot be written.
    """
    roots = sorted({table.root for table in tables})
    configs = "".join(
        f"- config_name: {root}\n  data_files:\n"
        + "".join(
            f"  - split: {table.split}\n    path: {root}/{table.split}/*\n" for table in tables if table.root == root
        )
        for root in roots
    )
    front = f"---\ntags:\n- medical\n- dicom\n{f'configs:{chr(10)}{configs}' if configs else ''}---\n"
    counts = "".join(f"| {table.root} | {table.split} | {table.rows} |\n" for table in tables)
    loading = "\n".join(f'load_dataset("{LOADERS[root]}", data_dir="{root}")' for root in roots)
    text = (
        f"{front}# Media of DICOM instances\n\nMade by `exporter dataset --format folder`."
        f" Each table has {len(columns)} columns.\n\n| root | split | media files |\n|---|---|---|\n{counts}\n"
        f"```python\nfrom datasets import load_dataset\n\n{loading}\n```\n\n{_SAMPLE_RULES}\n"
        "Media may be hard links to those of the exporter: copy a file before you change it.\n"
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def write_shard_card(folder: Path, shards: dict[str, int], instances: dict[str, int]) -> None:
    """Write the card of a data set of shards.

    Raises:
        OSError: It cannot be written.
    """
    counts = "".join(f"| {split} | {shards[split]} | {instances[split]} |\n" for split in shards)
    text = (
        "---\ntags:\n- medical\n- dicom\n- webdataset\n---\n# Media of DICOM instances\n\n"
        f"Made by `exporter dataset --format webdataset`.\n\n| split | shards | instances |\n|---|---|---|\n{counts}\n"
        "A sample is `<key>.<ext>`, the first medium, and `<key>.json`, the row; further media are"
        f" `<key>.<number>.<ext>`, frames `<key>.<frame>.<ext>`.\n\n{_SAMPLE_RULES}"
    )
    (folder / CARD).write_text(text, encoding="utf-8")
