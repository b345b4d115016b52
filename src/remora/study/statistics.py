"""The statistics of a comparison: arrays in, frozen results out; no files, no torch.

`analyse` takes the predictions of every seed of every method on the same test items and returns intervals,
comparisons with the reference, the confidence set of the best and the recommendation. What it rests on:
`item_variance` (items), `seed_variance` (seeds), `joint` (both), `best_set`, `recommend`.

All intervals are conditional on the tuned hyperparameters: they speak about new seeds and new test items of the same
kind, not about tuning anew. `docs/statistics.md` has the measured error rates.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import special

from remora.errors import ConfigError, DataError
from remora.study.analysis import Analysis, Comparison, Components, MethodEstimate, StudyScores
from remora.study.best_set import BestSet, best_set, draw_noise, optimism, simultaneous_critical
from remora.study.intervals import mean_interval, two_sided_p
from remora.study.item_variance import item_component, row_covariance, stack_rows
from remora.study.joint import Joint, joint_distribution, t_to_z, z_to_t
from remora.study.recommend import POWER_Z, MethodCost, Prefer, Recommendation, recommend
from remora.study.seed_variance import seed_component
from remora.study.weighted_metrics import LOWER_IS_BETTER, REGRESSION, check_metric, weighted_metric

__all__ = [
    "Analysis",
    "Comparison",
    "Components",
    "MethodCost",
    "MethodEstimate",
    "Prefer",
    "Recommendation",
    "StudyScores",
    "analyse",
]

LEVEL = 0.05
ITEM_DRAWS = 2_000
NOISE_DRAWS = 20_000
# Keeps standard errors above 0 where every method predicts a constant.
TINY = 1e-9
NORMAL_95 = float(special.ndtri(1 - LEVEL / 2))

Floats = NDArray[np.float64]


def analyse(
    scores: StudyScores,
    *,
    reference: str | None,
    margin: float,
    prefer: Prefer,
    costs: Mapping[str, MethodCost],
    rng: np.random.Generator,
    item_draws: int = ITEM_DRAWS,
    noise_draws: int = NOISE_DRAWS,
) -> Analysis:
    """Analyse a comparison.

    Args:
        scores: predictions on test.
        reference: label of the method that the others are compared with, fixed before the results were seen (full
            fine-tuning). None, or a label without results, takes the method with the highest mean.
        margin: the loss to the best that does not matter, in points (hundredths of the metric).
        prefer: which method to recommend among those within the margin.
        costs: by label.
        rng: source of the bootstrap and of the max-t draws; equal generators give equal results.
        item_draws: resamples of the test items, for metrics that are not a mean over items.
        noise_draws: draws of the joint distribution of the means.

    Returns:
        The analysis. Metric values are fractions; for "mse" less is better and `difference` keeps its sign.

    Raises:
        ConfigError: unknown metric or label, or a negative margin.
        DataError: fewer than 2 items, arrays that do not fit, or values that are not finite.
    """
    _check(scores, reference, margin)
    labels = [label for label, rows in scores.predictions.items() if len(rows)]
    if not labels:
        return _nothing(scores, margin, prefer)
    sign = -1.0 if scores.metric in LOWER_IS_BETTER else 1.0
    value_R, owner_R, joint = _estimate(scores, labels, sign, item_draws, rng)
    baseline_L = np.array([label in scores.baselines for label in labels])
    noise_DL = draw_noise(joint, noise_draws, rng)
    best = best_set(joint, ~baseline_L, noise_DL, level=LEVEL)

    fixed = labels.index(reference) if reference in labels else None
    shown = fixed if fixed is not None else (best.leader if best.leader is not None else int(np.argmax(joint.mean_L)))
    comparisons = _compare(labels, joint, shown, noise_DL, fixed=fixed is not None, sign=sign)
    detectable = [entry.detectable for entry in comparisons if entry.label not in scores.baselines]
    advice = recommend(
        labels,
        joint,
        best,
        margin=margin,
        prefer=prefer,
        costs=costs,
        optimism=optimism(joint, best, noise_DL),
        metric=scores.metric,
    )
    estimates = {
        label: _describe(scores, labels, i, sign * value_R[owner_R == i], joint, best, sign)
        for i, label in enumerate(labels)
    }
    components = _components(labels, joint, baseline_L)
    return Analysis(
        metric=scores.metric,
        num_items=len(scores.targets),
        reference=labels[shown],
        adjustment="holm" if fixed is not None else "max-t",
        methods=tuple(estimates.get(label) or _absent(scores, label) for label in scores.predictions),
        comparisons=comparisons,
        best_set=tuple(label for i, label in enumerate(labels) if best.member_L[i]),
        detectable=float(np.median(detectable)) if detectable else None,
        components=components,
        recommendation=advice,
        warnings=_warnings(scores, labels, joint, components),
    )


def _estimate(
    scores: StudyScores, labels: list[str], sign: float, item_draws: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.intp], Joint]:
    """Metric of every row (larger is better), the owner of each row, and the joint distribution of the means."""
    blocks = [scores.predictions[label] for label in labels]
    predictions_RN, owner_R = stack_rows(blocks)
    num_items = len(scores.targets)
    ones = np.ones((1, num_items))
    value_R = (
        sign * weighted_metric(scores.metric, scores.targets, predictions_RN, ones, positive=scores.positive).ravel()
    )
    covariance_RR = row_covariance(
        scores.metric, scores.targets, predictions_RN, draws=item_draws, rng=rng, positive=scores.positive
    )
    names = [
        # A deterministic baseline shares no seed with anything.
        (label,) if label in scores.baselines and len(rows) == 1 else seed
        for label, rows in zip(labels, blocks, strict=True)
        for seed in scores.seeds.get(label, tuple(range(len(rows))))
    ]
    index = {name: place for place, name in enumerate(dict.fromkeys(names))}
    seed_R = np.array([index[name] for name in names])
    seeds_L = np.bincount(owner_R)
    mean_L = np.bincount(owner_R, value_R) / seeds_L
    # One item's worth: a right answer more in N, or the typical influence of one item on a metric of real numbers.
    influence = float(np.sqrt(np.diagonal(covariance_RR).mean() / num_items))
    several = predictions_RN.dtype.names is not None
    grain = max(influence, TINY) if several or scores.metric in REGRESSION else 1.0 / num_items
    items = item_component(covariance_RR, owner_R, seed_R, len(labels), num_items)
    baseline_L = np.array([label in scores.baselines for label in labels])
    seeds = seed_component(value_R, owner_R, seed_R, items.flips_L, baseline_L, grain=grain)
    return value_R, owner_R, joint_distribution(mean_L, seeds_L, items, seeds, grain=grain)


def _compare(
    labels: list[str], joint: Joint, reference: int, noise_DL: Floats, *, fixed: bool, sign: float
) -> tuple[Comparison, ...]:
    others = np.array([i for i in range(len(labels)) if i != reference], dtype=np.intp)
    if not len(others):
        return ()
    difference_O = joint.mean_L[others] - joint.mean_L[reference]
    se_O, dof_O = joint.se_LL[others, reference], joint.dof_LL[others, reference]
    t_O = difference_O / se_O
    p_O = two_sided_p(t_O, dof_O)
    critical, largest_D = simultaneous_critical(noise_DL, reference if fixed else None, level=LEVEL)
    if fixed:
        adjusted_O = holm(p_O)
    else:
        z_O = np.abs(t_to_z(t_O, dof_O))
        adjusted_O = np.maximum(p_O, (largest_D[:, None] >= z_O).mean(axis=0))
    alone_O = z_to_t(NORMAL_95, dof_O) * se_O
    together_O = np.maximum(z_to_t(critical, dof_O) * se_O, alone_O)
    detectable_O = together_O + z_to_t(POWER_Z, dof_O) * se_O
    found = [
        Comparison(
            label=labels[i],
            reference=labels[reference],
            difference=float(sign * difference_O[o]),
            low=float(sign * difference_O[o] - alone_O[o]),
            high=float(sign * difference_O[o] + alone_O[o]),
            simultaneous_low=float(sign * difference_O[o] - together_O[o]),
            simultaneous_high=float(sign * difference_O[o] + together_O[o]),
            se=float(se_O[o]),
            dof=float(dof_O[o]),
            p=float(p_O[o]),
            p_adjusted=float(adjusted_O[o]),
            detectable=float(detectable_O[o]),
        )
        for o, i in enumerate(others)
    ]
    return tuple(found)


def holm(p: Floats) -> Floats:
    """Holm's step-down adjusted p-values, in the order given.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p, kind="stable")
    adjusted = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    result = np.empty_like(adjusted)
    result[order] = adjusted
    return result


def _describe(
    scores: StudyScores, labels: list[str], i: int, per_seed: Floats, joint: Joint, best: BestSet, sign: float
) -> MethodEstimate:
    label, mean = labels[i], float(sign * joint.mean_L[i])
    low, high = mean_interval(
        scores.metric, mean, float(joint.se_L[i]), float(joint.dof_L[i]), joint.grain, level=LEVEL
    )
    one_seed = joint.seeds.variance_L[i] + joint.seeds.order_variance * bool(joint.seeds.loading_LT[i].any())
    known = joint.seeds.known or label in scores.baselines
    return MethodEstimate(
        label=label,
        mean=mean,
        low=low,
        high=high,
        se=float(joint.se_L[i]),
        dof=float(joint.dof_L[i]),
        seeds=int(joint.seeds_L[i]),
        failed=scores.failed.get(label, 0),
        per_seed=tuple(float(value) for value in per_seed),
        seed_sd=float(np.sqrt(one_seed)) if known else None,
        item_sd=float(np.sqrt(max(joint.items.between_LL[i, i], 0.0))),
        in_best_set=bool(best.member_L[i]),
        loss=float(best.loss_L[i]) if np.isfinite(best.loss_L[i]) else None,
    )


def _components(labels: list[str], joint: Joint, baseline_L: NDArray[np.bool_]) -> Components | None:
    trained = np.flatnonzero(~baseline_L)
    if not len(trained):
        return None
    seeds, between_TT = joint.seeds, joint.items.between_LL[np.ix_(trained, trained)]
    pool = trained[seeds.pooled_L[trained]]
    first, second = np.triu_indices(len(trained), 1)
    item_T = np.diagonal(between_TT)
    pair = item_T[first] + item_T[second] - 2 * between_TT[first, second]
    known = seeds.known and len(pool) > 0
    return Components(
        seed_sd=float(np.sqrt(seeds.variance_L[pool].mean() + seeds.order_variance)) if known else None,
        seed_dof=float(np.median(seeds.dof_L[pool])) if known else None,
        order_sd=float(np.sqrt(seeds.order_variance)) if known else None,
        flip_sd=float(np.sqrt(joint.items.flips_L[pool].mean())) if known else None,
        item_sd=float(np.sqrt(max(item_T.mean(), 0.0))),
        item_difference_sd=float(np.sqrt(max(pair.mean(), 0.0))) if len(pair) else None,
        alone=tuple(labels[i] for i in trained if not seeds.pooled_L[i]),
    )


def _warnings(scores: StudyScores, labels: list[str], joint: Joint, components: Components | None) -> tuple[str, ...]:
    found: list[str] = []
    missing = [label for label in scores.predictions if label not in labels]
    if missing:
        found.append(f"no seed of {', '.join(missing)} finished: listed without numbers")
    if not joint.seeds.known:
        found.append("one seed per method: the intervals hold for these trained models only, not for the methods")
    if components:
        for label in components.alone:
            found.append(f"the seeds of {label} vary clearly more than those of all other methods")
    num_items = len(scores.targets)
    if num_items < 100:
        found.append(f"only {num_items} test items: intervals are wide and their coverage is not checked below 200")
    return tuple(found)


def _absent(scores: StudyScores, label: str) -> MethodEstimate:
    return MethodEstimate(
        label=label,
        mean=None,
        low=None,
        high=None,
        se=None,
        dof=None,
        seeds=0,
        failed=scores.failed.get(label, 0),
        per_seed=(),
        seed_sd=None,
        item_sd=None,
        in_best_set=False,
        loss=None,
    )


def _nothing(scores: StudyScores, margin: float, prefer: Prefer) -> Analysis:
    return Analysis(
        metric=scores.metric,
        num_items=len(scores.targets),
        reference=None,
        adjustment="holm",
        methods=tuple(_absent(scores, label) for label in scores.predictions),
        comparisons=(),
        best_set=(),
        detectable=None,
        components=None,
        recommendation=Recommendation(
            label=None,
            leader=None,
            decidable=False,
            reason="no-result",
            text="No method has a finished seed, so there is nothing to recommend.",
            loss=None,
            optimism=0.0,
            eligible=(),
            need_items=None,
            need_seeds=None,
            need_both=False,
            margin=margin,
            prefer=prefer,
        ),
        warnings=("no seed of any method finished",),
    )


def _check(scores: StudyScores, reference: str | None, margin: float) -> None:
    check_metric(scores.metric)
    if reference is not None and reference not in scores.predictions:
        known = ", ".join(scores.predictions)
        raise ConfigError(f"the reference {reference!r} is not a row of the comparison", f"use one of: {known}")
    if not margin >= 0:
        raise ConfigError(f"the margin is {margin}", "give a number of points, 0 or more")
    num_items = len(scores.targets)
    if num_items < 2:
        raise DataError(f"the test split has {num_items} items", "statistics need at least 2, better some hundreds")
    for label, rows in scores.predictions.items():
        if rows.ndim != 2 or (len(rows) and rows.shape[1] != num_items):
            raise DataError(
                f"{label!r} has predictions of shape {rows.shape} for {num_items} test items",
                "every seed of every method must predict the same items",
            )
        seeds = scores.seeds.get(label)
        if seeds is not None and (len(seeds) != len(rows) or len(set(seeds)) != len(seeds)):
            raise DataError(f"{label!r} has {len(rows)} rows for seeds {seeds}", "give one distinct seed per row")
        if rows.dtype.names is None and not np.isfinite(rows.astype(np.float64)).all():
            raise DataError(f"{label!r} has predictions that are not finite", "leave out its diverged seeds")
