"""Parquet through pyarrow: every scalar as the text it would be written as."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from remora.data.table import BadRow, Cell, Nested, Table, place_of, shown
from remora.errors import DataError


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
            table = pq.read_table(stream)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error
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
    values = column.to_pylist()
    if pa.types.is_boolean(kind):
        return [None if value is None else str(value).lower() for value in values], []
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        # 3.2 stored in 32 bits would otherwise be written 3.200000047683716
        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return [None if value is None or value != value else str(narrow(value)) for value in values], []
    if pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_decimal(kind):
        return [None if value is None or value != value else str(value) for value in values], []
    if pa.types.is_null(kind):
        return [None] * len(values), []
    return [None if value is None else Nested(kind=str(kind)) for value in values], []


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
