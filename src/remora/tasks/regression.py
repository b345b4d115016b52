"""Regression to one number: squared error on the label's own scale, Pearson and Spearman correlation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr

from remora.data.dataset import Split
from remora.data.kinds import TaskName
from remora.tasks.base import Array, Task, finite, ordered

_pearson: Any = pearsonr  # typed as results without attributes
_spearman: Any = spearmanr


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """One number per example, learnt on the scale of the labels, as transformers does.

    Args:
        metrics_names: metrics, headline first.
    """

    name: ClassVar[TaskName] = "regression"
    metrics_names: tuple[str, ...] = ("pearson", "spearman", "mse")

    @property
    def num_outputs(self) -> int:
        """One."""
        return 1

    def targets(self, split: Split) -> Array:
        """The numbers (B,) float32."""
        return np.array(split.labels, dtype=np.float32)

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """The mean (B, 1)."""
        return np.tile(np.array([train_B.mean()], np.float32), (len(targets_B), 1))

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Squared error per example (B,)."""
        if logits_BC.dtype in (torch.bfloat16, torch.float16):
            logits_BC = logits_BC.float()
        return torch.nn.functional.mse_loss(logits_BC[:, 0], targets_B.to(logits_BC.dtype), reduction="none")

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[float]:
        """The numbers themselves."""
        return [float(value) for value in finite(logits_BC)[:, 0]]

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """Pearson and Spearman correlation (0 when either side is constant) and mean squared error."""
        predicted_B = finite(logits_BC)[:, 0]
        targets_B = np.asarray(targets_B, dtype=np.float64)
        constant = _is_constant(targets_B) or _is_constant(predicted_B)
        values = {
            "pearson": 0.0 if constant else float(_pearson(targets_B, predicted_B).statistic),
            "spearman": 0.0 if constant else float(_spearman(targets_B, predicted_B).statistic),
            "mse": float(np.mean((targets_B - predicted_B) ** 2)),
        }
        return ordered(values, self.metrics_names)

    def is_constant(self, logits_BC: Array) -> bool:
        """Whether every row gets practically the same number."""
        return _is_constant(finite(logits_BC)[:, 0])


def _is_constant(x_B: Array) -> bool:
    """Whether the deviations from the mean are no more than rounding (scipy would warn, or divide by zero)."""
    return len(x_B) < 2 or bool(np.linalg.norm(x_B - x_B.mean()) <= 1e-13 * np.linalg.norm(x_B))
