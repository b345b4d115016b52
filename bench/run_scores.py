"""Test predictions of a run directory as the arrays the statistics work on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from remora.results.predictions import read_predictions
from remora.results.schema import TrialResult
from remora.results.store import RunDirectory, read_run
from remora.study.statistics import StudyScores

BASELINES = ("majority", "untrained")


@dataclass(frozen=True, kw_only=True)
class RunScores:
    """One study.

    Args:
        name: of the data set.
        scores: what the statistics take.
        right: label -> (S, N) whether each item was answered right; empty for regression.
        twins: pairs of labels that are one method entered twice, with whether their hyperparameters agree.
    """

    name: str
    scores: StudyScores
    right: Mapping[str, NDArray[np.int64]]
    twins: tuple[tuple[str, str, bool], ...]


def read_scores(path: Path) -> RunScores:
    """Read the final and baseline trials of a study that finished.

    Args:
        path: a run directory.
    """
    run = read_run(path)
    classes = run.data.task == "classification"
    names: dict[str, int] = {name: place for place, name in enumerate(run.data.label_names)}
    predictions: dict[str, NDArray[np.generic]] = {}
    seeds: dict[str, tuple[int, ...]] = {}
    failed: dict[str, int] = {}
    first: dict[str, TrialResult] = {}
    baselines: set[str] = set()
    targets: NDArray[np.generic] = np.zeros(0)
    for plan in run.study.rows:
        trials = [*run.of(plan.label, "final"), *run.of(plan.label, "baseline")]
        done = [trial for trial in trials if trial.status == "done"]
        rows: list[NDArray[np.generic]] = []
        for trial in done:
            part = read_predictions(path, trial.trial)["test"]
            targets = _encode(part.targets, names) if classes else np.asarray(part.targets, dtype=np.float64)
            rows.append(_encode(part.predictions, names) if classes else np.asarray(part.predictions, np.float64))
        predictions[plan.label] = np.stack(rows) if rows else np.zeros((0, 0))
        seeds[plan.label] = tuple(trial.seed for trial in done)
        failed[plan.label] = len(trials) - len(done)
        if done:
            first[plan.label] = done[0]
        if plan.method in BASELINES:
            baselines.add(plan.label)
    named = run.data.metric.removeprefix("f1/") if run.data.metric.startswith("f1/") else run.data.positive_class
    positive = names.get(named or "", 1)
    scores = StudyScores(
        metric=run.data.metric,
        targets=targets,
        predictions=predictions,
        seeds=seeds,
        failed=failed,
        baselines=frozenset(baselines),
        positive=positive,
    )
    right = {label: (rows == targets).astype(np.int64) for label, rows in predictions.items() if len(rows) and classes}
    return RunScores(name=run.data.name, scores=scores, right=right, twins=_twins(run, first))


def _twins(run: RunDirectory, first: Mapping[str, TrialResult]) -> tuple[tuple[str, str, bool], ...]:
    """Rows of one method and one set of settings in different streams."""
    found: list[tuple[str, str, bool]] = []
    labels = [plan.label for plan in run.study.rows if plan.label in first]
    settings = {plan.label: plan.settings for plan in run.study.rows}
    for place, one in enumerate(labels):
        for other in labels[place + 1 :]:
            a, b = first[one], first[other]
            if a.method == b.method and a.stream != b.stream and settings[one] == settings[other]:
                found.append((one, other, a.hyperparameters == b.hyperparameters))
    return tuple(found)


def _encode(values: tuple[str, ...] | tuple[float, ...], names: dict[str, int]) -> NDArray[np.int64]:
    """Class indices; a label that training lacks gets the next free index."""
    return np.array([names.setdefault(str(value), len(names)) for value in values], dtype=np.int64)
