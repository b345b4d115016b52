"""Classification of a text or a pair: cross entropy, and the metrics the field reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support

from remora.data.dataset import Split
from remora.data.kinds import TaskName
from remora.tasks.base import Array, Task, finite, ordered

# Their stubs know neither average=None nor numbers for zero_division.
_f1: Any = f1_score
_scores: Any = precision_recall_fscore_support


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class per example.

    Args:
        label_names: the classes; class index = position.
        metrics_names: metrics, headline first; the classes' own F1 follow always.
        positive: the class of the metric ``f1``.
    """

    name: ClassVar[TaskName] = "classification"
    label_names: tuple[str, ...]
    metrics_names: tuple[str, ...]
    positive: str | None = None

    @property
    def num_outputs(self) -> int:
        """One logit per class."""
        return len(self.label_names)

    def targets(self, split: Split) -> Array:
        """Class indices (B,) int64."""
        index = {name: position for position, name in enumerate(self.label_names)}
        return np.array([index[str(label)] for label in split.labels], dtype=np.int64)

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """The logarithm of how often each class occurs (B, C)."""
        shares = np.bincount(train_B, minlength=self.num_outputs) / len(train_B)
        row = np.log(np.maximum(shares, 1e-6)).astype(np.float32)
        return np.tile(row, (len(targets_B), 1))

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Cross entropy per example (B,)."""
        if logits_BC.dtype in (torch.bfloat16, torch.float16):
            logits_BC = logits_BC.float()
        return torch.nn.functional.cross_entropy(logits_BC, targets_B, reduction="none")

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str]:
        """The class with the largest logit per row; the first of equals."""
        return [self.label_names[index] for index in finite(logits_BC).argmax(axis=1)]

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """Accuracy, macro and weighted F1, Matthews correlation, F1 per class (0 where a class is never predicted).

        Also precision and recall, of the positive class and their macro means. A macro mean is over the classes that
        occur among targets or predictions, as in scikit-learn.
        """
        predicted_B = finite(logits_BC).argmax(axis=1)
        present = np.union1d(targets_B, predicted_B)
        classes = range(self.num_outputs)
        precisions, recalls, per_class, _ = _scores(
            targets_B, predicted_B, labels=classes, average=None, zero_division=0.0
        )
        macro = _scores(targets_B, predicted_B, average="macro", zero_division=0.0)
        own = {name: float(value) for name, value in zip(self.label_names, per_class, strict=True)}
        values = {
            "accuracy": float(accuracy_score(targets_B, predicted_B)),
            "macro_f1": float(macro[2]),
            "macro_precision": float(macro[0]),
            "macro_recall": float(macro[1]),
            "weighted_f1": float(_f1(targets_B, predicted_B, average="weighted", zero_division=0.0)),
            # With one class on both sides the correlation is undefined; scikit-learn says 0 too, with a warning.
            "matthews": float(matthews_corrcoef(targets_B, predicted_B)) if len(present) > 1 else 0.0,
        }
        if self.positive is not None:
            place = self.label_names.index(self.positive)
            values |= {
                "f1": own[self.positive],
                "precision": float(precisions[place]),
                "recall": float(recalls[place]),
            }
        values |= {f"f1/{name}": value for name, value in own.items()}
        return ordered(values, self.metrics_names)

    def is_constant(self, logits_BC: Array) -> bool:
        """Whether every row gets the same class."""
        return len(set(finite(logits_BC).argmax(axis=1).tolist())) <= 1
