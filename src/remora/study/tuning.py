"""Which learning rate a row takes: the one best on validation, never on test."""

from collections.abc import Sequence

from remora.engine.rungs import merit
from remora.results.schema import TrialResult


def choose_lr(trials: Sequence[TrialResult], metric: str, num_validation: int) -> float | None:
    """The learning rate of the best tuning trial.

    Args:
        trials: all tuning trials of a row.
        metric: headline metric, higher is better; ties are broken by validation loss, then by the smaller rate.
        num_validation: rows of the validation split.

    Returns:
        None when no trial was trained to its end; one that was stopped on the way is never chosen.
    """
    done = [trial for trial in trials if trial.status == "done"]
    if not done:
        return None

    def key(trial: TrialResult) -> tuple[float, float, float]:
        rate = trial.hyperparameters["lr"]
        assert isinstance(rate, float)
        return *merit(trial.metrics["validation"][metric], trial.losses.get("validation"), num_validation), -rate

    rate = max(done, key=key).hyperparameters["lr"]
    assert isinstance(rate, float)
    return rate
