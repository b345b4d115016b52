"""Metrics of predictions under item weights: what the item bootstrap recomputes on every resample, vectorised.

With all weights 1 every value equals scikit-learn's (accuracy, F1, Matthews) or scipy's (Pearson, Spearman).

Shapes: B weightings, N test items, S rows of predictions (seeds), K classes.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from remora.errors import ConfigError

CLASSIFICATION = ("accuracy", "macro_f1", "weighted_f1", "f1", "matthews")
REGRESSION = ("pearson", "spearman", "mse")
SPANS = ("span_f1", "span_precision", "span_recall", "token_accuracy")
"""Ratios of counts that every item has several of: `right`, `found` and `true` spans, or words."""
COREFERENCE = ("conll_f1", "muc_f1", "b_cubed_f1", "ceaf_e_f1", "mention_f1")
"""F1 of ratios of sums over documents, which have hits and totals; the first is the mean of the next three."""
ROUGE = ("rouge1", "rouge2", "rougeL")
"""Means of the scores of items, which are what predictions are then."""
# Metrics that are a mean over items: their bootstrap covariance has a closed form.
MEANS = ("accuracy", "mse", *ROUGE)
LOWER_IS_BETTER = ("mse",)
# A resample whose predictions vary this little against the whole sample counts as constant: correlation 0, not noise.
CONSTANT = 1e-20

Floats = NDArray[np.float64]


def check_metric(metric: str) -> str:
    """The metric without the class: "f1" for "f1/CLASS", any other name as it is.

    Raises:
        ConfigError: the metric is not known here; names those there are.
    """
    plain = "f1" if metric.startswith("f1/") else metric
    known = CLASSIFICATION + REGRESSION + SPANS + COREFERENCE + ROUGE
    if plain not in known:
        raise ConfigError(f"metric {metric!r} is unknown to the statistics", f"use one of: {', '.join(known)}")
    return plain


def item_scores(metric: str, targets_N: NDArray[np.generic], predictions_SN: NDArray[np.generic]) -> Floats:
    """The score of every item under a metric that is a mean over items.

    Args:
        metric: one of `MEANS`.
        targets_N: class indices or floats.
        predictions_SN: the same kind.

    Returns:
        (S, N) scores.
    """
    if metric == "accuracy":
        return (predictions_SN == targets_N).astype(np.float64)
    if metric in ROUGE:
        return predictions_SN.astype(np.float64)
    assert metric == "mse", metric
    return np.square(predictions_SN.astype(np.float64) - targets_N.astype(np.float64))


def weighted_metric(
    metric: str,
    targets_N: NDArray[np.generic],
    predictions_SN: NDArray[np.generic],
    weights_BN: NDArray[np.generic],
    *,
    positive: int = 1,
) -> Floats:
    """A metric of S rows of predictions under B weightings of the items.

    Args:
        metric: one of `CLASSIFICATION` or "f1/CLASS" (class indices), one of `REGRESSION` (floats), or one of `SPANS`
            or "f1/TYPE", or one of `COREFERENCE` (records of counts; `targets_N` is not looked at), or one of `ROUGE`
            (scores of items; `targets_N` is not looked at). Macro F1 is the
            mean over the classes that occur in targets or predictions; a F1 or a correlation that is not defined is 0.
        targets_N: the truth.
        predictions_SN: predictions of S rows.
        weights_BN: how often each item is taken, whole numbers (Spearman ranks the weighted items anew).
        positive: the class that "f1" and "f1/CLASS" are about.

    Returns:
        (B, S) values.

    Raises:
        ConfigError: the metric is unknown.
    """
    metric = check_metric(metric)
    if metric in COREFERENCE:
        return _of_tallies(predictions_SN, weights_BN.astype(np.float64))
    if predictions_SN.dtype.names is not None:
        return _of_counts(metric, predictions_SN, weights_BN.astype(np.float64))
    if metric in CLASSIFICATION:
        return _classification(metric, targets_N, predictions_SN, weights_BN, positive)
    targets, predictions = targets_N.astype(np.float64), predictions_SN.astype(np.float64)
    weights = weights_BN.astype(np.float64)
    if metric in ROUGE:
        return weights @ predictions.T / weights.sum(axis=1, keepdims=True)
    if metric == "mse":
        return weights @ np.square(predictions - targets).T / weights.sum(axis=1, keepdims=True)
    if metric == "pearson":
        return _pearson(targets, predictions, weights)
    return _spearman(targets, predictions, weights)


def _of_counts(metric: str, counts_SN: NDArray[Any], weights_BN: Floats) -> Floats:
    right, found, true = (weights_BN @ counts_SN[name].astype(np.float64).T for name in ("right", "found", "true"))
    if metric == "span_precision":
        return _ratio(right, found)
    if metric in ("span_recall", "token_accuracy"):
        return _ratio(right, true)
    return _ratio(2 * right, found + true)


def _of_tallies(counts_SN: NDArray[Any], weights_BN: Floats) -> Floats:
    """Sums before ratios, as `data.coref_metrics` takes them; the mean over M metrics of their F1."""
    sums_BSM4 = np.einsum("bn,snmf->bsmf", weights_BN, counts_SN["tallies"])
    recall, precision = (_ratio(sums_BSM4[..., at], sums_BSM4[..., at + 1]) for at in (0, 2))
    return _ratio(2 * recall * precision, recall + precision).mean(axis=-1)


def _classification(
    metric: str,
    targets_N: NDArray[np.generic],
    predictions_SN: NDArray[np.generic],
    weights_BN: NDArray[np.generic],
    positive: int,
) -> Floats:
    # Counts are whole numbers below 2**24, so float32 products are exact.
    weights = weights_BN.astype(np.float32)
    hits_SN = predictions_SN == targets_N
    total_B1 = weights.sum(axis=1, keepdims=True).astype(np.float64)
    if metric == "accuracy":
        return (weights @ hits_SN.T.astype(np.float32)).astype(np.float64) / total_B1
    num_classes = int(max(targets_N.max(), predictions_SN.max(), positive)) + 1
    classes_K = np.arange(num_classes)
    true_BK = _counts(weights, (targets_N[:, None] == classes_K).astype(np.float32))
    guess_NSK = (predictions_SN.T[:, :, None] == classes_K).astype(np.float32)
    shape = (len(weights), len(predictions_SN), num_classes)
    guess_BSK = _counts(weights, guess_NSK.reshape(len(targets_N), -1)).reshape(shape)
    guess_NSK *= hits_SN.T[:, :, None]
    hits_BSK = _counts(weights, guess_NSK.reshape(len(targets_N), -1)).reshape(shape)
    return _SCORES[metric](hits_BSK, guess_BSK, true_BK[:, None, :], total_B1, positive)


def _counts(weights_BN: NDArray[np.float32], indicator_NX: NDArray[np.float32]) -> Floats:
    return (weights_BN @ indicator_NX).astype(np.float64)


def _f1_per_class(hits: Floats, guess: Floats, true: Floats) -> Floats:
    return _ratio(2 * hits, guess + true)


def _macro_f1(hits: Floats, guess: Floats, true: Floats, total: Floats, positive: int) -> Floats:
    present = (guess + true) > 0
    return _f1_per_class(hits, guess, true).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)


def _weighted_f1(hits: Floats, guess: Floats, true: Floats, total: Floats, positive: int) -> Floats:
    return (_f1_per_class(hits, guess, true) * true).sum(axis=-1) / total


def _f1(hits: Floats, guess: Floats, true: Floats, total: Floats, positive: int) -> Floats:
    return _f1_per_class(hits, guess, true)[..., positive]


def _matthews(hits: Floats, guess: Floats, true: Floats, total: Floats, positive: int) -> Floats:
    covariance = hits.sum(axis=-1) * total - (guess * true).sum(axis=-1)
    spread = (total**2 - (guess**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1))
    return _ratio(covariance, np.sqrt(spread))


_SCORES: dict[str, Callable[[Floats, Floats, Floats, Floats, int], Floats]] = {
    "macro_f1": _macro_f1,
    "weighted_f1": _weighted_f1,
    "f1": _f1,
    "matthews": _matthews,
}


def _pearson(targets_N: Floats, predictions_SN: Floats, weights_BN: Floats) -> Floats:
    x_SN = predictions_SN - predictions_SN.mean(axis=1, keepdims=True)
    y_N = targets_N - targets_N.mean()
    total_B1 = weights_BN.sum(axis=1, keepdims=True)
    mean_x, mean_y = weights_BN @ x_SN.T / total_B1, (weights_BN @ y_N)[:, None] / total_B1
    var_x = weights_BN @ np.square(x_SN).T / total_B1 - mean_x**2
    var_y = (weights_BN @ np.square(y_N))[:, None] / total_B1 - mean_y**2
    covariance = weights_BN @ (x_SN * y_N).T / total_B1 - mean_x * mean_y
    return _correlation(covariance, var_x, var_y, np.square(x_SN).mean(axis=1), float(np.square(y_N).mean()))


def _spearman(targets_N: Floats, predictions_SN: Floats, weights_BN: Floats) -> Floats:
    """Pearson correlation of mid-ranks, ranked anew under each weighting; ties share their places' mean."""
    total_B = weights_BN.sum(axis=1)
    half_B1 = total_B[:, None] / 2
    scale_B = total_B**2 / 12
    order, starts, place_N = _groups(targets_N)
    size_BG = _by_group(weights_BN, order, starts)
    rank_BG = np.cumsum(size_BG, axis=1) - size_BG / 2 - half_B1
    var_y = np.einsum("bg,bg,bg->b", size_BG, rank_BG, rank_BG) / total_B
    weighted_y_BN = weights_BN * rank_BG[:, place_N]
    values = np.empty((len(weights_BN), len(predictions_SN)))
    for row, prediction_N in enumerate(predictions_SN):
        order, starts, _ = _groups(prediction_N)
        size_BG = _by_group(weights_BN, order, starts)
        rank_BG = np.cumsum(size_BG, axis=1)
        rank_BG -= size_BG / 2
        rank_BG -= half_B1
        # Sums over items are sums over groups of ties, so the ranks need not go back to the items.
        covariance = np.einsum("bg,bg->b", _by_group(weighted_y_BN, order, starts), rank_BG) / total_B
        size_BG *= rank_BG
        var_x = np.einsum("bg,bg->b", size_BG, rank_BG) / total_B
        values[:, row] = _correlation(covariance, var_x, var_y, scale_B, scale_B)
    return values


def _by_group(values_BN: Floats, order: NDArray[np.intp], starts: NDArray[np.intp]) -> Floats:
    """Sums over groups of ties, in sorting order."""
    ordered_BN = np.take(values_BN, order, axis=1)
    return ordered_BN if len(starts) == len(order) else np.add.reduceat(ordered_BN, starts, axis=1)


def _groups(values_N: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """The sorting order, where each group of ties starts in it, and the group of each item."""
    order = np.argsort(values_N, kind="stable")
    ordered = values_N[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    place_N = np.empty_like(order)
    place_N[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ordered))))
    return order, starts, place_N


def _correlation(
    covariance: Floats, var_x: Floats, var_y: Floats, scale_x: Floats | float, scale_y: Floats | float
) -> Floats:
    defined = (var_x > CONSTANT * scale_x) & (var_y > CONSTANT * scale_y)
    spread = np.sqrt(np.where(defined, var_x * var_y, 1.0))
    return np.where(defined, np.clip(covariance / spread, -1.0, 1.0), 0.0)


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)
