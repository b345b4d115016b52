"""What goes into the statistics of a comparison and what comes out: plain frozen records of arrays and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from remora.study.recommend import Recommendation


@dataclass(frozen=True, kw_only=True)
class StudyScores:
    """What the methods of a study predicted on its N test items.

    Args:
        metric: "accuracy", "macro_f1", "weighted_f1", "f1", "f1/CLASS", "matthews", "pearson", "spearman" or "mse".
        targets: (N,) class indices, or floats for regression, or the number of each item
            where predictions are records, which say what is true as well.
        predictions: label -> (S, N), one row per seed that finished, of the same kind as `targets`, or records of
            counts (`results.span_detail`, `results.coref_detail`); S may be 0 and may differ between labels. The order
            of labels is kept in the results.
        seeds: label -> the seed of each row; equal seeds share the data order. Missing labels have 0..S-1.
        failed: label -> number of seeds that diverged or failed.
        baselines: labels that are not trained as the others (majority class, untrained model). They get an interval
            and a comparison, but lend no seed variance and cannot be the best. With one seed they count as
            deterministic.
        positive: the class that "f1" and "f1/CLASS" are about.
    """

    metric: str
    targets: NDArray[np.generic]
    predictions: Mapping[str, NDArray[np.generic]]
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    failed: Mapping[str, int] = field(default_factory=dict[str, int])
    baselines: frozenset[str] = frozenset()
    positive: int = 1


@dataclass(frozen=True, kw_only=True)
class MethodEstimate:
    """One method: its mean over seeds with a 95 % interval for new seeds and new items.

    All numbers are fractions of the metric, None for a method without a finished seed. `seed_sd` is the standard
    deviation of one seed's metric behind the interval (0 for a deterministic baseline), `item_sd` that of the mean over
    test items, `loss` the simultaneous upper bound on what the method loses to the best (None for baselines).
    """

    label: str
    mean: float | None
    low: float | None
    high: float | None
    se: float | None
    dof: float | None
    seeds: int
    failed: int
    per_seed: tuple[float, ...]
    seed_sd: float | None
    item_sd: float | None
    in_best_set: bool
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method minus the reference.

    `low` and `high` bound this one difference with 95 %; `simultaneous_low` and `simultaneous_high` bound all
    differences from the reference at once. `p` is for this one difference, `p_adjusted` for all of them (see
    `Analysis.adjustment`). `detectable` is the true difference that would be found with 80 % probability.
    """

    label: str
    reference: str
    difference: float
    low: float
    high: float
    simultaneous_low: float
    simultaneous_high: float
    se: float
    dof: float
    p: float
    p_adjusted: float
    detectable: float


@dataclass(frozen=True, kw_only=True)
class Components:
    """The variance components, as standard deviations of the metric (fractions); None where not estimable.

    Args:
        seed_sd: of one seed's metric, mean over the methods of the pool, shared part included.
        seed_dof: residual degrees of freedom behind a method's seed variance (median over methods).
        order_sd: the part of it that all methods share at one seed (data order).
        flip_sd: the part of it explained by seeds that disagree on single test items; falls with more items.
        item_sd: of a method's mean over test items.
        item_difference_sd: of the difference of two methods over test items.
        alone: labels whose seeds vary clearly more than all others', and therefore stand alone.
    """

    seed_sd: float | None
    seed_dof: float | None
    order_sd: float | None
    flip_sd: float | None
    item_sd: float
    item_difference_sd: float | None
    alone: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The result of `analyse`; methods in the order given.

    `adjustment` says how `p_adjusted` came about: "holm" for a reference fixed beforehand; "max-t" over all pairs when
    the reference is the method with the highest mean. `detectable` is the median over comparisons of methods.
    """

    metric: str
    num_items: int
    reference: str | None
    adjustment: Literal["holm", "max-t"]
    methods: tuple[MethodEstimate, ...]
    comparisons: tuple[Comparison, ...]
    best_set: tuple[str, ...]
    detectable: float | None
    components: Components | None
    recommendation: Recommendation
    warnings: tuple[str, ...]

    def method(self, label: str) -> MethodEstimate:
        """The estimate of one method."""
        return next(entry for entry in self.methods if entry.label == label)

    def comparison(self, label: str) -> Comparison | None:
        """The comparison of one method with the reference; None for the reference and for a method without results."""
        return next((entry for entry in self.comparisons if entry.label == label), None)
