"""From single trials to rows: means over seeds, tuning by learning rate, learning curves. No statistics here."""

from collections.abc import Iterable, Mapping, Sequence

from remora.results.schema import RowPlan, Rung, Setting, TrialResult
from remora.results.store import RunDirectory
from remora.results.summary_schema import (
    Curve,
    EpochMean,
    Role,
    SeedOutcome,
    TrialCounts,
    Tuning,
    TuningTrial,
    Variant,
    Variants,
)

# Rows that nobody would choose: they show what can be had without training.
BASELINES = frozenset({"majority", "untrained"})


def mean(values: Iterable[float]) -> float | None:
    """The mean, or None of nothing."""
    found = list(values)
    return sum(found) / len(found) if found else None


def present(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def final_trials(run: RunDirectory, label: str) -> tuple[TrialResult, ...]:
    """The trials that are evaluated on test, by seed."""
    found = (*run.of(label, "final"), *run.of(label, "baseline"))
    return tuple(sorted(found, key=lambda trial: (trial.seed, trial.trial)))


def done(trials: Iterable[TrialResult]) -> tuple[TrialResult, ...]:
    """The trials that finished."""
    return tuple(trial for trial in trials if trial.status == "done")


def role(plan: RowPlan, reference: str | None) -> Role:
    """What a row is for: a method to choose, the reference, or a baseline nobody would choose."""
    if plan.label == reference:
        return "reference"
    return "baseline" if plan.method in BASELINES else "method"


def seed_outcomes(trials: Sequence[TrialResult]) -> tuple[SeedOutcome, ...]:
    """What each final trial of a row came to."""
    return tuple(
        SeedOutcome(
            trial=trial.trial,
            seed=trial.seed,
            status=trial.status,
            test=trial.metrics.get("test", {}),
            validation=trial.metrics.get("validation", {}),
            train_loss=trial.losses.get("train"),
            undertrained=trial.undertrained,
        )
        for trial in trials
    )


def test_means(trials: Sequence[TrialResult], metrics: Sequence[str]) -> dict[str, float]:
    """Metric -> mean over the finished seeds on test; per-class and other extra metrics follow the study's own."""
    tests = [trial.metrics.get("test", {}) for trial in done(trials)]
    names = [*metrics, *sorted({name for test in tests for name in test} - set(metrics))]
    found = {name: mean(test[name] for test in tests if name in test) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def best_adapter(run: RunDirectory, trials: Sequence[TrialResult], metric: str) -> str | None:
    """The adapter of the finished seed with the best validation score (test chooses nothing), the first on a tie."""
    having = [trial for trial in done(trials) if run.adapter(trial)]
    if not having:
        return None
    top = max(having, key=lambda trial: trial.metrics.get("validation", {}).get(metric, float("-inf")))
    return run.adapter(top)


def stopped_at(trial: TrialResult) -> Rung | None:
    """The rung at which halving stopped a trial; None for every other trial."""
    return trial.rungs[-1] if trial.status == "stopped" else None


def tuning(run: RunDirectory, plan: RowPlan) -> Tuning | None:
    """The tuning trials of a row by learning rate, with the one that its final trials use; None if it was not tuned."""
    trials = run.of(plan.label, "tuning")
    if not trials:
        return None
    finals = final_trials(run, plan.label)
    used = finals[0].hyperparameters if finals else {}
    rows = [_tuning_trial(trial, run.data.validation_metric, used) for trial in trials]
    rows.sort(key=lambda row: row.lr)
    tried = sorted({row.lr for row in rows})
    chosen = [row.lr for row in rows if row.chosen]
    edge = ""
    if chosen and len(tried) > 2:  # of two rates each is an edge
        edge = "lowest" if chosen[0] == tried[0] else "highest" if chosen[0] == tried[-1] else ""
    return Tuning(
        label=plan.label,
        trials=tuple(rows),
        edge=edge,
        steps=sum(trial.steps for trial in trials),
        steps_saved=sum(rung.num_steps - rung.step for rung in map(stopped_at, trials) if rung is not None),
    )


def _tuning_trial(trial: TrialResult, metric: str, used: Mapping[str, Setting]) -> TuningTrial:
    rung = stopped_at(trial)
    return TuningTrial(
        lr=_lr(trial) or 0.0,
        hyperparameters=trial.hyperparameters,
        status=trial.status,
        score=rung.score if rung else trial.metrics.get("validation", {}).get(metric),
        loss=rung.loss if rung else trial.losses.get("validation"),
        chosen=trial.hyperparameters == used,
        stopped_at=rung.step / rung.num_steps if rung else None,
    )


def curve(run: RunDirectory, plan: RowPlan) -> Curve | None:
    """The learning curve of a row, means over its finished seeds; None where nothing was trained."""
    curves = [trial.curve for trial in done(final_trials(run, plan.label)) if trial.curve]
    if not curves:
        return None
    points: list[EpochMean] = []
    metric = run.data.validation_metric
    for at in zip(*curves, strict=False):
        scores = [point.validation[metric] for point in at if metric in point.validation]
        points.append(
            EpochMean(
                epoch=at[0].epoch,
                train_loss=mean(present(point.train_loss for point in at)),
                validation_loss=mean(present(point.validation_loss for point in at)),
                score=mean(scores),
                score_low=min(scores, default=None),
                score_high=max(scores, default=None),
            )
        )
    return Curve(label=plan.label, points=tuple(points))


def variants(run: RunDirectory, plan: RowPlan) -> Variants | None:
    """The other forms that a row's trainings gave, means over its finished seeds; None where there are none."""
    trials = [trial for trial in done(final_trials(run, plan.label)) if trial.variants]
    if not trials:
        return None
    forms: list[Variant] = []
    for name in trials[0].variants:
        scores = {
            split: present(trial.variants[name].get(split, {}).get(run.data.validation_metric) for trial in trials)
            for split in ("validation", "test")
        }
        forms.append(
            Variant(
                name=name,
                validation=mean(scores["validation"]),
                test=mean(scores["test"]),
                test_low=min(scores["test"], default=None),
                test_high=max(scores["test"], default=None),
            )
        )
    return Variants(label=plan.label, forms=tuple(forms))


def trial_counts(run: RunDirectory) -> TrialCounts:
    """How many trials finished, by purpose, and how many did not."""
    finished = done(run.trials)
    return TrialCounts(
        tuning=sum(trial.purpose == "tuning" for trial in finished),
        final=sum(trial.purpose == "final" for trial in finished),
        baseline=sum(trial.purpose == "baseline" for trial in finished),
        stopped=sum(trial.status == "stopped" for trial in run.trials),
        diverged=sum(trial.status == "diverged" for trial in run.trials),
        failed=sum(trial.status == "failed" for trial in run.trials),
        unfinished=len(run.unfinished),
    )


def _lr(trial: TrialResult) -> float | None:
    value = trial.hyperparameters.get("lr")
    return float(value) if isinstance(value, int | float) else None
