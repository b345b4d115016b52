"""What the engine is asked for and what it gives back: a trial's settings, its data, and its outcome."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from remora.engine.examples import Examples
from remora.engine.rungs import Rung
from remora.models.head_steps import HeadKind
from remora.seeds import fold

__all__ = [
    "CurvePoint",
    "Examples",
    "NoEvents",
    "PackEvents",
    "Status",
    "TaskLoss",
    "TrialData",
    "TrialOutcome",
    "TrialSpec",
]

Status = Literal["done", "diverged", "stopped"]


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One training: a method with its settings, a learning rate, a seed and the fixed parts of the protocol.

    Args:
        id: name of the trial (hash of what determines it).
        method: id of the method.
        settings: of the method.
        lr: peak learning rate.
        seed: changes adapter init, head init, data order and dropout, each from a stream of its own.
        stream: folded into init, head and dropout but not into the data order (A/A studies).
        epochs: passes over the training data.
        max_steps: stop after so many optimizer steps all the same (speed measurements); the schedule ends there too.
        batch_size: examples per optimizer step.
        weight_decay: on matrices only, decoupled (AdamW).
        clip: largest norm of the lane's gradient; 0 for none.
        schedule: of the learning rate after warm-up.
        warmup: share of the steps with linearly rising learning rate.
        base_dropout: whether the base's own dropout is active in training.
        select: last checkpoint, or the best on validation (evaluated after every epoch).
        curve: whether to evaluate on validation after every epoch.
        splits: evaluated at the end, with predictions.
    """

    id: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lr: float
    seed: int = 0
    stream: str = ""
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 16
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: Literal["linear", "constant"] = "linear"
    warmup: float = 0.06
    base_dropout: bool = True
    select: Literal["last", "best-validation"] = "last"
    curve: bool = True
    splits: tuple[str, ...] = ("validation", "test")

    def stream_seed(self, purpose: Literal["init", "head", "dropout"]) -> int:
        """The seed of one of the trial's private streams."""
        return fold(self.seed, purpose, self.stream)


class TaskLoss(Protocol):
    """What the engine needs of a task. Logits and targets are those of `Examples.logits` and `Examples.targets`."""

    def loss(self, logits_BC: Tensor, targets_B: Tensor) -> Tensor:
        """(B,) losses, each the sum over the example's parts where `Examples.weights` counts several."""
        ...

    def metrics(self, targets_B: np.ndarray, logits_BC: np.ndarray) -> dict[str, float]:
        """Metrics by name, headline first."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrialData:
    """The data all trials of a study share.

    Args:
        task: loss and metrics.
        num_outputs: width of the head.
        head: which of transformers' heads it is.
        tokens: ids whose probabilities a language-modelling head is asked for.
        split: gives the tokenized examples of a split with `room` tokens of the budget left for virtual tokens.
        fingerprint: hash of texts, labels and tokenization.
    """

    task: TaskLoss
    num_outputs: int
    split: Callable[[str, int], Examples]
    fingerprint: str
    head: HeadKind = "sequence"
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The state of a trial after an epoch: mean training loss of the epoch, and validation where asked for."""

    step: int
    epoch: float
    train_loss: float
    validation_loss: float | None = None
    validation: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What a trial gave.

    Args:
        status: done, diverged (a loss or gradient was not finite; the last good state is kept), or stopped at a rung.
        error: where and why it diverged.
        step: optimizer steps taken.
        curve: per epoch.
        rungs: where it was compared with its rivals, when there were any.
        losses: mean loss by split, and of training in the last epoch.
        metrics: by split.
        logits: of every example, by split, float32; see `Examples.logits`.
        variants: metrics by split of other forms of the same adapter, by name; of trials that see the test split.
        adapter: trained tensors by name, float32.
        frozen: drawn or computed tensors an adapter file needs.
        head: trained tensors of the head by Hugging Face name.
        base_weights: the backbone and pooler after full fine-tuning, by Hugging Face name.
        num_params: trained numbers in adapter, head and base.
        undertrained: the training loss was still falling at the end.
        grad_norm: mean, min and max of the norm before clipping.
        train_seconds: time inside training steps of its packs (shared with its neighbours).
        examples: training examples seen.
        lanes: most lanes it shared a step with, itself included.
        tokens_per_pass: most tokens of its passes; less than asked for when memory ran out. None without any step.
    """

    spec: TrialSpec
    status: Status
    error: str | None
    step: int
    curve: tuple[CurvePoint, ...]
    rungs: tuple[Rung, ...]
    losses: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    logits: Mapping[str, np.ndarray]
    variants: Mapping[str, Mapping[str, Mapping[str, float]]]
    adapter: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]
    head: Mapping[str, Tensor]
    base_weights: Mapping[str, Tensor]
    num_params: Mapping[str, int]
    undertrained: bool
    grad_norm: Mapping[str, float]
    train_seconds: float
    examples: int
    lanes: int
    tokens_per_pass: int | None


class PackEvents(Protocol):
    """What the loop tells while it runs."""

    def started(self, spec: TrialSpec, num_steps: int) -> None:
        """A trial entered the pack."""
        ...

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        """A trial took an optimizer step."""
        ...

    def epoch(self, spec: TrialSpec, point: CurvePoint) -> None:
        """A trial ended an epoch."""
        ...


class NoEvents:
    """Tells nobody."""

    def started(self, spec: TrialSpec, num_steps: int) -> None:
        """Do nothing."""

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        """Do nothing."""

    def epoch(self, spec: TrialSpec, point: CurvePoint) -> None:
        """Do nothing."""
