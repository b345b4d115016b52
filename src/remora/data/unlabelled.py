"""Texts that are to be labelled, from a file in which nobody need have labelled them; true labels where some are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from remora.data.columns import find_text
from remora.data.read import read_bytes, read_table
from remora.data.table import Table, place_of
from remora.errors import DataError

_SHOWN = 20

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """The rows of a file.

    Args:
        source: the file.
        columns: names of the text column, or of the two of a pair.
        texts: per row.
        truths: the true label of each row; None where the file has none.
        places: where each row is.
    """

    source: str
    columns: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    truths: tuple[str, ...] | None
    places: tuple[str, ...]

    def only(self, wanted: Sequence[bool]) -> "Unlabelled":
        """Some of the rows."""

        def kept(values: tuple[Value, ...]) -> tuple[Value, ...]:
            return tuple(value for value, keep in zip(values, wanted, strict=True) if keep)

        truths = None if self.truths is None else kept(self.truths)
        return replace(self, texts=kept(self.texts), truths=truths, places=kept(self.places))


def read_unlabelled(path: Path, columns: Sequence[str] = (), truth: str | None = None) -> Unlabelled:
    """Read texts: ``.txt`` holds one per line, all else is a table.

    Args:
        path: the file.
        columns: the text columns; by default the usual names.
        truth: the column of true labels, if any.

    Raises:
        DataError: unreadable, no such column, or rows without text or true label; all of them at once.
    """
    if path.suffix.lower() == ".txt":
        return _lines(path, columns, truth)
    table = read_table(path)
    names = list(table.columns)
    for wanted in (*columns, *([truth] if truth else [])):
        if wanted not in names:
            raise DataError(f"{path}: there is no column {wanted!r}", f"there are {', '.join(names)}")
    found = tuple(columns) or find_text([name for name in names if name != truth], names)
    bad = [f"{row.place}: {row.message}" for row in table.bad]
    texts = [_row(table, number, found, "text", bad) for number in range(table.num_rows)]
    truths = [_row(table, number, (truth,), "true label", bad) for number in range(table.num_rows)] if truth else None
    if bad:
        raise DataError("\n".join(bad[:_SHOWN]) + (f"\n... and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""))
    if not texts:
        raise DataError(f"{path} has no rows")
    return Unlabelled(
        source=str(path),
        columns=found,
        texts=tuple(texts),
        truths=None if truths is None else tuple(label for (label,) in truths),
        places=tuple(table.place(number) for number in range(table.num_rows)),
    )


def _row(table: Table, number: int, columns: Sequence[str], what: str, bad: list[str]) -> tuple[str, ...]:
    cells = [table.columns[column][number] for column in columns]
    found = tuple(cell for cell in cells if isinstance(cell, str) and cell.strip())
    if len(found) < len(cells):
        bad.append(f"{table.place(number)}: no {what}")
        return ("",) * len(cells)
    return found


def _lines(path: Path, columns: Sequence[str], truth: str | None) -> Unlabelled:
    if columns or truth:
        raise DataError(f"{path} is plain text and has no columns", "leave the names of columns out, or give a table")
    try:
        lines = read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8") from error
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise DataError(f"{path} has no text")
    return Unlabelled(
        source=str(path),
        columns=("text",),
        texts=tuple((line,) for _, line in filled),
        truths=None,
        places=tuple(place_of(str(path), number) for number, _ in filled),
    )
