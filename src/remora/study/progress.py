"""What a running study tells whoever watches it, and how it is told from what workers say."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """A watcher of a study; the study calls these from one thread, in this order for each trial."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins.

        Args:
            name: such as ``"tuning"``.
            total: how many trials it will finish; trials found finished in the run directory count too.
        """
        ...

    def trial_started(self, trial: str) -> None:
        """A trial, named by its id, begins to train."""
        ...

    def trial_step(self, trial: str, step: int, total: int, loss: float, metric: float | None) -> None:
        """A trial has made optimizer steps.

        Args:
            trial: its id.
            step: steps made so far.
            total: steps to make.
            loss: mean training loss of late.
            metric: the latest headline metric on validation (a fraction), or None before the first evaluation.
        """
        ...

    def trial_finished(self, trial: str, status: str, metric: float | None) -> None:
        """A trial ended.

        Args:
            trial: its id.
            status: ``"done"``, ``"stopped"`` (at a rung), ``"diverged"``, ``"failed"`` or ``"kept"`` (found finished,
                not run again).
            metric: its headline metric on validation (a fraction), None when it has none.
        """
        ...

    def note(self, text: str) -> None:
        """Something the user should read, one line."""
        ...

    def finished(self) -> None:
        """The study ended, well or not; may be called more than once."""
        ...


class Teller:
    """Tells a watcher what workers say.

    Args:
        progress: the watcher.
        warn: takes what the study survived, a sentence.
        metric: gives the headline metric on validation of a trial that was finished elsewhere, by its id.
    """

    def __init__(
        self, progress: Progress, warn: Callable[[str], None], metric: Callable[[str], float | None] = lambda _: None
    ) -> None:
        self._progress = progress
        self._warn = warn
        self._metric = metric
        self._seen: dict[str, float | None] = {}

    def tell(self, event: Mapping[str, Any]) -> None:
        """Pass on an event of a worker."""
        trial = event.get("trial", "")
        match event["event"]:
            case "started":
                self._progress.trial_started(trial)
            case "step":
                metric = self._seen.get(trial)
                self._progress.trial_step(trial, event["step"], event["total"], event["loss"], metric)
            case "epoch":
                self._seen[trial] = event["metric"]
            case "finished":
                metric = self._metric(trial) if event["metric"] is None else event["metric"]
                self._progress.trial_finished(trial, event["status"], metric)
            case "trouble":
                self._progress.note(event["text"])
            case "warning":
                self._warn(event["text"])
            case _:
                pass
