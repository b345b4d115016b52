"""Scores from predictions, and the interval of a difference of means between two sides."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Ints = NDArray[np.int64]
Score = Callable[[Ints, Ints], float]


def accuracy(targets: Ints, predictions: Ints) -> float:
    return float((targets == predictions).mean())


def f1_of(positive: int) -> Score:
    """F1 of one class; 0 when it is neither present nor predicted."""

    def f1(targets: Ints, predictions: Ints) -> float:
        hits = int(((targets == positive) & (predictions == positive)).sum())
        total = int((targets == positive).sum() + (predictions == positive).sum())
        return 2 * hits / total if total else 0.0

    return f1


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Side A minus side B, as fractions.

    Args:
        mean: difference of the means over seeds.
        low, high: 95 % interval over seeds alone (Welch's t): the strict one for "both sides train alike".
        joint_low, joint_high: the same at the level at which a whole family of such intervals covers together in 95 %
            of cases (Bonferroni).
        wide_low, wide_high: the same with the test items' variance added: what would hold on other test items too.
        seed_se: standard error from the seeds of both sides.
        item_se: standard error from the test items (paired bootstrap, one draw for all seeds of both sides).
        degrees: Welch's degrees of freedom.
    """

    mean: float
    low: float
    high: float
    joint_low: float
    joint_high: float
    wide_low: float
    wide_high: float
    seed_se: float
    item_se: float
    degrees: float


def difference(
    score: Score,
    targets: Ints,
    runs_a: Sequence[Ints],
    runs_b: Sequence[Ints],
    family: int = 1,
    num_draws: int = 2000,
    seed: int = 0,
) -> Difference:
    """The 95 % intervals of mean(A) - mean(B).

    Part of the seeds' noise shows up in the bootstrap of the items too, so the wide interval is a little too wide. That
    would make parity easier to claim, which is why the narrow one exists.

    Args:
        score: metric of (targets, predictions).
        targets: (items,) class indices.
        runs_a: one (items,) array of predictions per seed, at least two.
        runs_b: the same for the other side.
        family: how many intervals are looked at together.
        num_draws: bootstrap draws of the test items.
        seed: of the bootstrap.
    """
    a = np.array([score(targets, run) for run in runs_a])
    b = np.array([score(targets, run) for run in runs_b])
    var_a, var_b = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    seed_var = float(var_a + var_b)
    if seed_var > 0:
        degrees = seed_var**2 / float(var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1))
    else:
        degrees = float(len(a) + len(b) - 2)
    rng = np.random.Generator(np.random.Philox(seed))
    draws = np.empty(num_draws)
    for i in range(num_draws):
        rows = rng.integers(0, len(targets), len(targets))
        mean_a = np.mean([score(targets[rows], run[rows]) for run in runs_a])
        mean_b = np.mean([score(targets[rows], run[rows]) for run in runs_b])
        draws[i] = mean_a - mean_b
    item_se = float(draws.std(ddof=1))
    mean = float(a.mean() - b.mean())
    quantile = float(stats.t.ppf(0.975, degrees))
    half, wide = quantile * math.sqrt(seed_var), quantile * math.sqrt(seed_var + item_se**2)
    joint = float(stats.t.ppf(1 - 0.025 / family, degrees)) * math.sqrt(seed_var)
    return Difference(
        mean=mean,
        low=mean - half,
        high=mean + half,
        joint_low=mean - joint,
        joint_high=mean + joint,
        wide_low=mean - wide,
        wide_high=mean + wide,
        seed_se=math.sqrt(seed_var),
        item_se=item_se,
        degrees=degrees,
    )
