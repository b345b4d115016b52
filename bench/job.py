"""What both sides are asked to do and what they answer: one job file in, one answer file out."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Side = Literal["remora", "peer"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: hyperparameters and a seed.

    Args:
        method: Remora's method id; the peer maps it to peft's configuration.
        lr: peak learning rate (linear decay after 6 % warm-up on both sides).
        seed: adapter init, head init, data order and dropout.
        settings: method settings with Remora's names (rank, alpha, dropout).
    """

    method: str = "lora"
    lr: float = 5e-4
    seed: int = 0
    settings: dict[str, float] = field(default_factory=lambda: {"rank": 8, "alpha": 16, "dropout": 0.1})


@dataclass(frozen=True, kw_only=True)
class Job:
    """One subprocess: trials trained one after the other (peer) or packed (Remora) on one prepared data folder.

    Args:
        side: which program runs it.
        data: folder with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` (see ``bench.data``).
        trials: what to train.
        model: alias or folder of the base model.
        max_length: tokens kept of each example.
        epochs: passes over the training rows; ignored when ``max_steps`` is positive.
        max_steps: optimizer steps of each trial, or 0.
        batch_size: examples per optimizer step and trial.
        warmup_steps: first steps of each trial that are not timed.
        precision: the peer's arithmetic: float32, or bfloat16 under autocast. Remora chooses its own.
        threads: compute threads of a process; for Remora the cores it may use.
        padding: the peer's batches: to the longest of the batch, or to ``max_length``.
        attention: the peer's attention implementation.
        loader_workers: the peer's data loader processes.
        base_dropout: whether the base model's own dropout is active in training.
        evaluate: predict the test split after training (never inside the timed region).
        curve: keep a curve of training losses (the peer then logs now and then).
        gate: wait for a line on standard input before the timed region starts, so that processes start together.
    """

    side: Side
    data: str
    trials: tuple[Trial, ...]
    model: str = "minilm"
    max_length: int = 128
    epochs: int = 1
    max_steps: int = 0
    batch_size: int = 16
    warmup_steps: int = 10
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 1
    padding: Literal["dynamic", "max_length"] = "dynamic"
    attention: Literal["sdpa", "eager"] = "sdpa"
    loader_workers: int = 0
    base_dropout: bool = True
    evaluate: bool = False
    curve: bool = True
    gate: bool = False

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> "Job":
        tree = json.loads(text)
        trials = tuple(Trial(**trial) for trial in tree.pop("trials"))
        return Job(trials=trials, **tree)


@dataclass(frozen=True, kw_only=True)
class TrialAnswer:
    """What one trained trial reports.

    Args:
        seed: the trial's seed.
        steps: optimizer steps done.
        train_loss: mean loss over all steps.
        curve: mean loss of consecutive equal parts of the training (empty without ``curve``).
        grad_norm_min: smallest gradient norm seen on the checked steps; 0 or non-finite is an error.
        grad_norm_max: largest one.
        predictions: predicted label of each test row as an index into the sorted names (empty without ``evaluate``).
    """

    seed: int
    steps: int
    train_loss: float
    curve: tuple[float, ...]
    grad_norm_min: float
    grad_norm_max: float
    predictions: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a job's process reports.

    Args:
        trials: one answer per trial, in the job's order.
        timed_examples: examples of all trials trained inside the timed region.
        timed_seconds: wall seconds of the timed region.
        timed_tokens_real: tokens of those examples.
        timed_tokens_computed: the same with padding counted.
        peak_rss_bytes: high-water mark of resident memory, summed over the job's processes.
        wall_seconds: the whole process, start-up and evaluation included.
        notes: settings the side chose itself (workers, base precision).
    """

    trials: tuple[TrialAnswer, ...]
    timed_examples: int
    timed_seconds: float
    timed_tokens_real: int
    timed_tokens_computed: int
    peak_rss_bytes: int
    wall_seconds: float
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def examples_per_second(self) -> float:
        return self.timed_examples / self.timed_seconds

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "Answer":
        tree = json.loads(text)
        trials: list[TrialAnswer] = []
        for trial in tree.pop("trials"):
            lists: dict[str, Any] = {key: tuple(trial.pop(key)) for key in ("curve", "predictions")}
            trials.append(TrialAnswer(**trial, **lists))
        return Answer(trials=tuple(trials), **tree)


def read_job(path: str) -> Job:
    return Job.from_json(Path(path).read_text(encoding="utf-8"))
