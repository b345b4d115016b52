"""Written summaries: the score of every document for the statistics, and some of them for the report."""

from collections.abc import Mapping, Sequence

import numpy as np

from remora.data.summaries import references
from remora.results.predictions import SplitPredictions
from remora.results.summary_schema import Detail, WrittenExample

SCORES = ("rouge1", "rouge2", "rougeL")
"""What the scores of a summary's predictions are, in order."""


def rouge_of_items(metric: str, part: SplitPredictions) -> np.ndarray:
    """The score of every document.

    Args:
        metric: one of `SCORES`.
        part: N documents.

    Returns:
        (N,) fractions.
    """
    return part.scores[:, SCORES.index(metric)].astype(np.float64)


def summary_detail(
    label: str,
    why: str,
    documents: Sequence[str],
    seeds: Mapping[int, SplitPredictions],
    untrained: SplitPredictions | None,
) -> Detail:
    """What one row writes about the first test documents, beside the references and the model as it was.

    Args:
        label: the row.
        why: why this row is shown.
        documents: how the first test documents begin.
        seeds: test predictions by seed; those of the first one are shown.
        untrained: those of the model as it was.
    """
    shown = seeds[min(seeds)]
    examples = tuple(
        WrittenExample(
            document=document,
            references=references(str(shown.targets[number])),
            untrained=None if untrained is None else str(untrained.predictions[number]),
            summary=str(shown.predictions[number]),
        )
        for number, document in enumerate(documents)
    )
    return Detail(label=label, why=why, written=examples)
