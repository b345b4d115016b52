"""Writes what a trial gave into a folder of its own, which then takes its place in the run directory whole.

The result is the commit mark. Where two processes trained one trial, since the first was taken for dead, the one that
comes later finds the trial committed and leaves it.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remora.adapters.format import AdapterInfo, save_adapter
from remora.engine.trial import TrialOutcome
from remora.methods.registry import get_method
from remora.paths import flush
from remora.results.predictions import SplitPredictions, write_predictions
from remora.results.schema import CurvePoint, GradNorm, Pack, ParamCount, TrialResult, finite
from remora.results.store import is_finished, trial_dir, write_atomic, write_result
from remora.study.context import StudyContext
from remora.study.halving import rung_record
from remora.study.history import now
from remora.study.rows import MAJORITY
from remora.study.trials import PlannedTrial
from remora.study.writing import as_predictions, lead_baseline, rouge_of, scored, write_summaries

_OUTCOMES = "outcomes"


def record_outcome(
    run_dir: Path,
    context: StudyContext,
    trial: PlannedTrial,
    outcome: TrialOutcome,
    pack: Pack,
    history: Sequence[Mapping[str, Any]],
    aside: Path,
    check: Callable[[], None] = lambda: None,
) -> TrialResult:
    """Write events, predictions, adapter and result of a finished, stopped or diverged trial.

    Args:
        run_dir: the run directory.
        context: of the study.
        trial: as planned.
        outcome: of the engine.
        pack: it was trained in.
        history: what happened, one plain object per event.
        aside: a folder on the same disk in which everything is written first.
        check: called before anything is committed; raises where this process may not.
    """
    folder = trial_dir(aside, trial.spec.id)
    summaries = write_summaries(context, trial, outcome) if context.task.generates else {}
    outcome = scored(context, outcome, summaries) if summaries else outcome
    ended = {"time": now(), "event": outcome.status, "step": outcome.step, "error": outcome.error}
    lines = [json.dumps(event) for event in (*history, ended)]
    write_atomic(folder / "events.jsonl", ("\n".join(lines) + "\n").encode())
    if summaries:
        write_predictions(aside, trial.spec.id, as_predictions(context, summaries))
    elif outcome.logits and not context.task.generates:
        splits = {name: _predictions(context, name, logits) for name, logits in outcome.logits.items()}
        write_predictions(aside, trial.spec.id, splits)
    adapter_bytes = None
    if trial.purpose == "final" and outcome.status == "done":
        adapter_bytes = save_adapter(
            folder / "adapter", context.base_as(trial.quantization), outcome, _adapter_info(context, trial, outcome)
        )
    result = TrialResult(
        trial=trial.spec.id,
        purpose=trial.purpose,
        method="untrained" if trial.purpose == "baseline" else trial.spec.method,
        label=trial.label,
        family=trial.family,
        hyperparameters=dict(trial.hyperparameters),
        seed=trial.spec.seed,
        stream=trial.spec.stream,
        status=outcome.status,
        error=outcome.error,
        metrics={split: dict(values) for split, values in outcome.metrics.items()},
        variants={
            name: {split: dict(values) for split, values in scores.items()} for name, scores in outcome.variants.items()
        },
        losses={name: finite(value) for name, value in outcome.losses.items()},
        curve=tuple(
            CurvePoint(
                step=point.step,
                epoch=point.epoch,
                train_loss=finite(point.train_loss),
                validation_loss=finite(point.validation_loss),
                validation=dict(point.validation or {}),
            )
            for point in outcome.curve
        ),
        rungs=tuple(rung_record(rung) for rung in outcome.rungs),
        params=ParamCount(**_params(trial, outcome)),
        steps=outcome.step,
        examples=outcome.examples,
        undertrained=outcome.undertrained,
        grad_norm=GradNorm(**outcome.grad_norm) if outcome.grad_norm else None,
        truncated=context.truncated(get_method(trial.spec.method, trial.spec.settings).num_virtual_tokens),
        wall_seconds=outcome.train_seconds,
        pack=pack.model_copy(update={"lanes": outcome.lanes, "tokens_per_pass": outcome.tokens_per_pass}),
        adapter_bytes=adapter_bytes,
    )
    write_result(aside, result)
    check()
    _commit(folder, run_dir, trial.spec.id)
    return result


def fresh_outcomes(folder: Path) -> Path:
    """A name for a folder where outcomes of a pack are written first; what others left there is removed.

    Args:
        folder: of the pack's checkpoints.
    """
    shutil.rmtree(folder / _OUTCOMES, ignore_errors=True)
    return folder / _OUTCOMES / secrets.token_hex(6)


def _commit(folder: Path, run_dir: Path, trial: str) -> None:
    """Give a trial's folder its place, where none is that is finished."""
    place = trial_dir(run_dir, trial)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and not is_finished(run_dir, trial):
        shutil.rmtree(place)
    try:
        os.rename(folder, place)
    except OSError:
        if not is_finished(run_dir, trial):
            raise
        shutil.rmtree(folder)
    flush(place.parent)


def record_failure(run_dir: Path, trial: PlannedTrial, error: str) -> TrialResult:
    """Write the result of a trial whose process died or raised; a resumed run tries it again."""
    result = TrialResult(
        trial=trial.spec.id,
        purpose=trial.purpose,
        method=trial.spec.method,
        label=trial.label,
        family=trial.family,
        hyperparameters=dict(trial.hyperparameters),
        seed=trial.spec.seed,
        stream=trial.spec.stream,
        status="failed",
        error=error,
        params=ParamCount(adapter=0, head=0),
    )
    write_result(run_dir, result)
    return result


def record_majority(run_dir: Path, context: StudyContext, trial: str, label: str) -> TrialResult:
    """The baseline that always answers the most frequent training label (the mean of the training values).

    Of summaries it is the beginning of each document.
    """
    dataset, task = context.dataset, context.task
    metrics: dict[str, dict[str, float]] = {}
    predictions: dict[str, SplitPredictions] = {}
    if task.generates:
        summaries = lead_baseline(context)
        metrics, predictions = rouge_of(context, summaries), as_predictions(context, summaries)
    else:
        train = task.targets(dataset.splits["train"])
        for name in ("validation", "test"):
            targets = task.targets(dataset.splits[name])
            logits = task.constant(train, targets)
            metrics[name] = task.metrics(targets, logits)
            predictions[name] = _predictions(context, name, logits)
    write_predictions(run_dir, trial, predictions)
    result = TrialResult(
        trial=trial,
        purpose="baseline",
        method=MAJORITY,
        label=label,
        family="baseline",
        hyperparameters={},
        seed=0,
        status="done",
        metrics=metrics,
        params=ParamCount(adapter=0, head=0),
    )
    write_result(run_dir, result)
    return result


def _predictions(context: StudyContext, name: str, logits: np.ndarray) -> SplitPredictions:
    """What logits of a split say, in the terms of the data."""
    split = context.dataset.splits[name]
    return SplitPredictions(
        targets=tuple(split.labels),  # type: ignore[arg-type]
        predictions=tuple(context.task.decode(logits, split.texts)),  # type: ignore[arg-type]
        scores=np.asarray(logits if context.task.scores_answers else logits[:, 0, :0], dtype=np.float32),
    )


def _params(trial: PlannedTrial, outcome: TrialOutcome) -> dict[str, int]:
    return {"adapter": 0, "head": 0} if trial.purpose == "baseline" else dict(outcome.num_params)


def _adapter_info(context: StudyContext, trial: PlannedTrial, outcome: TrialOutcome) -> AdapterInfo:
    dataset = context.dataset
    return AdapterInfo(
        label=trial.label,
        task=dataset.task,
        label_names=dataset.label_names,
        num_texts=len(dataset.text_columns),
        text_columns=dataset.text_columns,
        data_name=dataset.name,
        data_hash=dataset.hash,
        metric=dataset.metric,
        metrics={split: dict(values) for split, values in outcome.metrics.items()},
        max_length=context.max_length,
        hyperparameters=dict(trial.hyperparameters),
        seed=trial.spec.seed,
        stream=trial.spec.stream,
        trial=trial.spec.id,
        mentions=dataset.mentions,
        prompt=context.prompt,
        generation=context.config.generation if context.task.generates else None,
    )
