"""Predicted against true clusters: tallies per document for the statistics, precision and recall for the report."""

from collections.abc import Sequence

import numpy as np

from remora.data.clusters import spans_of
from remora.data.coref_metrics import MENTION, METRICS, Tally, tally
from remora.results.predictions import SplitPredictions
from remora.results.summary_schema import ClassScore, Detail
from remora.results.wording import metric_name

_FIELDS = ("recall_hits", "recall_total", "precision_hits", "precision_total")


def _tallies(part: SplitPredictions) -> list[dict[str, Tally]]:
    return [tally(spans_of(a), spans_of(b)) for a, b in zip(part.targets, part.predictions, strict=True)]


def document_tallies(metric: str, part: SplitPredictions) -> np.ndarray:
    """What a metric of coreference is made of, document by document.

    Args:
        metric: ``conll_f1`` is the mean of three, any other one is made of its own tally.
        part: N documents.

    Returns:
        (N,) records of one field ``tallies`` (metrics, 4): hits and total of the recall, then of the precision.
    """
    names = METRICS if metric == "conll_f1" else (metric.removesuffix("_f1"),)
    counts = np.zeros(len(part.targets), np.dtype([("tallies", np.float64, (len(names), len(_FIELDS)))]))
    for number, found in enumerate(_tallies(part)):
        counts["tallies"][number] = [[getattr(found[name], field) for field in _FIELDS] for name in names]
    return counts


def coref_detail(label: str, why: str, seeds: Sequence[SplitPredictions]) -> Detail:
    """Precision, recall and F1 of every metric, means over seeds, and how much the key has to find.

    Args:
        label: the row.
        why: why this row is shown.
        seeds: test predictions of S seeds on the same documents.
    """
    tallied = [_tallies(part) for part in seeds]
    rows: list[ClassScore] = []
    for name in (*METRICS, MENTION):
        totals = [sum((each[name] for each in documents), Tally()) for documents in tallied]
        rows.append(
            ClassScore(
                label=metric_name(f"{name}_f1").removesuffix(" F1"),
                precision=float(np.mean([total.precision for total in totals])),
                recall=float(np.mean([total.recall for total in totals])),
                f1=float(np.mean([total.f1 for total in totals])),
                support=round(totals[0].recall_total),
            )
        )
    return Detail(label=label, why=why, classes=tuple(rows))
