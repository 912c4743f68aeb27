"""The data or output folder that tables are made from: paths of its lines, media and key.

Contract: changes nothing. A path to a metadata file stands for its folder.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.tables.errors import TableError
from exporter.tables.lines import MetadataLines
from exporter.tables.patients import REFERENCE_SHARES, Patients, folder_key, read_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """Paths of the output of one exporter."""

    root: Path
    metadata: Path
    media: Path

    @classmethod
    def at(cls, path: Path, *, metadata: Path | None = None, media: Path | None = None) -> ExportedFolder:
        """The folder at a path.

        Args:
            path: A data or output folder, or a metadata file.
            metadata: The metadata file, if it is not in the folder (`metadata.file`).
            media: The media folder, if it is not in the folder (`media.dir`).

        Raises:
            TableError: There is nothing at the path.
        """
        path = path.expanduser()
        if path.is_file():
            root, metadata = path.parent, metadata or path
        elif path.is_dir():
            root, metadata = path, metadata or path / "metadata.jsonl"
        else:
            raise TableError(
                f"there is no {path}: name the data folder of an exporter, the output folder of a backfill or its"
                " metadata file"
            )
        return cls(root, metadata, media or root / "media")

    def patients(self, key_file: Path | None, shares: tuple[float, float, float] = REFERENCE_SHARES) -> Patients:
        """Pseudonyms and splits, with a key file's key or the folder's own.

        Raises:
            TableError: There is no key that can be used, or the shares make no sense.
        """
        return Patients(read_key(key_file.expanduser()) if key_file is not None else folder_key(self.root), shares)

    @contextmanager
    def lines(self) -> Iterator[MetadataLines]:
        """The metadata lines.

        Raises:
            TableError: There are none, or they cannot be read.
        """
        with MetadataLines.open(self.metadata) as lines:
            yield lines

    @contextmanager
    def input_sizes(self) -> Iterator[Callable[[str], int | None]]:
        """Make a function that returns the size of an input in bytes, from the ledger."""
        from exporter.results.ledger import Ledger, LedgerUnusable

        with ExitStack() as stack:
            try:
                ledger = stack.enter_context(Ledger.open_read_only(self.root / "exporter.db"))
            except LedgerUnusable:
                yield lambda _name: None
                return

            def size_of(name: str) -> int | None:
                entry = ledger.entry(name)
                return entry.size_bytes if entry is not None else None

            yield size_of
