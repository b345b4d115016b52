"""Tagged words looked at as spans: counts per sentence for the statistics, per type and type by type for the report."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from remora.data.spans import count_spans, f1, spans, types
from remora.results.predictions import SplitPredictions
from remora.results.summary_schema import ClassScore, Detail

COUNTS = np.dtype([("right", np.int64), ("found", np.int64), ("true", np.int64)])
NO_SPAN = "no entity"


def tags(sentence: object) -> list[str]:
    """The tags of a sentence as the predictions file holds them."""
    return str(sentence).split(" ")


def span_counts(metric: str, part: SplitPredictions) -> np.ndarray:
    """What a metric over spans is made of, sentence by sentence.

    Args:
        metric: ``token_accuracy`` counts words, ``f1/TYPE`` spans of that type, all others every span.
        part: N sentences.

    Returns:
        (N,) of `COUNTS`.
    """
    kind = metric.removeprefix("f1/") if metric.startswith("f1/") else None
    counts = np.zeros(len(part.targets), COUNTS)
    for number, (target, prediction) in enumerate(zip(part.targets, part.predictions, strict=True)):
        true, guessed = tags(target), tags(prediction)
        if metric == "token_accuracy":
            right = sum(a == b for a, b in zip(true, guessed, strict=True))
            counts[number] = (right, len(true), len(true))
        else:
            own = count_spans([(true, guessed)])
            chosen = own.values() if kind is None else [own.get(kind, (0, 0, 0))]
            counts[number] = tuple(map(sum, zip(*chosen, strict=True))) if chosen else (0, 0, 0)
    return counts


def span_detail(label: str, why: str, seeds: Sequence[SplitPredictions], names: Sequence[str]) -> Detail:
    """Precision, recall and F1 per type of span, and which type words of one are taken for, means over seeds.

    Args:
        label: the row.
        why: why this row is shown.
        seeds: test predictions of S seeds on the same sentences.
        names: all tags.
    """
    kinds = types(names)
    counts = [
        count_spans((tags(a), tags(b)) for a, b in zip(part.targets, part.predictions, strict=True)) for part in seeds
    ]
    classes: list[ClassScore] = []
    for kind in kinds:
        own = [each.get(kind, (0, 0, 0)) for each in counts]
        classes.append(
            ClassScore(
                label=kind,
                precision=float(np.mean([right / found if found else 0.0 for right, found, _ in own])),
                recall=float(np.mean([right / true if true else 0.0 for right, _, true in own])),
                f1=float(np.mean([f1(*each) for each in own])),
                support=own[0][2],
            )
        )
    order = [*kinds, NO_SPAN]
    mean_CC = np.mean([_confusion(part, order) for part in seeds], axis=0)
    matrix = tuple(tuple(round(float(value), 6) for value in row) for row in mean_CC)
    return Detail(label=label, why=why, classes=tuple(classes), confusion=matrix, outside=NO_SPAN)


def _confusion(part: SplitPredictions, order: Sequence[str]) -> np.ndarray:
    """Words by the type of the true and of the predicted span they are in."""
    counts: Counter[tuple[str, str]] = Counter()
    for target, prediction in zip(part.targets, part.predictions, strict=True):
        counts.update(zip(_types_of(tags(target)), _types_of(tags(prediction)), strict=True))
    return np.array([[counts[true, guess] for guess in order] for true in order], dtype=np.int64)


def _types_of(sentence: Sequence[str]) -> list[str]:
    found = [NO_SPAN] * len(sentence)
    for kind, start, end in spans(sentence):
        found[start:end] = [kind] * (end - start)
    return found
