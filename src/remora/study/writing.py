"""What a trained model writes on validation and test, scored and put in the form in which predictions are kept."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from remora.adapters.format import attached
from remora.adapters.generation import summaries_of
from remora.engine.trial import TrialOutcome
from remora.methods.registry import get_method
from remora.results.predictions import SplitPredictions
from remora.study.context import StudyContext
from remora.study.machine import compute_device
from remora.study.trials import PlannedTrial
from remora.tasks.summarization import Summarization, lead_summaries

Written = Mapping[str, list[str]]
"""Split -> the summary of every row."""


def write_summaries(context: StudyContext, trial: PlannedTrial, outcome: TrialOutcome) -> Written:
    """Summaries of the splits that a trial is evaluated on; none for tuning, which goes by the loss.

    Args:
        context: of a study of summaries.
        trial: as planned.
        outcome: of the engine.
    """
    if trial.purpose == "tuning" or outcome.status != "done":
        return {}
    assert context.summaries is not None, "the study asks for summaries"
    base = context.base_as(trial.quantization)
    own = attached(base, outcome, context.task, context.prompt)
    room = get_method(outcome.spec.method, outcome.spec.settings).num_virtual_tokens
    device = compute_device(context.config.engine)
    return {
        name: summaries_of(
            base, own, context.summaries, context.encoded(name, room).ids, context.config.generation, device
        )
        for name in outcome.spec.splits
    }


def lead_baseline(context: StudyContext) -> Written:
    """The first sentences of every document of validation and test."""
    splits = context.dataset.splits
    return {name: lead_summaries(splits["train"], splits[name]) for name in ("validation", "test")}


def scored(context: StudyContext, outcome: TrialOutcome, summaries: Written) -> TrialOutcome:
    """The outcome with ROUGE of what was written before the other metrics."""
    rouge = rouge_of(context, summaries)
    return replace(outcome, metrics={**outcome.metrics, **{n: {**rouge[n], **outcome.metrics[n]} for n in rouge}})


def rouge_of(context: StudyContext, summaries: Written) -> dict[str, dict[str, float]]:
    """Metrics by split."""
    task, splits = _task(context), context.dataset.splits
    return {name: task.score(texts, splits[name].labels) for name, texts in summaries.items()}


def as_predictions(context: StudyContext, summaries: Written) -> dict[str, SplitPredictions]:
    """Summaries with their references and the ROUGE of each row."""
    found: dict[str, SplitPredictions] = {}
    for name, texts in summaries.items():
        labels = context.dataset.splits[name].labels
        found[name] = SplitPredictions(
            targets=tuple(map(str, labels)),
            predictions=tuple(texts),
            scores=np.asarray(_task(context).item_scores(texts, labels)),
        )
    return found


def _task(context: StudyContext) -> Summarization:
    assert isinstance(context.task, Summarization)
    return context.task
