"""The names of metrics and which of them a data set reports, headline first. The functions are in `remora.tasks`."""

from collections.abc import Sequence
from difflib import get_close_matches

from remora.errors import DataError

CLASSIFICATION = ("accuracy", "macro_f1", "weighted_f1", "matthews", "f1")
"""``f1`` is that of the positive class; besides these, every class has ``f1/CLASS``."""
REGRESSION = ("pearson", "spearman", "mse")
MULTIPLE_CHOICE = ("accuracy",)
TOKEN_CLASSIFICATION = ("span_f1", "span_precision", "span_recall", "token_accuracy")
"""Of spans as wholes, and of words; besides these, every type of span has ``f1/TYPE``."""
COREFERENCE = ("conll_f1", "muc_f1", "b_cubed_f1", "ceaf_e_f1", "mention_f1")
"""``conll_f1`` is the mean of the three behind it."""
SUMMARIZATION = ("rougeL", "rouge1", "rouge2")
LOG_LIKELIHOOD = "log_likelihood"
"""Of the tokens of summaries, the mean: what validation during training is judged by, as it needs no generation."""


_USUAL: dict[str, tuple[str, ...]] = {
    "classification": CLASSIFICATION,
    "regression": REGRESSION,
    "multiple-choice": MULTIPLE_CHOICE,
    "token-classification": TOKEN_CLASSIFICATION,
    "coreference": COREFERENCE,
    "prompt-classification": CLASSIFICATION,
    "summarization": SUMMARIZATION,
}


def validation_metric(task: str, headline: str) -> str:
    """The metric on validation that chooses hyperparameters and checkpoints: the headline metric where it is cheap.

    Args:
        task: its kind.
        headline: the metric that counts on test.
    """
    return LOG_LIKELIHOOD if task == "summarization" else headline


def choose_metrics(
    *,
    task: str,
    wanted: str | None,
    card: Sequence[str],
    label_names: Sequence[str],
    positive: str | None,
) -> tuple[str, ...]:
    """All metrics of a data set, headline first.

    Args:
        task: its kind.
        wanted: the headline metric the user set, if any.
        card: the card's metrics, headline first; empty without a card.
        label_names: the classes.
        positive: the class of ``f1``; None leaves ``f1`` out.

    Returns:
        Names without repeats: the wanted one, the card's, the usual ones.

    Raises:
        DataError: the wanted metric does not exist for this task.
    """
    usual = _USUAL[task]
    if positive is None:
        usual = tuple(name for name in usual if name != "f1")
    if wanted is not None and wanted not in usual and wanted not in {f"f1/{name}" for name in label_names}:
        if wanted == "f1":
            raise DataError(
                "data.metric=f1: which class is the positive one is not known",
                f"name it: {' or '.join(f'data.metric=f1/{name}' for name in label_names[:4])}, or use macro_f1",
            )
        near = get_close_matches(wanted, usual, n=1)
        raise DataError(
            f"data.metric={wanted}: no such metric for {task}",
            f"did you mean {near[0]}?" if near else f"use one of {', '.join(usual)}",
        )
    return tuple(dict.fromkeys((*((wanted,) if wanted else ()), *(name for name in card if name in usual), *usual)))
