"""A file's rows as literal text, each with the place it came from; nothing is decided about columns or labels yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Nested:
    """A cell that holds no text but a list or an object.

    Args:
        kind: what it is, in a word.
        items: of a list.
    """

    kind: str
    items: "tuple[Cell, ...] | None" = None


Cell = str | Nested | None
"""Text exactly as the file has it (numbers and truth values keep their spelling); None where there is no value."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be used: where it is and what is wrong with it."""

    place: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a reader returns.

    Args:
        source: the file's path, or a name such as ``dataframe``.
        columns: column name to cells, all of one length, in the file's order.
        lines: per row the line on which it starts, or its number, counted from 1.
        unit: what ``lines`` counts.
        bad: rows that could not even be read; they are not in ``columns``.
    """

    source: str
    columns: Mapping[str, Sequence[Cell]]
    lines: Sequence[int]
    unit: str = "line"
    bad: tuple[BadRow, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of readable rows."""
        return len(self.lines)

    def place(self, row: int) -> str:
        """Where row ``row`` (counted from 0) is, for an error message."""
        return place_of(self.source, self.lines[row], self.unit)


def shown(value: object) -> str:
    """A value for a message: quoted, control characters escaped, cut when long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def place_of(source: str, line: int, unit: str = "line") -> str:
    """``file.csv:12`` for lines, ``file.parquet row 12`` for rows."""
    return f"{source}:{line}" if unit == "line" else f"{source} {unit} {line}"
