"""What a running study tells whoever watches it."""

from typing import Protocol


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
