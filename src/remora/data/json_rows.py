"""JSON and JSON Lines: one object per row; numbers keep their spelling, lines end at a line feed only."""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from remora.data.table import BadRow, Cell, Nested, Table, place_of, shown
from remora.errors import DataError

_Row = dict[str, Cell]


class _RowError(ValueError):
    """The row is valid JSON but cannot be used."""


@dataclass(frozen=True)
class _Repeated:
    """Stands for an object in which a name occurs twice; a plain parser would keep the last value without a word."""

    name: str


def _object(pairs: list[tuple[str, object]]) -> object:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    counts = Counter(name for name, _ in pairs)
    return _Repeated(next(name for name, count in counts.items() if count > 1))


def _no_number(_text: str) -> None:
    """NaN and Infinity, which Python writes for missing values, are missing here."""


# Numbers stay the text they were, so that the labels 1 and 1.0, or 0.10, keep their spelling.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=_no_number)


def _cell(value: object) -> Cell:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return Nested(kind="list", items=tuple(map(_cell, value)))
    return Nested(kind="object")


def _row(value: object) -> _Row:
    if isinstance(value, _Repeated):
        raise _RowError(f"the name {shown(value.name)} occurs twice in one object")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "null" if value is None else "a single value"
        raise _RowError(f"expected an object with named fields, found {kind}")
    return {str(name): _cell(cell) for name, cell in value.items()}


def _decode(text: str) -> object:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise _RowError(f"not valid JSON: {error.msg} ({where})") from error
    except RecursionError as error:
        raise _RowError("not valid JSON: nested too deeply") from error


def _table(source: str, rows: Sequence[_Row], lines: Sequence[int], bad: Sequence[BadRow]) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return Table(source=source, columns=columns, lines=lines, bad=tuple(bad))


def read_json_lines(raw: bytes, source: str) -> Table:
    """Read JSON Lines.

    Args:
        raw: the file without byte order mark.
        source: the file's path, for messages.

    Returns:
        The table; lines that are not UTF-8, not JSON or no object are in ``bad``; blank lines are passed over.
    """
    rows: list[_Row] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    for number, line in enumerate(raw.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _row(_decode(line.decode()))
        except UnicodeDecodeError as error:
            bad.append(
                BadRow(place=place_of(source, number), message=f"not UTF-8 (byte {error.start + 1} of the line)")
            )
        except _RowError as error:
            bad.append(BadRow(place=place_of(source, number), message=str(error)))
        else:
            rows.append(row)
            lines.append(number)
    return _table(source, rows, lines, bad)


def read_json(raw: bytes, source: str) -> Table:
    """Read JSON: a list of objects, an object of equally long lists (columns), or JSON Lines under the wrong name.

    Args:
        raw: the file without byte order mark.
        source: the file's path, for messages.

    Returns:
        The table.

    Raises:
        DataError: the file is not UTF-8 or not JSON (with the line), or has another shape.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{place_of(source, line)}: not UTF-8", "save the file as UTF-8") from error
    if text.lstrip().startswith("["):
        return _read_list(text, source)
    try:
        whole = _decode(text)
    except _RowError as error:
        try:
            _row(_decode(text.lstrip().split("\n", 1)[0]))
        except _RowError:
            raise DataError(f"{source}: {error}") from error
        return read_json_lines(raw, source)
    if isinstance(whole, dict):
        lengths = {len(column) if isinstance(column, list) else None for column in whole.values()}
        if len(lengths) == 1 and None not in lengths:
            columns = {str(name): [_cell(value) for value in column] for name, column in whole.items()}
            num_rows = len(next(iter(columns.values())))
            return Table(source=source, columns=columns, lines=range(1, num_rows + 1), unit="row")
    raise DataError(
        f"{source}: expected a list of objects, or one object whose values are lists of one length (columns)",
        'write one object per row, such as {"text": "...", "label": "..."}',
    )


def _read_list(text: str, source: str) -> Table:
    """Read a list of objects element by element, so that every row knows the line on which it starts."""
    line_starts = [0]
    while (found := text.find("\n", line_starts[-1])) >= 0:
        line_starts.append(found + 1)
    rows: list[_Row] = []
    lines: list[int] = []
    bad: list[BadRow] = []

    def skip_blanks(at: int) -> int:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        return at

    def place(at: int) -> str:
        return place_of(source, bisect_right(line_starts, at))

    at = skip_blanks(text.index("[") + 1)
    while at < len(text) and text[at] != "]":
        start = at
        try:
            value, at = _DECODER.raw_decode(text, at)
            row = _row(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{place(error.pos)}: not valid JSON: {error.msg}") from error
        except RecursionError as error:
            raise DataError(f"{place(start)}: not valid JSON: nested too deeply") from error
        except _RowError as error:
            bad.append(BadRow(place=place(start), message=str(error)))
        else:
            rows.append(row)
            lines.append(bisect_right(line_starts, start))
        at = skip_blanks(at)
        if at < len(text) and text[at] == ",":
            at = skip_blanks(at + 1)
        elif at < len(text) and text[at] != "]":
            raise DataError(f"{place(at)}: not valid JSON: expected a comma or the end of the list")
    if at >= len(text):
        raise DataError(f"{source}: not valid JSON: the list is never closed", "the file may be cut short")
    if text[at + 1 :].strip():
        raise DataError(f"{place(skip_blanks(at + 1))}: something follows the end of the list")
    return _table(source, rows, lines, bad)
