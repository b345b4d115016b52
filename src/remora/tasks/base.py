"""What every kind of task says: its head, its targets and loss, what logits mean, how they are scored.

How an example becomes sequences, the data decide by the form of its texts (`data.kinds`, `data.tokenize`); which rows
of them belong to one example, `engine.examples`. A task sees examples only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from remora.data.clusters import MentionRules
from remora.data.dataset import Dataset, Split
from remora.data.kinds import CLASSES, FORMS, Form, TaskName

if TYPE_CHECKING:
    import torch

    from remora.models.head_steps import HeadKind

Array = npt.NDArray[Any]
# B examples, C outputs, ... what an example's logits are: (C,), (K,) scores of K choices, (W, C) of W words


class Task(ABC):
    """One kind of task, bound to the classes and metrics of a data set.

    Tasks with one text per example and tasks with a pair do not differ here: the tokenizer joins the pair.
    """

    name: ClassVar[TaskName]
    head: ClassVar["HeadKind"] = "sequence"
    """Which of transformers' heads it trains."""
    scores_answers: ClassVar[bool] = True
    """Whether logits are scores of answers, which are worth keeping beside these."""
    generates: ClassVar[bool] = False
    """Whether answers are texts that a model writes after training, and are scored as such."""
    metrics_names: tuple[str, ...]
    """The metrics reported, headline first."""

    @property
    def form(self) -> Form:
        """What the texts of an example are."""
        return FORMS[self.name]

    @property
    def headline(self) -> str:
        """The metric that decides."""
        return self.metrics_names[0]

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """How many logits the head has."""

    @abstractmethod
    def targets(self, split: Split) -> Array:
        """The labels of a split as numbers.

        Args:
            split: of the data set this task is bound to.

        Returns:
            Class indices (B,) int64, or numbers (B,) float32, or what else an example's answer is, (B, ...).
        """

    def unread(self, targets_B: Array, num_read_B: Array) -> Array:
        """The targets marked where the length limit leaves out of an example what they are about.

        Args:
            targets_B: what `targets` gives.
            num_read_B: rows that the head reads of each example.
        """
        del num_read_B
        return targets_B

    @abstractmethod
    def constant(self, train_B: Array, targets_B: Array) -> Array:
        """The logits of the answer that knows nothing but how often each target occurs in train.

        Args:
            train_B: what `targets` gives for train.
            targets_B: of the split that is answered.

        Returns:
            One and the same for every example of the split, float32.
        """

    @abstractmethod
    def loss(self, logits_BC: "torch.Tensor", targets_B: "torch.Tensor") -> "torch.Tensor":
        """The loss of every example by itself; the loop takes the mean.

        Args:
            logits_BC: head outputs (B, C), any float type; the loss is computed in float32 at least.
            targets_B: what `targets` gives, as a tensor (B,).

        Returns:
            Losses (B,).
        """

    @abstractmethod
    def decode(self, logits_BC: Array, texts: Sequence[Sequence[str]] | None = None) -> list[str] | list[float]:
        """Predictions in the data set's own terms.

        Args:
            logits_BC: head outputs (B, ...).
            texts: of the examples; needed where the answer is as long as the text.

        Returns:
            Class names, letters of choices, tags of words with blanks between them, clusters as JSON, or numbers, (B,).
        """

    @abstractmethod
    def metrics(self, targets_B: Array, logits_BC: Array) -> dict[str, float]:
        """All metrics as fractions (correlations as they are), headline first; never NaN.

        Args:
            targets_B: what `targets` gives (B,).
            logits_BC: head outputs (B, C).

        Returns:
            Metric name to value.
        """

    @abstractmethod
    def is_constant(self, logits_BC: Array) -> bool:
        """Whether all predictions are the same: correlations are undefined then (counted as 0), the model useless."""


def ordered(values: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """The values with the named ones first, in that order."""
    return {name: values[name] for name in dict.fromkeys((*names, *values)) if name in values}


def finite(logits_BC: Array) -> Array:
    """Logits as float64 without NaN or infinities, so that a diverged trial is scored as the failure it is."""
    return np.nan_to_num(np.asarray(logits_BC, dtype=np.float64), nan=0.0, posinf=1e30, neginf=-1e30)


def task_for(dataset: Dataset) -> Task:
    """The task of a data set.

    Args:
        dataset: decides kind, classes and metrics.

    Returns:
        The task.
    """
    return make_task(
        dataset.task,
        label_names=dataset.label_names,
        metrics=dataset.metrics,
        positive=dataset.positive,
        mentions=dataset.mentions,
    )


def make_task(
    kind: str,
    *,
    label_names: Sequence[str],
    metrics: Sequence[str] = (),
    positive: str | None = None,
    mentions: MentionRules | None = None,
) -> Task:
    """A task from what an adapter's card records, without the data set.

    Args:
        kind: of the task.
        label_names: the classes in the order of the head's outputs; empty where there are none.
        metrics: metric names, headline first.
        positive: the class of the metric ``f1``, if any.
        mentions: of coreference, what mentions are like.

    Returns:
        The task.
    """
    from remora.tasks.classification import Classification
    from remora.tasks.coreference import Coreference
    from remora.tasks.multiple_choice import MultipleChoice
    from remora.tasks.prompt_classification import PromptClassification
    from remora.tasks.regression import Regression
    from remora.tasks.summarization import Summarization
    from remora.tasks.token_classification import TokenClassification

    if kind == "regression":
        return Regression(metrics_names=tuple(metrics) or ("pearson",))
    if kind == "multiple-choice":
        return MultipleChoice(metrics_names=tuple(metrics) or ("accuracy",))
    if kind == "token-classification":
        names = tuple(metrics) or TokenClassification.metrics_names
        return TokenClassification(label_names=tuple(label_names), metrics_names=names)
    if kind == "coreference":
        assert mentions is not None, "what mentions are like is recorded with every coreference task"
        return Coreference(rules=mentions, metrics_names=tuple(metrics) or Coreference.metrics_names)
    if kind == "summarization":
        return Summarization(metrics_names=tuple(metrics) or Summarization.metrics_names)
    assert kind in CLASSES, kind
    classes = Classification if kind == "classification" else PromptClassification
    return classes(label_names=tuple(label_names), metrics_names=tuple(metrics) or ("accuracy",), positive=positive)
