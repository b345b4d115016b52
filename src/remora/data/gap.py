"""GAP: a paragraph, a pronoun in it and two names, and which of the names the pronoun stands for, if either.

Webster et al. 2018, "Mind the GAP: a balanced corpus of gendered ambiguous pronouns", TACL 6, section 3.
"""

from dataclasses import dataclass
from pathlib import Path

from remora.data.check import settle_bad_rows
from remora.data.read import read_table
from remora.data.table import BadRow, Cell, Table, shown
from remora.errors import DataError

LABELS = ("A", "B", "neither")
_SPANS = ("pronoun", "a", "b")
_COLUMNS = ("text", *_SPANS, *(f"{name}_offset" for name in _SPANS), "label")


@dataclass(frozen=True)
class Span:
    """A piece of the text: characters ``start`` to ``end`` (exclusive), counted from 0."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character behind it."""
        return self.start + len(self.text)


@dataclass(frozen=True, kw_only=True)
class PronounExample:
    """One example.

    Args:
        text: the paragraph.
        pronoun: the ambiguous pronoun.
        a: the first candidate name.
        b: the second candidate name.
        label: one of `LABELS`.
        place: the file and line it comes from.
    """

    text: str
    pronoun: Span
    a: Span
    b: Span
    label: str
    place: str


def read_gap(path: Path | str) -> tuple[PronounExample, ...]:
    """Read a file of pronoun examples, in any form `remora.data.read` knows.

    Args:
        path: the file, with the columns ``text``, ``pronoun``, ``pronoun_offset``, ``a``, ``a_offset``, ``b``,
            ``b_offset`` and ``label``; offsets count characters from 0.

    Returns:
        The examples, in order.

    Raises:
        DataError: the file cannot be read, a column is missing, or rows cannot be used: the first ten are listed with
            file and line.
    """
    table = read_table(path)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"{path}: there is no column {', '.join(map(repr, missing))}",
            f"a file of pronoun examples has {', '.join(_COLUMNS)}",
        )
    examples: list[PronounExample] = []
    bad = list(table.bad)
    for index in range(table.num_rows):
        try:
            examples.append(_example(table, index))
        except _RowError as error:
            bad.append(BadRow(place=table.place(index), message=str(error)))
    settle_bad_rows(bad, "error")
    return tuple(examples)


class _RowError(ValueError):
    """The row cannot be used."""


def _example(table: Table, index: int) -> PronounExample:
    row = {name: table.columns[name][index] for name in _COLUMNS}
    text = _text(row, "text")
    spans = {name: _span(row, name, text) for name in _SPANS}
    if row["label"] not in LABELS:
        raise _RowError(f"the label is {shown(row['label'])}, expected {', '.join(LABELS)}")
    return PronounExample(text=text, label=str(row["label"]), place=table.place(index), **spans)


def _text(row: dict[str, Cell], name: str) -> str:
    value = row[name]
    if not isinstance(value, str) or not value:
        raise _RowError(f"no text in column {name!r}")
    return value


def _span(row: dict[str, Cell], name: str, text: str) -> Span:
    words, offset = _text(row, name), row[f"{name}_offset"]
    if not isinstance(offset, str) or not (offset.isascii() and offset.isdecimal()):
        raise _RowError(f"{name}_offset is {shown(offset)}, expected a whole number from 0")
    span = Span(words, int(offset))
    found = text[span.start : span.end]
    if found != words:
        raise _RowError(f"at character {offset} the text has {shown(found)}, not {name} {shown(words)}")
    return span
