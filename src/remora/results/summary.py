"""From the files of a run directory to its summary, `results.json`; nothing is trained and nothing else is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from remora.errors import DataError
from remora.results import aggregate
from remora.results.coref_detail import coref_detail
from remora.results.detail import class_detail, is_constant, scatter_detail
from remora.results.judgement import Judgement, judge
from remora.results.predictions import SplitPredictions, read_predictions
from remora.results.schema import ParamCount, RowCost, RowPlan, TrialResult
from remora.results.span_detail import span_detail
from remora.results.store import RunDirectory, read_run, write_record
from remora.results.summary_detail import summary_detail
from remora.results.summary_schema import Detail, Row, StudySummary
from remora.results.verdict import recommend
from remora.results.warnings import collect_warnings

SUMMARY_FILE = "results.json"
LOWER_IS_BETTER = frozenset({"mse", "rmse", "mae"})

Tests = Mapping[str, Mapping[int, SplitPredictions]]


def summarise(run_dir: Path) -> StudySummary:
    """Summarise a run directory and write ``results.json`` into it; the same files give the same bytes.

    Args:
        run_dir: a run directory, finished or not.

    Returns:
        The summary.

    Raises:
        DataError: a file is missing or does not fit, or no final trial has finished yet.
    """
    run = read_run(run_dir)
    summary = summary_of(run)
    write_record(run_dir / SUMMARY_FILE, summary)
    return summary


def summary_of(run: RunDirectory) -> StudySummary:
    """The summary of a run directory that has been read."""
    plans = run.study.rows
    finals = {plan.label: aggregate.final_trials(run, plan.label) for plan in plans}
    if not any(finals.values()):
        raise DataError(f"{run.path} has no finished final trial yet", "let the study run on: repeat its command")
    tests = {label: read_tests(run, trials) for label, trials in finals.items()}
    judged = judge(run, tests, finals)
    rows = _ranked([_row(run, plan, finals[plan.label], judged) for plan in plans], run.data.metric)
    tuned = [tuning for plan in plans if (tuning := aggregate.tuning(run, plan)) is not None]
    curves = {plan.label: aggregate.curve(run, plan) for plan in plans}
    variants = {plan.label: aggregate.variants(run, plan) for plan in plans}
    constant = {
        label: sum(is_constant(part, run.data.task) for part in seeds.values()) for label, seeds in tests.items()
    }
    recommendation = recommend(judged, rows, run.data, run.study.protocol)
    order = [row.label for row in rows]
    return StudySummary(
        name=run.study.name,
        kind=run.study.kind,
        fingerprint=run.study.fingerprint,
        command=run.study.command,
        created=run.study.created,
        model=run.study.model,
        data=run.data,
        protocol=run.study.protocol,
        machine=run.costs.machine if run.costs else None,
        versions=run.study.versions,
        study_seconds=run.costs.study_seconds if run.costs else None,
        trials=aggregate.trial_counts(run),
        variance=judged.variance,
        compared=judged.compared,
        recommendation=recommendation,
        rows=rows,
        tuning=tuple(sorted(tuned, key=lambda tuning: order.index(tuning.label))),
        curves=tuple(curve for label in order if (curve := curves[label]) is not None),
        variants=tuple(forms for label in order if (forms := variants[label]) is not None),
        detail=_detail(run, recommendation.label, judged.best, tests),
        warnings=collect_warnings(run, rows, finals, tuned, constant, judged.warnings),
    )


def read_tests(run: RunDirectory, trials: Sequence[TrialResult]) -> dict[int, SplitPredictions]:
    """Seed -> test predictions of the finished trials of a row.

    Raises:
        DataError: a finished trial has no test predictions, or not one for every test row.
    """
    found: dict[int, SplitPredictions] = {}
    for trial in aggregate.done(trials):
        part = read_predictions(run.path, trial.trial).get("test")
        expected = run.data.splits["test"].rows
        if part is None or len(part.targets) != expected:
            have = 0 if part is None else len(part.targets)
            raise DataError(
                f"trial {trial.trial} has predictions for {have} of {expected} test rows",
                "delete the trial's folder and repeat the study's command",
            )
        found[trial.seed] = part
    return found


def _row(run: RunDirectory, plan: RowPlan, trials: Sequence[TrialResult], judged: Judgement) -> Row:
    finished = aggregate.done(trials)
    metrics = aggregate.test_means(trials, run.data.metrics)
    sample = (finished or trials)[0] if trials else None
    own_role = aggregate.role(plan, run.study.protocol.reference)
    # Nothing is trained in a baseline, though the untrained model has a head.
    params = sample.params if sample and own_role != "baseline" else ParamCount(adapter=0, head=0)
    cost = run.costs.rows.get(plan.label, RowCost()) if run.costs else RowCost()
    low, high = judged.intervals.get(plan.label, (None, None))
    steps = max((trial.steps for trial in finished), default=0)
    sizes = [trial.adapter_bytes for trial in finished if trial.adapter_bytes is not None]
    return Row(
        method=plan.method,
        label=plan.label,
        family=plan.family,
        role=own_role,
        note=plan.note,
        metric=run.data.metric,
        mean=metrics.get(run.data.metric),
        low=low,
        high=high,
        seeds=len(finished),
        failed=len(trials) - len(finished),
        adapter_params=params.adapter,
        head_params=params.head,
        base_params=params.base_trained,
        step_seconds=cost.step_seconds,
        examples_per_second=cost.examples_per_second,
        peak_bytes=cost.peak_bytes,
        memory=cost.breakdown,
        memory_trace=cost.memory_trace,
        adapter_bytes=max(sizes, default=None),
        steps=steps,
        train_seconds=steps * cost.step_seconds if steps and cost.step_seconds else None,
        hyperparameters=sample.hyperparameters if sample else plan.settings,
        adapter=aggregate.best_adapter(run, trials, run.data.metric),
        metrics=metrics,
        per_seed=aggregate.seed_outcomes(trials),
        in_best_set=plan.label in judged.best_set,
        loss=judged.losses.get(plan.label),
        versus_reference=judged.versus.get(plan.label),
        undertrained=sum(trial.undertrained for trial in finished),
    )


def _ranked(rows: Sequence[Row], metric: str) -> tuple[Row, ...]:
    """Best first; rows without a result last; ties stay in the order asked for."""
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    return tuple(sorted(rows, key=lambda row: (row.mean is None, sign * (row.mean or 0.0))))


def _untrained(run: RunDirectory, tests: Tests) -> SplitPredictions | None:
    """What the model as it is answers, where it was asked."""
    labels = [plan.label for plan in run.study.rows if plan.method == "untrained"]
    return next((part for label in labels for part in tests[label].values()), None)


def _detail(run: RunDirectory, recommended: str | None, best: str | None, tests: Tests) -> Detail | None:
    label = recommended or best
    if label is None or not tests[label]:
        return None
    why = "the recommended method" if label == recommended else "the method with the best mean"
    seeds = list(tests[label].values())
    if run.data.task == "multiple-choice":
        return None  # places of choices are no classes
    if run.data.task == "regression":
        return scatter_detail(label, why, seeds)
    if run.data.task == "token-classification":
        return span_detail(label, why, seeds, run.data.label_names)
    if run.data.task == "summarization":
        return summary_detail(label, why, run.data.documents, tests[label], _untrained(run, tests))
    if run.data.task == "coreference":
        return coref_detail(label, why, seeds)
    return class_detail(label, why, seeds, run.data.label_names)
