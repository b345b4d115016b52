"""GAP: a paragraph, a pronoun in it and two names, and which of the names the pronoun stands for, if either.

A model has to see which words are meant, so they are read with marks around them, and the rest is classification in
three classes. Marks of punctuation, which every vocabulary has: Zhou and Chen 2022, "An improved baseline for
sentence-level relation extraction", AACL.

Webster et al. 2018, "Mind the GAP: a balanced corpus of gendered ambiguous pronouns", TACL 6, section 3.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

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
    """

    text: str
    pronoun: Span
    a: Span
    b: Span
    label: str

    def with_marks(self) -> str:
        """The text with a mark of its own on both sides of each of the three."""
        text = self.text
        marks = ((self.pronoun, "^"), (self.a, "@"), (self.b, "#"))
        for span, mark in sorted(marks, key=lambda pair: pair[0].start, reverse=True):
            text = f"{text[: span.start]}{mark} {span.text} {mark}{text[span.end :]}"
        return text


def marked(table: Table) -> Table:
    """The same rows with marks around the pronoun and the names, as classification reads them.

    Args:
        table: with the columns ``text``, ``pronoun``, ``pronoun_offset``, ``a``, ``a_offset``, ``b``, ``b_offset`` and
            ``label``; offsets count characters from 0.

    Returns:
        ``text`` with ``^ pronoun ^``, ``@ a @`` and ``# b #``, and ``label``; rows that cannot be used are among the
        bad ones.

    Raises:
        DataError: a column is missing.
    """
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise DataError(
            f"{table.source}: there is no column {', '.join(map(repr, missing))}",
            f"a file of pronoun examples has {', '.join(_COLUMNS)}",
        )
    texts: list[str] = []
    labels: list[str] = []
    lines: list[int] = []
    bad = list(table.bad)
    for index in range(table.num_rows):
        try:
            example = pronoun_example(table, index)
        except _RowError as error:
            bad.append(BadRow(place=table.place(index), message=str(error)))
            continue
        texts.append(example.with_marks())
        labels.append(example.label)
        lines.append(table.lines[index])
    return replace(table, columns={"text": texts, "label": labels}, lines=lines, bad=tuple(bad))


class _RowError(ValueError):
    """The row cannot be used."""


def pronoun_example(table: Table, index: int) -> PronounExample:
    """One row of a table.

    Args:
        table: with all columns.
        index: of the row.

    Raises:
        ValueError: the row cannot be used; says why.
    """
    row = {name: table.columns[name][index] for name in _COLUMNS}
    text = _text(row, "text")
    spans = {name: _span(row, name, text) for name in _SPANS}
    if row["label"] not in LABELS:
        raise _RowError(f"the label is {shown(row['label'])}, expected {', '.join(LABELS)}")
    ordered = sorted(spans.values(), key=lambda span: span.start)
    if any(one.end > other.start for one, other in pairwise(ordered)):
        raise _RowError("the pronoun and the names overlap")
    return PronounExample(text=text, label=str(row["label"]), **spans)


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
