"""A/A studies on real runs: one method entered twice, so every difference that the statistics claim is a false alarm.

A study counts when two of its rows are one method with one set of settings in different streams (init, head, dropout)
on the shared data order. When tuning gave both the same learning rate the pair tests the intervals as they are meant;
when it gave different ones the pair shows what tuning adds.

One study has few pairs. Its seeds and test items are therefore also subsampled; subsamples of one study overlap, so
their share of false alarms is steadier than a single verdict but no new evidence, and its error is taken over pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.run_scores import RunScores
from remora.seeds import numpy_rng
from remora.study.statistics import Comparison, StudyScores, analyse

NOISE_DRAWS = 2_000
ITEM_DRAWS = 300


@dataclass(frozen=True, kw_only=True)
class Twin:
    """One pair A and A' of one study.

    Args:
        study: data set and number of the study.
        pair: the two labels.
        tuned_alike: whether both ended with the same hyperparameters.
        seeds, items: of the study.
        difference, low, high, p: A' - A on everything, fractions.
    """

    study: str
    pair: tuple[str, str]
    tuned_alike: bool
    seeds: int
    items: int
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Subsampled:
    """Share of false alarms (p < 0.05) over subsamples of all pairs of one kind, with its error over pairs.

    Args:
        tuned_alike: the kind of pair.
        seeds, items: size of a subsample; at most half of the items.
        pairs: how many pairs were subsampled.
        alarms: share.
        se: standard error over pairs; None with one pair.
    """

    tuned_alike: bool
    seeds: int
    items: int
    pairs: int
    alarms: float
    se: float | None


def twins(runs: Sequence[RunScores], seed: int) -> tuple[Twin, ...]:
    """All A/A pairs of the studies, each analysed within its whole study."""
    found: list[Twin] = []
    for number, run in enumerate(runs):
        for one, other, alike in run.twins:
            result = _compare(run.scores, one, other, numpy_rng(seed, "twins", number, one, other))
            found.append(
                Twin(
                    study=f"{run.name} ({number + 1})",
                    pair=(one, other),
                    tuned_alike=alike,
                    seeds=min(len(run.scores.predictions[one]), len(run.scores.predictions[other])),
                    items=len(run.scores.targets),
                    difference=result.difference,
                    low=result.low,
                    high=result.high,
                    p=result.p,
                )
            )
    return tuple(found)


def subsampled(
    runs: Sequence[RunScores], num_seeds: Sequence[int], num_items: Sequence[int], times: int, seed: int
) -> tuple[Subsampled, ...]:
    """False alarms on subsamples of seeds and test items.

    Args:
        runs: studies with pairs.
        num_seeds: seeds of a subsample; pairs with fewer are left out of that size.
        num_items: items of a subsample; studies with fewer than twice as many are left out.
        times: subsamples of each pair and size.
        seed: of the draws.
    """
    found: list[Subsampled] = []
    for alike in (True, False):
        for seeds in num_seeds:
            for items in num_items:
                shares: list[float] = []
                for number, run in enumerate(runs):
                    for one, other, kind in run.twins:
                        rng = numpy_rng(seed, "subsampled", number, one, other, seeds, items)
                        share = _share(run.scores, one, other, seeds, items, times, rng)
                        if kind == alike and share is not None:
                            shares.append(share)
                if shares:
                    error = float(np.std(shares, ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None
                    found.append(
                        Subsampled(
                            tuned_alike=alike,
                            seeds=seeds,
                            items=items,
                            pairs=len(shares),
                            alarms=float(np.mean(shares)),
                            se=error,
                        )
                    )
    return tuple(found)


def _share(
    scores: StudyScores, one: str, other: str, num_seeds: int, num_items: int, times: int, rng: np.random.Generator
) -> float | None:
    common = sorted(set(scores.seeds[one]) & set(scores.seeds[other]))
    if len(common) < num_seeds or len(scores.targets) < 2 * num_items:
        return None
    alarms = 0
    for _ in range(times):
        seeds = {common[i] for i in rng.choice(len(common), num_seeds, replace=False)}
        items = rng.choice(len(scores.targets), num_items, replace=False)
        alarms += _compare(_part(scores, seeds, items), one, other, rng).p < 0.05
    return alarms / times


def _part(scores: StudyScores, seeds: set[int], items: NDArray[np.int64]) -> StudyScores:
    rows = {
        label: [i for i, seed in enumerate(scores.seeds[label]) if seed in seeds or label in scores.baselines]
        for label in scores.predictions
    }
    return replace(
        scores,
        targets=scores.targets[items],
        predictions={
            label: block[rows[label]][:, items] if len(rows[label]) else block[:0]
            for label, block in scores.predictions.items()
        },
        seeds={label: tuple(scores.seeds[label][i] for i in rows[label]) for label in scores.predictions},
    )


def _compare(scores: StudyScores, one: str, other: str, rng: np.random.Generator) -> Comparison:
    result = analyse(
        scores,
        reference=one,
        margin=1.0,
        prefer="quality",
        costs={},
        rng=rng,
        item_draws=ITEM_DRAWS,
        noise_draws=NOISE_DRAWS,
    ).comparison(other)
    assert result is not None, "both rows of a pair have results"
    return result
