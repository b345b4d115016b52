"""Which learning rate a row takes: the one best on validation, never on test."""

import math
from collections.abc import Sequence

from remora.results.schema import TrialResult

_TINY = 100
"""With fewer validation rows than this the metric is too coarse, and validation loss decides."""


def choose_lr(trials: Sequence[TrialResult], metric: str, num_validation: int) -> float | None:
    """The learning rate of the best tuning trial.

    Args:
        trials: all tuning trials of a row.
        metric: headline metric, higher is better; ties are broken by validation loss, then by the smaller rate.
        num_validation: rows of the validation split.

    Returns:
        None when no trial finished.
    """
    done = [trial for trial in trials if trial.status == "done"]
    if not done:
        return None

    def merit(trial: TrialResult) -> tuple[float, float, float]:
        score = trial.metrics["validation"][metric]
        loss = trial.losses.get("validation")
        loss = math.inf if loss is None else loss
        rate = trial.hyperparameters["lr"]
        assert isinstance(rate, float)
        return (-loss, score, -rate) if num_validation < _TINY else (score, -loss, -rate)

    rate = max(done, key=merit).hyperparameters["lr"]
    assert isinstance(rate, float)
    return rate
