"""The item component: how much the metrics would move with other test items, by a paired bootstrap.

One draw of items serves all seeds and methods. For a metric that is a mean over items the covariance over all draws
is known in closed form, so no draws are made; other metrics are recomputed on resampled items.

Rows R are all (method, seed) pairs; L methods. Two seeds of one method disagree on some items. That disagreement is
seed noise, and the seeds' own spread already holds it, so the item component is taken **between different seeds**:
the covariance of seed s and seed t, s != t. What a bootstrap of the mean over few seeds adds to it is counted twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remora.study.weighted_metrics import MEANS, item_scores, weighted_metric

# Weights are drawn in blocks of this many numbers, so that memory stays bounded for large test sets.
BLOCK = 4_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ItemComponent:
    """Covariances over test items, in squared units of the metric.

    Args:
        between_LL: covariance of the methods' means between different seeds: the item component proper.
        total_LL: covariance of the means over seeds as they stand, disagreement of the seeds on items included.
        flips_L: variance of one seed's metric that comes from its own disagreement with the other seeds on items;
            0 with one seed.
        num_items: test items.
    """

    between_LL: Floats
    total_LL: Floats
    flips_L: Floats
    num_items: int


def row_covariance(
    metric: str,
    targets_N: NDArray[np.generic],
    predictions_RN: NDArray[np.generic],
    *,
    draws: int,
    rng: np.random.Generator,
    positive: int = 1,
) -> Floats:
    """The bootstrap covariance of the metric of every row of predictions, over test items.

    Args:
        metric: the metric.
        targets_N: truth of N test items.
        predictions_RN: predictions of all rows.
        draws: number of resamples; not used where the covariance has a closed form.
        rng: source of the resamples.
        positive: the class that "f1" is about.

    Returns:
        (R, R) covariance.
    """
    num_items = len(targets_N)
    # A resample's variance is (n - 1) / n of the sampling variance.
    unbiased = num_items / (num_items - 1)
    if metric in MEANS:
        scores_RN = item_scores(metric, targets_N, predictions_RN)
        centred = scores_RN - scores_RN.mean(axis=1, keepdims=True)
        return centred @ centred.T * (unbiased / num_items**2)
    size = max(1, BLOCK // num_items)
    blocks = [
        weighted_metric(
            metric, targets_N, predictions_RN, _resample(num_items, min(size, draws - start), rng), positive=positive
        )
        for start in range(0, draws, size)
    ]
    values_BR = np.concatenate(blocks)
    centred = values_BR - values_BR.mean(axis=0)
    return centred.T @ centred * (unbiased / (len(values_BR) - 1))


def item_component(
    covariance_RR: Floats, owner_R: NDArray[np.intp], seed_R: NDArray[np.intp], num_methods: int, num_items: int
) -> ItemComponent:
    """Average a covariance of rows to a covariance of methods.

    Args:
        covariance_RR: from `row_covariance`.
        owner_R: the method of each row, 0..L-1; every method has a row.
        seed_R: the seed of each row, as an index; equal across methods for equal seeds.
        num_methods: L.
        num_items: N.

    Returns:
        The item component. Where two methods have only one and the same seed, or a method has one seed, there is no
        pair of different seeds, and the disagreement of seeds stays in.
    """
    member_LR = (owner_R == np.arange(num_methods)[:, None]).astype(np.float64)
    different_RR = (seed_R[:, None] != seed_R).astype(np.float64)
    sums = member_LR @ (covariance_RR * different_RR) @ member_LR.T
    pairs = member_LR @ different_RR @ member_LR.T
    mean_LR = member_LR / member_LR.sum(axis=1, keepdims=True)
    total_LL = mean_LR @ covariance_RR @ mean_LR.T
    between_LL = np.where(pairs > 0, sums / np.maximum(pairs, 1), total_LL)
    own = mean_LR @ np.diagonal(covariance_RR)
    flips_L = np.where(np.diagonal(pairs) > 0, np.maximum(own - np.diagonal(between_LL), 0.0), 0.0)
    return ItemComponent(between_LL=between_LL, total_LL=total_LL, flips_L=np.asarray(flips_L), num_items=num_items)


def _resample(num_items: int, draws: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(draws, N) counts of how often each item is drawn in N draws with replacement."""
    picks = rng.integers(0, num_items, size=(draws, num_items))
    picks += np.arange(draws)[:, None] * num_items
    return np.bincount(picks.ravel(), minlength=draws * num_items).reshape(draws, num_items).astype(np.float32)


def stack_rows(predictions: Sequence[NDArray[np.generic]]) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """Stack each method's (S, N) predictions.

    Returns:
        predictions_RN and owner_R.
    """
    counts = [len(block) for block in predictions]
    return np.concatenate(list(predictions)), np.repeat(np.arange(len(counts)), counts)
