"""Parquet through pyarrow: every scalar as the text it would be written as."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remora.data.cells import cell_of
from remora.data.read import most_bytes
from remora.data.table import BadRow, Cell, Nested, Table, place_of, shown
from remora.errors import DataError

_BATCH_ROWS = 1024
_CELL_BYTES = 8
"""Least memory of a cell as an object, which Arrow may hold in a bit."""


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Args:
        path: the file.

    Returns:
        The table; rows are counted from 1. Rows with a string that is not UTF-8 are in ``bad``.

    Raises:
        DataError: the file is missing or damaged, or has no rows.
    """
    try:
        with path.open("rb") as stream:
            return _table(path, _read(stream, path))
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: cannot be read as Parquet: {message}") from error


def _read(stream: BinaryIO, path: Path) -> pa.Table:
    """All of a file, in pieces: repeated values take next to no room in it and may unpack to any size."""
    size = path.stat().st_size
    left = most_bytes(size)
    file = pq.ParquetFile(stream)
    batches: list[pa.RecordBatch] = []
    for batch in file.iter_batches(batch_size=_BATCH_ROWS):
        left -= max(batch.nbytes, _CELL_BYTES * batch.num_rows * batch.num_columns)
        if left < 0:
            raise DataError(
                f"{path}: {size} bytes unpack to more than {most_bytes(size)}",
                "such files are made to fill memory; save it as JSON Lines where you know that it is none",
            )
        batches.append(batch)
    return pa.Table.from_batches(batches, schema=file.schema_arrow)


def _table(path: Path, table: pa.Table) -> Table:
    if not table.num_rows:
        raise DataError(f"{path}: no rows")
    if len(set(table.column_names)) < table.num_columns:
        raise DataError(f"{path}: two columns have the same name: {', '.join(map(shown, table.column_names))}")
    columns: dict[str, list[Cell]] = {}
    broken: dict[int, str] = {}
    for name in table.column_names:
        cells, rows = _cells(table.column(name))
        columns[name] = cells
        broken.update({row: str(name) for row in rows})
    keep = [row for row in range(table.num_rows) if row not in broken]
    bad = [
        BadRow(place=place_of(str(path), row + 1, "row"), message=f"column {name!r} is not UTF-8")
        for row, name in sorted(broken.items())
    ]
    if broken:
        columns = {name: [cells[row] for row in keep] for name, cells in columns.items()}
    return Table(source=str(path), columns=columns, lines=[row + 1 for row in keep], unit="row", bad=tuple(bad))


def _cells(column: pa.ChunkedArray) -> tuple[list[Cell], list[int]]:
    """One column's cells, and the rows whose bytes are no text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _strings(column)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [cell_of(value) for value in column.to_pylist()], []
    scalar = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in scalar):  # dates among them: not all have a counterpart in Python
        return [None if empty else Nested(kind=str(kind)) for empty in column.is_null().to_pylist()], []
    values = column.to_pylist()
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values], []
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        # 3.2 stored in 32 bits would otherwise be written 3.200000047683716
        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return [None if value is None or value != value else str(narrow(value)) for value in values], []
    return [None if value is None or value != value else str(value) for value in values], []


def _strings(column: pa.ChunkedArray) -> tuple[list[Cell], list[int]]:
    cells: list[Cell] = []
    broken: list[int] = []
    try:
        return list(column.to_pylist()), []
    except UnicodeDecodeError:
        for row, value in enumerate(column.cast(pa.large_binary()).to_pylist()):
            try:
                cells.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                cells.append(None)
                broken.append(row)
    return cells, broken
