"""A closer look at one row on test: per-class scores and confusion matrix, or target against prediction."""

from collections.abc import Sequence

import numpy as np

from remora.data.kinds import TaskName
from remora.results.predictions import SplitPredictions
from remora.results.summary_schema import ClassScore, Detail

MAX_SCATTER = 1000


def class_detail(label: str, why: str, seeds: Sequence[SplitPredictions], names: Sequence[str]) -> Detail:
    """Per-class precision, recall and F1 and the confusion matrix of one row, means over its seeds.

    Args:
        label: the row.
        why: why this row is shown.
        seeds: test predictions of S seeds on the same N rows.
        names: the C label names; a target outside them (a label that training lacks) gets a class of its own.
    """
    extra = sorted({str(target) for target in seeds[0].targets} - set(names))
    order = [*names, *extra]
    counts_SCC = np.stack([confusion(part, order) for part in seeds])
    right_SC = np.diagonal(counts_SCC, axis1=1, axis2=2)
    support_SC, predicted_SC = counts_SCC.sum(axis=2), counts_SCC.sum(axis=1)
    precision = _ratio(right_SC, predicted_SC).mean(axis=0)
    recall = _ratio(right_SC, support_SC).mean(axis=0)
    f1 = _ratio(2 * right_SC, support_SC + predicted_SC).mean(axis=0)
    classes = tuple(
        ClassScore(
            label=name,
            precision=float(precision[i]),
            recall=float(recall[i]),
            f1=float(f1[i]),
            support=int(support_SC[0, i]),
        )
        for i, name in enumerate(order)
    )
    mean_CC = counts_SCC.mean(axis=0)
    matrix = tuple(tuple(round(float(value), 6) for value in row) for row in mean_CC)
    return Detail(label=label, why=why, classes=classes, confusion=matrix)


def confusion(part: SplitPredictions, order: Sequence[str]) -> np.ndarray:
    """The (C, C) matrix of counts: row the true class, column the predicted one."""
    place = {name: index for index, name in enumerate(order)}
    counts_CC = np.zeros((len(order), len(order)), dtype=np.int64)
    true = [place[str(value)] for value in part.targets]
    guess = [place[str(value)] for value in part.predictions]
    np.add.at(counts_CC, (true, guess), 1)
    return counts_CC


def scatter_detail(label: str, why: str, seeds: Sequence[SplitPredictions]) -> Detail:
    """Target and mean prediction of at most 1000 test rows, evenly spaced over the split.

    Args:
        label: the row.
        why: why this row is shown.
        seeds: test predictions of S seeds on the same N rows.
    """
    targets = np.asarray(seeds[0].targets, dtype=np.float64)
    mean_N = np.mean([np.asarray(part.predictions, dtype=np.float64) for part in seeds], axis=0)
    shown = np.linspace(0, len(targets) - 1, min(len(targets), MAX_SCATTER)).astype(int)
    pairs = tuple((round(float(targets[i]), 6), round(float(mean_N[i]), 6)) for i in shown)
    return Detail(label=label, why=why, scatter=pairs)


def is_constant(part: SplitPredictions, task: TaskName = "classification") -> bool:
    """Whether every prediction on a split of at least two rows is the same; of tagged words, every tag."""
    if task == "token-classification":
        return len({tag for sentence in part.predictions for tag in str(sentence).split(" ")}) == 1
    return len(part.predictions) > 1 and len(set(part.predictions)) == 1


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Elementwise quotient, 0 where the denominator is 0 (scikit-learn's zero_division=0)."""
    return np.divide(top, bottom, out=np.zeros(top.shape, dtype=np.float64), where=bottom > 0)
