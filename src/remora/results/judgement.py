"""What the statistics say, keyed by row label: the one place that talks to `remora.study.statistics`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from remora.data.kinds import LETTERS
from remora.results import aggregate
from remora.results.coref_detail import document_tallies
from remora.results.predictions import SplitPredictions
from remora.results.schema import RowCost, TrialResult
from remora.results.span_detail import span_counts
from remora.results.store import RunDirectory
from remora.results.summary_detail import rouge_of_items
from remora.results.summary_schema import Compared, Variance, Versus
from remora.seeds import numpy_rng
from remora.study.statistics import Analysis, MethodCost, MethodEstimate, StudyScores, analyse

Reason = Literal["best", "non-inferior", "only-method", "undecided", "one-seed", "no-result"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Intervals, the confidence set of the best, comparisons and the recommendation.

    Args:
        intervals: label -> (low, high) around the mean; fractions.
        losses: label -> upper bound on what a row loses to the best.
        best: the row with the best mean among those that can be chosen.
        best_set: the simultaneous 95 % confidence set of the best; empty when it cannot be had.
        eligible: members of `best_set` shown to be within the margin of the best.
        recommended: the row to take, None when the data does not decide.
        decidable: whether the data decides.
        reason: why, in one word.
        loss: upper bound on what the recommended row loses to the best.
        optimism: by how much the best mean flatters its row.
        need_items: test items that would decide.
        need_seeds: seeds that would decide.
        need_both: whether only both together would.
        versus: label -> comparison with the reference.
        compared: what that reference is.
        variance: the components.
        warnings: in plain English.
    """

    intervals: Mapping[str, tuple[float, float]]
    losses: Mapping[str, float]
    best: str | None
    best_set: tuple[str, ...]
    eligible: tuple[str, ...]
    recommended: str | None
    decidable: bool
    reason: Reason
    loss: float | None
    optimism: float | None
    need_items: int | None
    need_seeds: int | None
    need_both: bool
    versus: Mapping[str, Versus]
    compared: Compared
    variance: Variance
    warnings: tuple[str, ...]


def judge(
    run: RunDirectory,
    tests: Mapping[str, Mapping[int, SplitPredictions]],
    finals: Mapping[str, Sequence[TrialResult]],
) -> Judgement:
    """Analyse the test predictions of a study.

    Args:
        run: the run directory.
        tests: row label -> seed -> predictions on test, of the seeds that finished.
        finals: row label -> its final trials.

    Returns:
        The judgement; the same predictions always give the same one.
    """
    protocol = run.study.protocol
    analysis = analyse(
        study_scores(run, tests, finals),
        reference=protocol.reference,
        margin=protocol.margin,
        prefer=protocol.prefer,
        costs={label: _cost(run, label, trials) for label, trials in finals.items()},
        rng=numpy_rng(0, "statistics"),
    )
    return _judgement(analysis, protocol.margin)


def study_scores(
    run: RunDirectory,
    tests: Mapping[str, Mapping[int, SplitPredictions]],
    finals: Mapping[str, Sequence[TrialResult]],
) -> StudyScores:
    """The predictions as the statistics take them: class indices or places of choices, or floats for regression.

    A test label that training lacks gets an index of its own after the others, which nothing ever predicts.
    """
    parts = [part for seeds in tests.values() for part in seeds.values()]
    if run.data.task == "token-classification":
        return _counted(span_counts, run, tests, finals)
    if run.data.task == "summarization":
        return _counted(rouge_of_items, run, tests, finals)
    if run.data.task == "coreference":
        return _counted(document_tallies, run, tests, finals)
    names = LETTERS if run.data.task == "multiple-choice" else run.data.label_names
    targets = parts[0].targets if parts else ()
    unseen = sorted({str(target) for target in targets} - set(names)) if names else []
    index = {name: place for place, name in enumerate((*names, *unseen))}
    num_items = run.data.splits["test"].rows

    def numbers(values: Sequence[str] | Sequence[float]) -> np.ndarray:
        if not names:
            return np.asarray(values, dtype=np.float64)
        return np.array([index[str(value)] for value in values], dtype=np.int64)

    return StudyScores(
        metric=run.data.metric,
        targets=numbers(targets) if parts else np.zeros(num_items, dtype=np.int64),
        predictions={
            label: np.stack([numbers(seeds[seed].predictions) for seed in sorted(seeds)])
            if seeds
            else np.zeros((0, num_items))
            for label, seeds in tests.items()
        },
        seeds={label: tuple(sorted(seeds)) for label, seeds in tests.items()},
        failed={label: len(trials) - len(aggregate.done(trials)) for label, trials in finals.items()},
        baselines=frozenset(plan.label for plan in run.study.rows if plan.method in aggregate.BASELINES),
        positive=index.get(_positive(run.data.metric) or run.data.positive_class or "", 1),
    )


def _counted(
    count: Callable[[str, SplitPredictions], np.ndarray],
    run: RunDirectory,
    tests: Mapping[str, Mapping[int, SplitPredictions]],
    finals: Mapping[str, Sequence[TrialResult]],
) -> StudyScores:
    """What is known of every sentence or document by itself: counts of what is true, found and right, or a score."""
    metric, num_items = run.data.metric, run.data.splits["test"].rows
    every = {label: [seeds[seed] for seed in sorted(seeds)] for label, seeds in tests.items()}
    return StudyScores(
        metric=metric,
        targets=np.arange(num_items),
        predictions={
            label: np.stack([count(metric, part) for part in parts]) if parts else np.zeros((0, num_items))
            for label, parts in every.items()
        },
        seeds={label: tuple(sorted(seeds)) for label, seeds in tests.items()},
        failed={label: len(trials) - len(aggregate.done(trials)) for label, trials in finals.items()},
        baselines=frozenset(plan.label for plan in run.study.rows if plan.method in aggregate.BASELINES),
    )


def _positive(metric: str) -> str | None:
    """The class that a headline metric such as "f1/spam" is about."""
    return metric.removeprefix("f1/") if metric.startswith("f1/") else None


def _cost(run: RunDirectory, label: str, trials: Sequence[TrialResult]) -> MethodCost:
    finished = aggregate.done(trials)
    if not finished:
        return MethodCost()
    params = finished[0].params
    cost = run.costs.rows.get(label, RowCost()) if run.costs else RowCost()
    return MethodCost(
        adapter_params=params.adapter + params.base_trained,
        adapter_bytes=finished[0].adapter_bytes,
        step_seconds=cost.step_seconds,
    )


def _judgement(analysis: Analysis, margin: float) -> Judgement:
    advice, parts = analysis.recommendation, analysis.components
    return Judgement(
        intervals={m.label: (m.low, m.high) for m in analysis.methods if m.low is not None and m.high is not None},
        losses={m.label: m.loss for m in analysis.methods if m.loss is not None},
        best=advice.leader,
        best_set=analysis.best_set,
        eligible=tuple(m.label for m in analysis.methods if _eligible(m, margin)),
        recommended=advice.label,
        decidable=advice.decidable,
        reason=advice.reason,
        loss=advice.loss,
        optimism=advice.optimism if advice.leader is not None else None,
        need_items=advice.need_items,
        need_seeds=advice.need_seeds,
        need_both=advice.need_both,
        versus={
            c.label: Versus(
                difference=c.difference,
                low=c.simultaneous_low,
                high=c.simultaneous_high,
                p=c.p,
                p_adjusted=c.p_adjusted,
            )
            for c in analysis.comparisons
        },
        compared=Compared(reference=analysis.reference, adjustment=analysis.adjustment, detectable=analysis.detectable),
        variance=Variance(
            seed_sd=parts.seed_sd,
            seed_dof=parts.seed_dof,
            item_sd=parts.item_sd,
            item_difference_sd=parts.item_difference_sd,
        )
        if parts
        else Variance(),
        warnings=analysis.warnings,
    )


def _eligible(method: MethodEstimate, margin: float) -> bool:
    return method.in_best_set and method.loss is not None and method.loss <= margin / 100
