"""One cell of the calibration: many simulated studies of one size, analysed as Remora analyses real ones.

Every measure is a ratio over studies (how often / out of how many), so its Monte Carlo standard error respects that
the comparisons inside one study are not independent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.simulated_studies import World, labels, offsets
from remora.seeds import numpy_rng
from remora.study.statistics import Analysis, StudyScores, analyse

MARGIN = 1.0
NUM_METHODS = 8
# True points against the reference, which comes first. The first three are the best.
GAP = (0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -3.0, -3.0)
FOUND = 3.0
# Candidates of a tuning: what each learning rate is truly worth, in points below the best.
CANDIDATES = (0.0, -0.5, -1.5, -4.0)
# "uneven": the reference's seeds vary so many times as much as the others'.
UNREST = 2.5
# "need": a study asked for with more answers per method than this is not simulated.
MOST_ANSWERS = 400_000
# The max-t draws of one study; Remora itself draws more, which only makes its critical values steadier.
NOISE_DRAWS = 2_000
ITEM_DRAWS = 300

Floats = NDArray[np.float64]
Tally = dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured share or mean with its Monte Carlo standard error; None where nothing was counted."""

    value: float | None
    se: float | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Where studies are simulated, and what came out.

    Args:
        scenario: see `run_cell`.
        components: name of the component set.
        seeds, items: size of each study.
        studies: how many were simulated.
        measures: name -> estimate.
    """

    scenario: str
    components: str
    seeds: int
    items: int
    studies: int
    measures: Mapping[str, Estimate]


def run_cell(
    scenario: str, world: World, num_seeds: int, num_items: int, num_studies: int, validation: int, seed: int
) -> Cell:
    """Simulate and analyse.

    Args:
        scenario: "tie" (all equal), "gap" (see `GAP`), "tuned" (all equal, each tuned anew), "uneven" (all equal, the
            reference's seeds vary more), "need" (all equal, at the size asked for), or a metric (all equal).
        world: draws studies.
        num_seeds, num_items: size.
        num_studies: how many.
        validation: items on which the candidates of "tuned" are compared.
        seed: of the simulation.
    """
    tallies: list[Tally] = []
    name = world.components.name
    for study in range(num_studies):
        rng = numpy_rng(seed, name, scenario, num_seeds, num_items, study)
        tallies.append(_SCENARIOS.get(scenario, _metric(scenario))(world, num_seeds, num_items, validation, rng))
    keys = dict.fromkeys(key for tally in tallies for key in tally)
    measures = {key: _ratio([tally.get(key, (0.0, 0.0)) for tally in tallies]) for key in keys}
    return Cell(
        scenario=scenario,
        components=name,
        seeds=num_seeds,
        items=num_items,
        studies=num_studies,
        measures=measures,
    )


def _tie(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
    truth = offsets((0.0,) * NUM_METHODS, world.components.accuracy)
    scores = world.study(truth, num_items, num_seeds, rng)
    analysis = _analyse(scores, rng)
    return {
        **_alarms(analysis, truth),
        **_coverage(analysis, truth),
        **_advice(analysis, truth),
        "alarm_items_only": _items_only(scores),
    }


def _gap(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
    truth = offsets(GAP, world.components.accuracy)
    analysis = _analyse(world.study(truth, num_items, num_seeds, rng), rng)
    worse = [entry for entry, points in zip(analysis.comparisons, GAP[1:], strict=True) if points == -FOUND]
    found = [entry.p_adjusted < 0.05 and entry.difference < 0 for entry in worse]
    able = [entry.detectable <= FOUND / 100 for entry in worse]
    out = [entry.label not in analysis.best_set for entry in worse]
    decided = float(analysis.recommendation.decidable)
    return {
        **_alarms(analysis, truth),
        **_coverage(analysis, truth),
        **_advice(analysis, truth),
        "power": (float(sum(found)), len(worse)),
        "able": (float(sum(able)), len(worse)),
        "power_when_able": (float(sum(f and a for f, a in zip(found, able, strict=True))), float(sum(able))),
        "power_set": (float(sum(out)), len(worse)),
        "power_set_when_decided": (decided * sum(out), decided * len(worse)),
        "detectable": (100 * (analysis.detectable or 0.0), 1.0),
    }


def _tuned(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
    candidates = offsets(CANDIDATES, world.components.accuracy)
    chosen = world.tuned(candidates, NUM_METHODS, validation, rng)
    truth = candidates[chosen]
    analysis = _analyse(world.study(truth, num_items, num_seeds, rng), rng)
    # As methods all are equal: what differs is what tuning happened to pick.
    alarms = _alarms(analysis, np.zeros(NUM_METHODS))
    expected = np.full(NUM_METHODS, candidates[0])
    return {**alarms, **_coverage(analysis, truth), "tuning_cost": (100 * float((expected - truth).mean()), 1.0)}


def _metric(metric: str) -> "Callable[[World, int, int, int, np.random.Generator], Tally]":
    def measure(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
        scores = world.study_with_metric(metric, NUM_METHODS // 2, num_items, num_seeds, rng)
        analysis = _analyse(scores, rng)
        inside = [entry.low <= 0.0 <= entry.high for entry in analysis.comparisons]
        covered = {"cover_difference": (float(sum(inside)), float(len(inside)))}
        return {**_alarms(analysis, np.zeros(NUM_METHODS // 2)), **covered}

    return measure


def _uneven(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
    truth = offsets((0.0,) * NUM_METHODS, world.components.accuracy)
    unrest = np.array([UNREST] + [1.0] * (NUM_METHODS - 1))
    analysis = _analyse(world.study(truth, num_items, num_seeds, rng, unrest), rng)
    return {**_alarms(analysis, truth), **_coverage(analysis, truth)}


def _need(world: World, num_seeds: int, num_items: int, validation: int, rng: np.random.Generator) -> Tally:
    """Ask a study of equal methods what would decide, then run one of that size."""
    truth = offsets((0.0,) * NUM_METHODS, world.components.accuracy)
    first = _analyse(world.study(truth, num_items, num_seeds, rng), rng).recommendation
    if first.decidable:
        return {}
    items = first.need_items or num_items
    # Seeds are asked for only where items alone would not do.
    seeds = num_seeds if first.need_items and not first.need_both else first.need_seeds or num_seeds
    if (first.need_items is None and first.need_seeds is None) or items * seeds > MOST_ANSWERS:
        return {"need_reachable": (0.0, 1.0)}
    then = _analyse(world.study(truth, items, seeds, rng), rng).recommendation
    return {
        "need_reachable": (1.0, 1.0),
        "need_log_items": (float(np.log10(items)), 1.0),
        "need_log_seeds": (float(np.log10(seeds)), 1.0),
        "need_decided": (float(then.decidable), 1.0),
    }


_SCENARIOS: dict[str, Callable[[World, int, int, int, np.random.Generator], Tally]] = {
    "tie": _tie,
    "gap": _gap,
    "tuned": _tuned,
    "uneven": _uneven,
    "need": _need,
}


def _analyse(scores: StudyScores, rng: np.random.Generator) -> Analysis:
    return analyse(
        scores,
        reference=labels(1)[0],
        margin=MARGIN,
        prefer="quality",
        costs={},
        rng=rng,
        item_draws=ITEM_DRAWS,
        noise_draws=NOISE_DRAWS,
    )


def _alarms(analysis: Analysis, truth_M: Floats) -> Tally:
    """Differences claimed where there are none, and a true best left out of the set."""
    tied = [entry for entry, value in zip(analysis.comparisons, truth_M[1:], strict=True) if value == truth_M[0]]
    best = [label for label, value in zip(labels(len(truth_M)), truth_M, strict=True) if value == truth_M.max()]
    return {
        "alarm_pair": (float(sum(entry.p < 0.05 for entry in tied)), float(len(tied))),
        "alarm_holm": (float(any(entry.p_adjusted < 0.05 for entry in tied)), float(bool(tied))),
        "alarm_set": (float(sum(label not in analysis.best_set for label in best)), float(len(best))),
    }


def _coverage(analysis: Analysis, truth_M: Floats) -> Tally:
    means = [
        entry.low is not None and entry.high is not None and entry.low <= value <= entry.high
        for entry, value in zip(analysis.methods, truth_M, strict=True)
    ]
    gaps = truth_M[1:] - truth_M[0]
    single = [e.low <= gap <= e.high for e, gap in zip(analysis.comparisons, gaps, strict=True)]
    joint = [
        e.simultaneous_low <= gap <= e.simultaneous_high for e, gap in zip(analysis.comparisons, gaps, strict=True)
    ]
    loss = truth_M.max() - truth_M
    bounded = [
        entry.loss is not None and value <= entry.loss for entry, value in zip(analysis.methods, loss, strict=True)
    ]
    return {
        "cover_mean": (float(sum(means)), float(len(means))),
        "cover_difference": (float(sum(single)), float(len(single))),
        "cover_all_differences": (float(all(joint)), 1.0),
        "cover_all_losses": (float(all(bounded)), 1.0),
    }


def _advice(analysis: Analysis, truth_M: Floats) -> Tally:
    place = {label: i for i, label in enumerate(labels(len(truth_M)))}
    advice = analysis.recommendation
    wrong = advice.label is not None and truth_M.max() - truth_M[place[advice.label]] > MARGIN / 100 + 1e-12
    seen = [entry.mean or 0.0 for entry in analysis.methods]
    leader = int(np.argmax(seen))
    return {
        "decided": (float(advice.decidable), 1.0),
        "wrong_advice": (float(wrong), 1.0),
        "optimism_true": (100 * float(seen[leader] - truth_M[leader]), 1.0),
        "optimism_said": (100 * advice.optimism, 1.0),
    }


def _items_only(scores: StudyScores) -> tuple[float, float]:
    """False alarms of a paired t-test over test items that takes the mean over seeds as given: seeds ignored."""
    right = [1.0 - rows.astype(np.float64).mean(axis=0) for rows in scores.predictions.values()]
    gaps = np.array([other - right[0] for other in right[1:]])
    se = gaps.std(axis=1, ddof=1) / np.sqrt(gaps.shape[1])
    t = np.divide(np.abs(gaps.mean(axis=1)), se, out=np.zeros(len(gaps)), where=se > 0)
    return float((t > special.stdtrit(gaps.shape[1] - 1, 0.975)).sum()), float(len(gaps))


def _ratio(pairs: list[tuple[float, float]]) -> Estimate:
    top, bottom = np.array(pairs, dtype=np.float64).T
    if bottom.sum() == 0:
        return Estimate(value=None, se=None)
    value = float(top.sum() / bottom.sum())
    error = float(np.std(top - value * bottom) / (np.sqrt(len(pairs)) * bottom.mean()))
    return Estimate(value=value, se=error)
