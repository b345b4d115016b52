"""Clusters of mentions as data hold them: lists of word spans, which every document has as its label.

A mention is a pair [start, end) of words counted through the document, or a triple of a sentence and the words [start,
end) of it, as LitBank's files have them. Written are pairs, as JSON, each cluster in the order of the text and the
clusters by their first mention.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from remora.data.table import Cell, Nested, shown

Span = tuple[int, int]
"""First word and the word after the last, counted from 0 through the document."""


@dataclass(frozen=True, kw_only=True)
class MentionRules:
    """What the mentions of a data set are like, as far as its train split shows.

    Args:
        singletons: whether entities of one mention are annotated, and are to be found.
        max_width: words of the longest span that is looked at.
    """

    singletons: bool
    max_width: int


def sentence_lengths(sentences: Iterable[str]) -> list[int]:
    """The words of each sentence of a document."""
    return [len(sentence.split(" ")) for sentence in sentences]


def written(clusters: Iterable[Iterable[Span]]) -> str:
    """Clusters as a label."""
    ordered = sorted(sorted(map(list, cluster)) for cluster in clusters)
    return json.dumps(ordered, separators=(",", ":"))


def spans_of(label: object) -> list[list[Span]]:
    """The clusters of a label."""
    return [[(start, end) for start, end in cluster] for cluster in json.loads(str(label))]


def clusters_of(cell: Cell, name: str, sentences: Sequence[str]) -> tuple[str, str | None]:
    """The clusters of a document.

    Args:
        cell: that holds their list.
        name: of its column.
        sentences: of the document.

    Returns:
        The label, and what is wrong with the cell.
    """
    if cell is None:
        return "", "no clusters"
    starts = [0, *accumulate(sentence_lengths(sentences))]
    clusters: list[list[Span]] = []
    seen: set[Span] = set()
    if not isinstance(cell, Nested) or cell.items is None:
        return "", f"column {name!r} holds {'text' if isinstance(cell, str) else cell.kind}, not a list of clusters"
    for number, cluster in enumerate(cell.items, 1):
        if not isinstance(cluster, Nested) or not cluster.items:
            return "", f"cluster {number} of {len(cell.items)} in column {name!r} is no list of mentions"
        clusters.append([])
        for mention in cluster.items:
            span = _span(mention, starts)
            given = _spelled(mention)
            if span is None:
                return "", (
                    f"mention {given} of cluster {number} in column {name!r} is no span of words, expected [start, end]"
                    f" within the document's {starts[-1]}, or [sentence, start, end] within a sentence"
                )
            if span in seen:
                return "", f"mention {given} occurs twice in column {name!r}; a mention belongs to one cluster"
            seen.add(span)
            clusters[-1].append(span)
    return written(clusters), None


def _span(mention: Cell, starts: Sequence[int]) -> Span | None:
    items = mention.items if isinstance(mention, Nested) else None
    numbers = [int(item) for item in items or () if isinstance(item, str) and item.isascii() and item.isdecimal()]
    if len(numbers) != len(items or ()) or len(numbers) not in (2, 3):
        return None
    first, most = 0, starts[-1]
    if len(numbers) == 3:
        if numbers[0] >= len(starts) - 1:
            return None
        first, most = starts[numbers[0]], starts[numbers[0] + 1]
    start, end = (first + number for number in numbers[-2:])
    return (start, end) if start < end <= most else None


def _spelled(mention: Cell) -> str:
    items = mention.items if isinstance(mention, Nested) else None
    return shown(mention) if items is None else f"[{', '.join(str(item) for item in items)}]"
