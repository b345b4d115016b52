"""Token classification: a tag per word, read at its first sub-token; entities as spans under BIO, scored as wholes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from remora.data.dataset import Split
from remora.data.kinds import TaskName
from remora.data.spans import OUTSIDE, count_spans, f1, types
from remora.tasks.base import Array, Task, finite, ordered

if TYPE_CHECKING:
    from remora.models.head_steps import HeadKind

# B sentences, W words of the longest, C tags
_NO_WORD = -1


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One tag per word. Logits are those of transformers' ``...ForTokenClassification`` at first sub-tokens.

    The loss of a sentence is the sum over its words that are read, and the mean of a batch is over all of these, as in
    transformers. Words beyond the length limit are not read: they count as tagged O, so that what they are is missed.

    Args:
        label_names: the tags; class index = position.
        metrics_names: metrics, headline first; the F1 of every type of entity follows always.
    """

    name: ClassVar[TaskName] = "token-classification"
    head: ClassVar["HeadKind"] = "token"
    label_names: tuple[str, ...]
    metrics_names: tuple[str, ...] = ("span_f1", "span_precision", "span_recall", "token_accuracy")

    @property
    def num_outputs(self) -> int:
        """One logit per tag."""
        return len(self.label_names)

    def targets(self, split: Split) -> Array:
        """Tag indices (B, W) int64, -1 where there is no word."""
        index = {name: place for place, name in enumerate(self.label_names)}
        rows = [[index[tag] for tag in str(label).split(" ")] for label in split.labels]
        targets_BW = np.full((len(rows), max(map(len, rows))), _NO_WORD, dtype=np.int64)
        for number, row in enumerate(rows):
            targets_BW[number, : len(row)] = row
        return targets_BW

    def unread(self, targets_B: Array, num_read_B: Array) -> Array:
        """-2 minus its index for the tag of a word that is not read: no part of the loss, yet known to the metrics."""
        beyond_BW = (np.arange(targets_B.shape[1]) >= num_read_B[:, None]) & (targets_B >= 0)
        return np.where(beyond_BW, -2 - targets_B, targets_B)

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """The logarithm of how often each tag occurs (B, W, C)."""
        shares = np.bincount(train_B[train_B >= 0], minlength=self.num_outputs) / max(1, (train_B >= 0).sum())
        row = np.log(np.maximum(shares, 1e-6)).astype(np.float32)
        return np.tile(row, (*targets_B.shape, 1))

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """Cross entropy, the sum over the words read of each sentence (B,)."""
        if logits_BC.dtype in (torch.bfloat16, torch.float16):
            logits_BC = logits_BC.float()
        read_BW = targets_B[:, : logits_BC.shape[1]].clamp(min=_NO_WORD)
        losses = torch.nn.functional.cross_entropy(
            logits_BC.flatten(0, 1), read_BW.flatten(), ignore_index=_NO_WORD, reduction="none"
        )
        return losses.view(read_BW.shape).sum(1)

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str]:
        """The tags of every sentence, with blanks between them.

        Args:
            logits_BC: (B, W, C), `ABSENT` where no word was read.
            texts: the words of every sentence.
        """
        assert texts is not None, "how many words a sentence has is not in its logits"
        logits_BWC = finite(logits_BC)
        best_BW = logits_BWC.argmax(axis=2)
        read_BW = logits_BWC.max(axis=2) > -1e29
        return [
            " ".join(
                self.label_names[best_BW[i, w]] if w < best_BW.shape[1] and read_BW[i, w] else OUTSIDE
                for w in range(len(words))
            )
            for i, words in enumerate(texts)
        ]

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """F1, precision and recall over all spans (micro), accuracy over words, F1 per type; 0 where undefined."""
        truth_BW = np.where(targets_B < _NO_WORD, -2 - targets_B, targets_B)
        lengths = (truth_BW != _NO_WORD).sum(axis=1)
        true = [[self.label_names[tag] for tag in row[:num]] for row, num in zip(truth_BW, lengths, strict=True)]
        guessed = [tags.split(" ") for tags in self.decode(logits_BC, true)]
        counts = count_spans(zip(true, guessed, strict=True))
        right, found, gold = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0, 0)
        same = sum(a == b for row, other in zip(true, guessed, strict=True) for a, b in zip(row, other, strict=True))
        values = {
            "span_f1": f1(right, found, gold),
            "span_precision": right / found if found else 0.0,
            "span_recall": right / gold if gold else 0.0,
            "token_accuracy": same / max(1, int(lengths.sum())),
        }
        values |= {f"f1/{kind}": f1(*counts.get(kind, (0, 0, 0))) for kind in types(self.label_names)}
        return ordered(values, self.metrics_names)

    def is_constant(self, logits_BC: Array) -> bool:
        """Whether every word read gets the same tag."""
        logits_BWC = finite(logits_BC)
        return len(set(logits_BWC.argmax(axis=2)[logits_BWC.max(axis=2) > -1e29].tolist())) <= 1
