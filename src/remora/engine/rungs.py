"""Successive halving: trials are compared at equal steps; the better half trains on, the others stop.

Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
arXiv:1502.07943, section 3; Karnin, Koren and Somekh 2013, "Almost Optimal Exploration in Multi-Armed Bandits"
(sequential halving); Li et al. 2018, "Hyperband", arXiv:1603.06560, section 2, with eta = 2.

A decision depends on the trials' validation scores at one step and on nothing else: not on who arrived first, nor on
what trained beside them. The learning rate follows the schedule of the whole training, so a trial that goes on is the
trial it would have been without halving. Nothing here knows of tensors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_ETA = 2
_SHARES = (0.25, 0.5)
"""Of the steps. Never before a quarter: warm-up and the first large steps say little about where a trial ends."""
_TINY = 100
"""With fewer validation rows than this the metric is too coarse, and validation loss decides."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One trial at one rung.

    Args:
        step: at which the trials were compared.
        num_steps: of the whole training.
        score: the trial's headline metric on validation.
        loss: its validation loss.
        went_on: trial -> score of those that trained on, this one among them unless it was stopped.
    """

    step: int
    num_steps: int
    score: float
    loss: float
    went_on: Mapping[str, float]


def merit(score: float, loss: float | None, num_validation: int) -> tuple[float, float]:
    """What trials are ordered by, the larger the better: headline metric, then validation loss.

    Args:
        score: headline metric on validation, higher is better.
        loss: on validation; None or a number that is not finite counts as the worst.
        num_validation: rows of the validation split; when they are few, the loss comes first.
    """
    gain = -loss if loss is not None and math.isfinite(loss) else -math.inf
    score = score if math.isfinite(score) else -math.inf
    return (gain, score) if num_validation < _TINY else (score, gain)


def rung_shares(num_trials: int) -> tuple[float, ...]:
    """Shares of the steps at which so many trials halve; none for a trial that has no rival."""
    halvings = (max(num_trials, 1) - 1).bit_length()
    return _SHARES[max(0, len(_SHARES) - halvings) :]


def rung_steps(num_trials: int, num_steps: int) -> tuple[int, ...]:
    """The steps after which so many trials of `num_steps` steps are compared, rounded up and each once."""
    steps = {math.ceil(num_steps * share) for share in rung_shares(num_trials)}
    return tuple(sorted(step for step in steps if step < num_steps))


def num_kept(num_trials: int, rung: int) -> int:
    """How many of `num_trials` go on from a rung, counted from 0: half of those before, rounded up."""
    return math.ceil(num_trials / _ETA ** (rung + 1))


def trained_share(num_trials: int) -> float:
    """The part of all steps that halving leaves of so many trials."""
    shares = (0.0, *rung_shares(num_trials), 1.0)
    trials = (num_trials, *(num_kept(num_trials, rung) for rung in range(len(shares) - 2)))
    taken = sum(left * (stop - start) for left, start, stop in zip(trials, shares[:-1], shares[1:], strict=True))
    return taken / num_trials


class Halving:
    """Decides which of some rival trials stop.

    A trial that left without arriving, because it diverged or failed, counts as the worst: it takes none of the places
    of those that go on. A decision that finished trials have recorded is taken over, so that a study that was
    interrupted goes on as it had begun.

    Args:
        trials: ids of all rivals; of equal ones the first goes on.
        num_validation: rows of the validation split.
        finished: rivals that will not arrive, with the rungs they have recorded.
    """

    def __init__(
        self, trials: Sequence[str], num_validation: int, finished: Mapping[str, Sequence[Rung]] | None = None
    ) -> None:
        finished = finished or {}
        self.running = tuple(trial for trial in trials if trial not in finished)
        self._num_trials = len(trials)
        self._num_validation = num_validation
        self._recorded = {rung.step: rung.went_on for rungs in finished.values() for rung in rungs}
        self._arrived: dict[str, Rung] = {}

    def saved(self) -> dict[str, Any]:
        """Who still runs and who waits, as plain values."""
        return {"running": self.running, "arrived": {trial: asdict(rung) for trial, rung in self._arrived.items()}}

    def take_up(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` gave."""
        self.running = tuple(saved["running"])
        self._arrived = {trial: Rung(**rung) for trial, rung in saved["arrived"].items()}

    def due(self, step: int, num_steps: int) -> bool:
        """Whether a trial that has taken `step` of its steps must wait for its rivals."""
        return step in rung_steps(self._num_trials, num_steps)

    def arrive(self, trial: str, *, step: int, num_steps: int, score: float, loss: float) -> None:
        """A trial has reached a rung."""
        assert trial in self.running
        assert trial not in self._arrived
        self._arrived[trial] = Rung(step=step, num_steps=num_steps, score=score, loss=loss, went_on={})

    def leave(self, trial: str) -> None:
        """A trial has ended and will not arrive."""
        self.running = tuple(other for other in self.running if other != trial)

    def decide(self) -> dict[str, Rung]:
        """The rung of every trial that waits, in the order of the rivals; nothing while one has still to arrive."""
        if not self._arrived or len(self._arrived) < len(self.running):
            return {}
        arrived = {trial: self._arrived[trial] for trial in self.running}
        ((step, num_steps),) = {(rung.step, rung.num_steps) for rung in arrived.values()}
        went_on = self._recorded.get(step)
        if went_on is None:
            best = sorted(arrived, key=lambda trial: self._merit(arrived[trial]), reverse=True)
            kept = num_kept(self._num_trials, rung_steps(self._num_trials, num_steps).index(step))
            went_on = {trial: arrived[trial].score for trial in best[:kept]}
        self._arrived = {}
        self.running = tuple(trial for trial in arrived if trial in went_on)
        return {
            trial: Rung(step=step, num_steps=num_steps, score=rung.score, loss=rung.loss, went_on=went_on)
            for trial, rung in arrived.items()
        }

    def _merit(self, rung: Rung) -> tuple[float, float]:
        return merit(rung.score, rung.loss, self._num_validation)
