"""Documents and their summaries: the label of a row is the list of its references, as JSON.

Most data have one summary for each document; some test sets have several, of which the first is the summary proper and
all are references for scoring. Nothing here knows which kind of model writes the summaries.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from remora.data.table import Cell, Nested, Table

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def source_of(cell: Cell, name: str) -> tuple[tuple[str, ...], str | None]:
    """The document of a row, and what is wrong with it.

    Args:
        cell: of the text column.
        name: of the column.
    """
    if isinstance(cell, Nested):
        return (), f"column {name!r} holds {cell.kind}, not a document"
    if cell is None or not cell.strip():
        return (), f"no document in column {name!r}"
    return (cell,), None


def references_of(cell: Cell, name: str) -> tuple[str | None, str | None]:
    """The references of a row as its label holds them, and what is wrong with them.

    Args:
        cell: a summary, or a list of them.
        name: of its column.
    """
    if isinstance(cell, Nested):
        if cell.items is None:
            return None, f"column {name!r} holds {cell.kind}, not a summary"
        cells = cell.items
    else:
        cells = (cell,)
    texts = [each.strip() for each in cells if isinstance(each, str) and each.strip()]
    if not texts or len(texts) < len(cells):
        return None, f"no summary in column {name!r}"
    return written(texts), None


def written(texts: Sequence[str]) -> str:
    """References as a label."""
    return json.dumps(list(texts), ensure_ascii=False)


def references(label: str | float) -> tuple[str, ...]:
    """The references that a label holds, at least one."""
    return tuple(json.loads(str(label)))


def with_references(table: Table, label: str, column: str) -> Table:
    """The same rows with the references of another column as labels, where a row has any.

    Args:
        table: it is returned as it is where there is no such column.
        label: the column of summaries.
        column: of lists of references, the summary among them.
    """
    if label not in table.columns or column not in table.columns:
        return table
    pairs = zip(table.columns[label], table.columns[column], strict=True)
    cells = [more if isinstance(more, Nested) and more.items else own for own, more in pairs]
    return replace(table, columns={**table.columns, label: cells})


def sentences(text: str) -> list[str]:
    """The sentences of a text, by full stops and the like before blanks, and by line ends."""
    return [part for piece in _SENTENCE_END.split(text) if (part := piece.strip())]


def usual_sentences(labels: Sequence[str | float]) -> int:
    """How many sentences a summary has: the mean over first references, rounded, at least 1."""
    return max(1, round(fmean(len(sentences(references(label)[0])) for label in labels)))


def lead(document: str, num: int) -> str:
    """The first sentences of a document, which are a strong baseline for news."""
    return " ".join(sentences(document)[:num])
