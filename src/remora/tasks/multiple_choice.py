"""Multiple choice: one sequence per choice, one output each, softmax over the choices of a question."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from remora.data.dataset import Split
from remora.data.kinds import LETTERS, TaskName
from remora.tasks.base import Array, Task, finite, ordered

if TYPE_CHECKING:
    from remora.models.head_steps import HeadKind

# B questions, K most choices of any


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(Task):
    """One right choice per question; questions may differ in how many they have.

    The logits of a question are the scores of its choices, in their order, with `ABSENT` behind the last one. Loss and
    logits are those of transformers' ``...ForMultipleChoice``.

    Args:
        metrics_names: metrics, headline first.
    """

    name: ClassVar[TaskName] = "multiple-choice"
    head: ClassVar["HeadKind"] = "choice"
    metrics_names: tuple[str, ...] = ("accuracy",)

    @property
    def num_outputs(self) -> int:
        """One score per sequence."""
        return 1

    def targets(self, split: Split) -> Array:
        """The place of the right choice (B,) int64."""
        return np.array([LETTERS.index(str(label)) for label in split.labels], dtype=np.int64)

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """The logarithm of how often each place is the right one (B, K)."""
        shares = np.bincount(train_B, minlength=int(targets_B.max(initial=0)) + 1) / len(train_B)
        row = np.log(np.maximum(shares, 1e-6)).astype(np.float32)
        return np.tile(row, (len(targets_B), 1))

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Cross entropy over a question's own choices (B,)."""
        if logits_BC.dtype in (torch.bfloat16, torch.float16):
            logits_BC = logits_BC.float()
        return torch.nn.functional.cross_entropy(logits_BC, targets_B, reduction="none")

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str]:
        """The letter of the choice with the highest score; the first of equals."""
        return [LETTERS[index] for index in finite(logits_BC).argmax(axis=1)]

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """Accuracy: the share of questions whose right choice has the highest score."""
        right = finite(logits_BC).argmax(axis=1) == targets_B
        return ordered({"accuracy": float(np.mean(right))}, self.metrics_names)

    def is_constant(self, logits_BC: Array) -> bool:
        """Whether it is always the choice in the same place."""
        return len(set(finite(logits_BC).argmax(axis=1).tolist())) <= 1
