"""Spans of tagged words: where entities begin and end under BIO, and how many of them two taggings share.

A span begins at B-X, and at an I-X that continues nothing (the word before is outside or of another type). Data hold no
such I-X (see `data.words`), predictions may. So do CoNLL's evaluation script and seqeval by default.
Ramshaw and Marcus 1995, "Text chunking using transformation-based learning", WVLC; Tjong Kim Sang and De Meulder 2003,
"Introduction to the CoNLL-2003 shared task", CoNLL, section 3.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

OUTSIDE = "O"

Span = tuple[str, int, int]
"""Type, first word, and the word after the last."""


def spans(tags: Sequence[str]) -> list[Span]:
    """The spans of a tagged sentence.

    Args:
        tags: O, B-TYPE or I-TYPE, one per word.

    Returns:
        In their order.
    """
    found: list[Span] = []
    start, kind = 0, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, own = tag.partition("-")
        if kind and (prefix != "I" or own != kind):
            found.append((kind, start, place))
            kind = ""
        if prefix != OUTSIDE and not kind:
            start, kind = place, own
    return found


def types(tags: Iterable[str]) -> tuple[str, ...]:
    """The types of spans that tags name, sorted."""
    return tuple(sorted({tag.partition("-")[2] for tag in tags} - {""}))


def count_spans(sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, tuple[int, int, int]]:
    """How many spans of each type are right, predicted and true.

    Args:
        sentences: true and predicted tags of each.

    Returns:
        By type, sorted. A span is right whose type and bounds both are.
    """
    right: Counter[str] = Counter()
    guessed: Counter[str] = Counter()
    true: Counter[str] = Counter()
    for targets, predictions in sentences:
        gold, found = spans(targets), spans(predictions)
        true.update(kind for kind, _, _ in gold)
        guessed.update(kind for kind, _, _ in found)
        right.update(kind for kind, _, _ in set(gold) & set(found))
    return {kind: (right[kind], guessed[kind], true[kind]) for kind in sorted({*true, *guessed})}


def f1(right: float, guessed: float, true: float) -> float:
    """F1 of counts; 0 where there is nothing to find and nothing found."""
    return 2 * right / (guessed + true) if guessed + true else 0.0
