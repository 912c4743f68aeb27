"""Tables as Parquet and as Arrow record batches; the only module that imports pyarrow, an extra of the package.

Contract: the schema follows from the columns alone. Rows are collected to groups of `ROW_GROUP_BYTES` before they are
written, because the footer of a Parquet file, which is held in memory, grows with the number of groups.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self

from exporter.tables.columns import CellType, Column
from exporter.tables.errors import TableError
from exporter.tables.publication import published_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from exporter.tables.projection import Batch

ROW_GROUP_BYTES: Final = 64 << 20
"""Size of a row group in memory, in Arrow's form."""


def arrow() -> Any:
    """The module pyarrow.

    Raises:
        TableError: It is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise TableError(
            "Parquet and typed tables need pyarrow, which is not installed: `pip install"
            " 'dicom-media-exporter[tables]'`; CSV needs nothing"
        ) from error
    return pa


def arrow_schema(columns: Sequence[Column]) -> Any:
    """The Arrow schema of a table; the description of a column is in the metadata of its field."""
    pa = arrow()
    types = {
        CellType.TEXT: pa.string(),
        CellType.JSON: pa.string(),
        CellType.INTEGER: pa.int64(),
        CellType.UNSIGNED: pa.uint64(),
        CellType.FLOAT: pa.float64(),
        CellType.BOOLEAN: pa.bool_(),
    }
    return pa.schema(
        [
            pa.field(
                column.name,
                pa.list_(types[column.type]) if column.is_list else types[column.type],
                metadata={"description": column.description} if column.description else None,
            )
            for column in columns
        ]
    )


def record_batch(schema: Any, cells: Sequence[list[Any]]) -> Any:
    """One Arrow record batch of cells, column by column."""
    pa = arrow()
    arrays = [pa.array(column, field.type) for column, field in zip(cells, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def record_batches(columns: Sequence[Column], batches: Iterable[Batch]) -> Iterator[Any]:
    """Arrow record batches of a table."""
    schema = arrow_schema(columns)
    return (record_batch(schema, batch.columns) for batch in batches)


class ParquetTable:
    """A Parquet file that is being written; a context manager, which removes nothing when it fails."""

    def __init__(self, path: Path, schema: Any, *, row_group_bytes: int = ROW_GROUP_BYTES) -> None:
        from pyarrow import parquet

        self._schema = schema
        self._row_group_bytes = row_group_bytes
        self._writer = parquet.ParquetWriter(str(path), schema, compression="zstd", write_page_index=False)
        self._waiting: list[Any] = []
        self._bytes = 0
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._write_group()
            self._writer.close()
        else:
            with suppress(OSError):  # the disk is full: the end of the file does not fit either
                self._writer.close()

    def write(self, batch: Any) -> None:
        """Add the rows of a record batch."""
        self._waiting.append(batch)
        self._bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._bytes >= self._row_group_bytes:
            self._write_group()

    def _write_group(self) -> None:
        if self._waiting:
            table = arrow().Table.from_batches(self._waiting, schema=self._schema)
            self._waiting, self._bytes = [], 0
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            del table
            arrow().default_memory_pool().release_unused()  # the end of the file, made at last, needs room of its own


def write_parquet(path: Path, columns: Sequence[Column], batches: Iterable[Batch]) -> int:
    """Write a table, completely or not at all.

    Returns:
        The number of rows.

    Raises:
        TableError: It cannot be written, or pyarrow is not installed.
    """
    schema = arrow_schema(columns)
    with published_file(path) as partial, ParquetTable(partial, schema) as table:
        for batch in record_batches(columns, batches):
            table.write(batch)
    return table.rows
