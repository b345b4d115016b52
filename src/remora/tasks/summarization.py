"""Summarization: a text behind a document, learnt token by token and scored by ROUGE once it is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from remora.data.kinds import ABSENT, TaskName
from remora.data.metric_names import LOG_LIKELIHOOD, SUMMARIZATION
from remora.data.summaries import lead, references, usual_sentences
from remora.tasks.base import Array, Task, finite, ordered
from remora.tasks.rouge import METRICS, rouge_f1

if TYPE_CHECKING:
    from remora.data.dataset import Split
    from remora.models.head_steps import HeadKind

# B documents, W tokens of the longest summary


@dataclass(frozen=True, kw_only=True)
class Summarization(Task):
    """One summary per document. Logits are log-probabilities of the tokens of the reference, which training needs.

    What a model writes is generated, not read off logits: `score` takes the texts.

    Args:
        metrics_names: metrics, headline first.
    """

    name: ClassVar[TaskName] = "summarization"
    head: ClassVar["HeadKind"] = "lm"
    scores_answers: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    metrics_names: tuple[str, ...] = SUMMARIZATION

    @property
    def num_outputs(self) -> int:
        """One: the log-probability of the token that is right."""
        return 1

    def targets(self, split: "Split") -> Array:
        """Numbers of the rows (B,): which tokens are right is told to the head (`Examples.next_tokens`)."""
        return np.arange(len(split))

    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """There is none: the answer that knows nothing is written in words, see `lead_summaries`."""
        raise AssertionError("summaries are not read off logits")

    def loss(self, logits_BC: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
        """The sum of the negative log-likelihoods of each summary's tokens (B,).

        Args:
            logits_BC: (B, W) log-probabilities, `ABSENT` behind the last token of a summary.
            targets_B: not looked at.
        """
        return -logits_BC.where(logits_BC > ABSENT / 2, 0.0).sum(1)

    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str]:
        """Summaries are generated; there is nothing to decode."""
        raise AssertionError("summaries are not read off logits")

    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """The mean log-likelihood of a token of the references, which takes no generation."""
        values = finite(logits_BC)[np.asarray(logits_BC) > ABSENT / 2]
        return {LOG_LIKELIHOOD: float(values.mean()) if values.size else 0.0}

    def is_constant(self, logits_BC: Array) -> bool:
        """Log-likelihoods of references say nothing about that."""
        return False

    def item_scores(self, summaries: Sequence[str], labels: Sequence[str | float]) -> Array:
        """ROUGE F1 of every summary against the best of its references (B, 3) float32, in the order of `METRICS`."""
        scores = rouge_f1(summaries, [references(label) for label in labels])
        return np.array([scores[name] for name in METRICS], dtype=np.float32).T

    def score(self, summaries: Sequence[str], labels: Sequence[str | float]) -> dict[str, float]:
        """Mean ROUGE F1, headline first.

        Args:
            summaries: that were written.
            labels: the references of each; see `data.summaries`.
        """
        scores = rouge_f1(summaries, [references(label) for label in labels])
        return ordered({name: float(np.mean(values)) for name, values in scores.items()}, self.metrics_names)


def lead_summaries(train: "Split", split: "Split") -> list[str]:
    """The first sentences of each document, as many as a summary of train has on average."""
    num = usual_sentences(train.labels)
    return [lead(texts[0], num) for texts in split.texts]
