"""Small random examples of several rows, and what transformers makes of them: questions with choices, tagged words."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForMultipleChoice, AutoModelForSequenceClassification, AutoModelForTokenClassification

from remora.engine.trial import Examples, TrialData
from remora.models.base import Base
from remora.tasks.multiple_choice import MultipleChoice
from tests.tiny import CAUSAL, VOCAB, tiny_hf
from tests.trials import padded

CHOICE = MultipleChoice()


def choice_examples(num: int, *, seed: int = 0, low: int = 3, high: int = 9) -> Examples:
    """Questions whose choices differ in number and length; the right one is now this, now that."""
    rng = np.random.default_rng(seed)
    counts = 2 + np.arange(num) % 3
    ids = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(low, high + 1, int(counts.sum()))]
    return Examples(
        ids=ids,
        type_ids=[(np.arange(len(row)) > len(row) // 2).astype(np.int64) for row in ids],
        targets=rng.integers(0, counts),
        joints=np.concatenate([[0], np.cumsum(counts)]),
    )


def choice_data(train: Examples) -> TrialData:
    """Data whose splits are all the same."""
    return TrialData(task=CHOICE, num_outputs=1, split=lambda name, room: train, fingerprint="ragged", head="choice")


def choice_model(name: str, dtype: torch.dtype) -> nn.Module:
    """transformers' class for multiple choice; of a decoder, which has none, that for sequences with one output."""
    auto = AutoModelForSequenceClassification if name in CAUSAL else AutoModelForMultipleChoice
    return tiny_hf(name, 1, dtype, auto=auto)


def choice_scores(model: nn.Module, base: Base, examples: Examples, example: int) -> Tensor:
    """(K,) scores of a question's choices by that class, padded as it takes them."""
    inputs = padded(examples, examples.sequences(np.array([example])), base.config.pad_token_id or 0)
    if not base.takes_type_ids:
        inputs.pop("token_type_ids")
    if not base.arch.causal:
        inputs = {key: value[None] for key, value in inputs.items()}
    return model(**inputs).logits.flatten()


def mean_loss(model: nn.Module, base: Base, examples: Examples, chosen: np.ndarray) -> Tensor:
    """The mean over questions of the cross entropy over each one's choices, question by question."""
    losses = [
        -torch.log_softmax(choice_scores(model, base, examples, int(i)), 0)[int(examples.targets[i])] for i in chosen
    ]
    return torch.stack(losses).mean()


class TagTask:
    """A class for every row that is read; the loss of an example is the sum over its rows."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
        )
        return losses.view(targets.shape).sum(1)

    def metrics(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((logits.argmax(2) == targets)[targets >= 0].mean())}


TAGS = 3


def tagged_examples(num: int, *, seed: int = 0, low: int = 4, high: int = 11) -> Examples:
    """Sentences of which every second or third token is read and has a class; the mean of a batch is over these."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(low, high + 1, num)]
    places = [np.arange(1, len(row), 2 + i % 2) for i, row in enumerate(ids)]
    counts = np.array([len(rows) for rows in places])
    targets = np.where(np.arange(counts.max()) < counts[:, None], rng.integers(0, TAGS, (num, counts.max())), -1)
    types = [np.zeros(len(row), np.int64) for row in ids]
    return Examples(ids=ids, type_ids=types, targets=targets, places=places, weights=counts)


def tagged_data(train: Examples) -> TrialData:
    """Data whose splits are all the same."""
    return TrialData(task=TagTask(), num_outputs=TAGS, split=lambda name, room: train, fingerprint="tags", head="token")


def tagged_model(name: str, dtype: torch.dtype) -> nn.Module:
    """transformers' class for token classification."""
    return tiny_hf(name, TAGS, dtype, auto=AutoModelForTokenClassification)


def tagged_logits(model: nn.Module, base: Base, examples: Examples, example: int) -> Tensor:
    """(W, C) logits of the rows read of a sentence by that class."""
    assert examples.places is not None
    inputs = padded(examples, np.array([example]), base.config.pad_token_id or 0)
    if not base.takes_type_ids:
        inputs.pop("token_type_ids")
    return model(**inputs).logits[0, examples.places[example]]


def mean_tag_loss(model: nn.Module, base: Base, examples: Examples, chosen: np.ndarray) -> Tensor:
    """The mean over all words of a batch, as transformers takes it."""
    logits = torch.cat([tagged_logits(model, base, examples, int(i)) for i in chosen])
    targets = np.concatenate([examples.targets[i][examples.targets[i] >= 0] for i in chosen])
    return torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets))
