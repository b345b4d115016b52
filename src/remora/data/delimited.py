"""CSV and TSV with a header row: literal cells of any size; ragged rows and broken quotes are found, not repaired."""

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from remora.data.table import BadRow, Table, place_of, shown
from remora.errors import DataError

_BAD_BYTE = re.compile("[\udc80-\udcff]")
_CELL_LIMIT = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class _Parsed:
    header: list[str]
    rows: list[list[str]]
    lines: list[int]
    bad: list[BadRow]
    open_quote: int | None  # the line of a quote that is never closed


def read_delimited(raw: bytes, source: str, *, tabs: bool) -> Table:
    """Read delimited text.

    Args:
        raw: the file without byte order mark.
        source: the file's path, for messages.
        tabs: cells are separated by tabs and quotes may be ordinary characters (TSV); else by what the header uses,
            comma first.

    Returns:
        The table; ragged rows, broken quotes and rows that are not UTF-8 are in ``bad``; blank lines are passed over.

    Raises:
        DataError: the header names a column twice, or a quote is opened and never closed.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="surrogateescape")
    parsed = _parse_tabs(text, source) if tabs else _parse(text, source, _delimiter(text), quoted=True)
    if parsed.open_quote is not None:
        raise DataError(
            f"{place_of(source, parsed.open_quote)}: a quote is opened here and never closed",
            'the rest of the file would be one cell; close it, or write a quote inside a quoted cell twice ("")',
        )
    if any(_BAD_BYTE.search(name) for name in parsed.header):
        raise DataError(f"{place_of(source, 1)}: the names of the columns are not UTF-8", "save the file as UTF-8")
    repeated = sorted(name for name, count in Counter(parsed.header).items() if name and count > 1)
    if repeated:
        raise DataError(
            f"{place_of(source, 1)}: the header names {', '.join(map(shown, repeated))} twice", "rename one of them"
        )
    columns = {name: [row[index] for row in parsed.rows] for index, name in enumerate(parsed.header)}
    return Table(source=source, columns=columns, lines=parsed.lines, bad=tuple(parsed.bad))


def _delimiter(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    outside_quotes = re.sub(r'"[^"]*"', "", header)
    return next((mark for mark in (",", ";", "\t", "|") if mark in outside_quotes), ",")


def _parse_tabs(text: str, source: str) -> _Parsed:
    """Decide whether a TSV file quotes its cells; GLUE's do not, and hold single quotes that would swallow rows."""
    plain = _parse(text, source, "\t", quoted=False)
    quoted = _parse(text, source, "\t", quoted=True)
    if quoted.bad or quoted.open_quote is not None:
        return plain if len(plain.bad) <= len(quoted.bad) or quoted.open_quote is not None else quoted
    if plain.bad:
        return quoted
    # Both read well. Quotes are needed only around tabs and line ends (then plain has bad rows) and around quotes,
    # which are doubled.
    doubled = any('""' in cell.strip('"') for row in plain.rows for cell in row if cell.startswith('"'))
    whole_header = all(name.startswith('"') for name in plain.header)
    return quoted if doubled or whole_header else plain


def _parse(text: str, source: str, delimiter: str, *, quoted: bool) -> _Parsed:
    # The limit on a cell's size (128 KiB) belongs to the csv module as a whole, so it is put back.
    limit = csv.field_size_limit(_CELL_LIMIT)
    try:
        return _parse_unlimited(text, source, delimiter, quoted=quoted)
    finally:
        csv.field_size_limit(limit)


def _parse_unlimited(text: str, source: str, delimiter: str, *, quoted: bool) -> _Parsed:
    stream: Iterator[str] = StringIO(text, newline="")
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(stream, delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] | None = None
    rows: list[list[str]] = []
    lines: list[int] = []
    bad: list[BadRow] = []
    open_quote: int | None = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                open_quote = line
                break
            bad.append(BadRow(place=place_of(source, line), message=f"broken quotes: {error}"))
            continue
        if not row:
            continue
        if header is None:
            header = row
        elif len(row) != len(header):
            message = f"{len(row)} cells where the header has {len(header)}"
            bad.append(BadRow(place=place_of(source, line), message=message))
        elif any(_BAD_BYTE.search(cell) for cell in row):
            bad.append(BadRow(place=place_of(source, line), message="not UTF-8"))
        else:
            rows.append(row)
            lines.append(line)
    return _Parsed(header=header or [], rows=rows, lines=lines, bad=bad, open_quote=open_quote)
