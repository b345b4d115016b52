"""Tokenized examples as passes take them: each is one sequence or several, and a head reads one row of it or several.

Examples are what batches, orders, losses and results count. Most have one sequence of which one row is read, and then
nothing here costs anything: numbers of examples, of sequences and of rows are the same.

B examples, R rows that are read, W most rows of an example, C outputs of the head
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from remora.data.kinds import ABSENT
from remora.data.tokenize import Encoded
from remora.engine.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tokenized examples of one split.

    Args:
        ids: token ids per sequence, int64, without padding.
        type_ids: segment ids per sequence, int64.
        targets: (n, ...) what the task learns of every example.
        joints: (n + 1,) the first sequence of every example, and the end; None where each has one.
        places: per sequence the tokens, counted from 0, whose rows the head reads, in ascending order, at least one;
            None for the one row that the architecture pools.
        weights: (n,) parts that an example's loss is the sum of, so that the mean of a batch is over these; None for
            one each.
        wanted: per sequence, for every row read, the one output of the head that counts; an example then has one logit
            for each of its sequences, the mean of these. None where all outputs count.
        next_tokens: per sequence, for every row read, the token whose probability the head is asked for behind it; its
            one output is then the logarithm of that. None where it is asked for the same outputs on all rows.
        reference: examples that say nothing. What logits they get is taken off those of the others (`calibrated`); None
            to leave logits as they are.
        decoder_ids: of an encoder-decoder, token ids per sequence that go into the decoder, whose rows `places` mean;
            `ids` are then what its encoder reads.
    """

    ids: Sequence[np.ndarray]
    type_ids: Sequence[np.ndarray]
    targets: np.ndarray
    joints: np.ndarray | None = None
    places: Sequence[np.ndarray] | None = None
    weights: np.ndarray | None = None
    wanted: Sequence[np.ndarray] | None = None
    next_tokens: Sequence[np.ndarray] | None = None
    reference: "Examples | None" = None
    decoder_ids: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.ids) if self.joints is None else len(self.joints) - 1

    @property
    def single(self) -> bool:
        """Whether every example has one row, so that what the head gives are the examples' logits."""
        return self.joints is None and self.places is None

    @cached_property
    def all_ids(self) -> Sequence[np.ndarray]:
        """Every token of every sequence: of an encoder-decoder what it reads and what goes into the decoder."""
        if self.decoder_ids is None:
            return self.ids
        return [np.concatenate(both) for both in zip(self.ids, self.decoder_ids, strict=True)]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(n,) tokens of every example, all its sequences together."""
        lengths = np.array([len(row) for row in self.all_ids], dtype=np.int64)
        return lengths if self.joints is None else np.add.reduceat(lengths, self.joints[:-1])

    @cached_property
    def num_sequences(self) -> np.ndarray:
        """(n,) sequences of every example."""
        return np.ones(len(self), np.int64) if self.joints is None else np.diff(self.joints)

    @cached_property
    def num_rows(self) -> np.ndarray:
        """(n,) rows of every example that the head reads."""
        if self.places is None:
            return self.num_sequences
        rows = np.array([len(places) for places in self.places], dtype=np.int64)
        return rows if self.joints is None else np.add.reduceat(rows, self.joints[:-1])

    @cached_property
    def _row_joints(self) -> np.ndarray:
        """(S + 1,) the first row read of every sequence, and the end."""
        assert self.places is not None
        return np.concatenate([[0], np.cumsum([len(places) for places in self.places])]).astype(np.int64)

    def tokens(self, example: int, room: int) -> int:
        """Rows that an example takes in a pass, with `room` virtual tokens before each sequence."""
        if self.joints is None:
            return len(self.all_ids[example]) + room
        return int(self.lengths[example] + room * self.num_sequences[example])

    def sequences(self, chosen: np.ndarray) -> np.ndarray:
        """The sequences of some examples, in their order."""
        return chosen if self.joints is None else spans(self.joints[chosen], self.joints[chosen + 1])

    def rows(self, sequences: np.ndarray) -> np.ndarray:
        """Numbers, among all rows read of the split, of those of some sequences."""
        if self.places is None:
            return sequences
        return spans(self._row_joints[sequences], self._row_joints[sequences + 1])

    def decoder_of(self, sequences: np.ndarray) -> list[np.ndarray] | None:
        """What goes into the decoder of some sequences; None where there is none."""
        return None if self.decoder_ids is None else [self.decoder_ids[i] for i in sequences]

    def next_of(self, sequences: np.ndarray, device: torch.device) -> Tensor | None:
        """(R,) the tokens asked for behind the rows of some sequences; None where there are none."""
        if self.next_tokens is None:
            return None
        return to_device(np.concatenate([self.next_tokens[i] for i in sequences]), device)

    def counted(self, outputs_RC: Tensor, sequences: np.ndarray) -> Tensor:
        """What counts of the head's outputs on the rows of some sequences: (R, 1) where one of them does, else all."""
        if self.wanted is None:
            return outputs_RC
        columns = np.concatenate([self.wanted[i] for i in sequences])
        return outputs_RC.gather(1, to_device(columns, outputs_RC.device)[:, None])

    def weight(self, chosen: np.ndarray) -> int:
        """What the sum of some examples' losses is divided by to have their mean."""
        return len(chosen) if self.weights is None else max(1, int(self.weights[chosen].sum()))

    def logits(self, outputs_RC: Tensor, chosen: np.ndarray) -> Tensor:
        """The logits of some examples from what counts of what the head makes of their rows.

        Args:
            outputs_RC: in the order of examples, sequences and places.
            chosen: the examples.

        Returns:
            (B, C) as it is where every example has one row. Otherwise (B, W, C), or (B, W) of a head with one output,
            with `ABSENT` behind an example's last row; W is that of the longest example of the split. (B, K) means over
            the rows of each of K sequences where one output of each row is wanted.
        """
        if self.single:
            return outputs_RC
        if self.wanted is not None:
            sizes = torch.from_numpy(np.array([len(self.wanted[i]) for i in self.sequences(chosen)]))
            means = torch.segment_reduce(outputs_RC[:, 0], "mean", lengths=sizes.to(outputs_RC.device))
            return means.view(len(chosen), -1)
        counts, width = self.num_rows[chosen], int(self.num_rows.max())
        slots = spans(np.arange(len(chosen)) * width, np.arange(len(chosen)) * width + counts)
        flat = outputs_RC.new_full((len(chosen) * width, outputs_RC.shape[1]), ABSENT)
        filled = flat.index_copy(0, to_device(slots, outputs_RC.device), outputs_RC).view(len(chosen), width, -1)
        return filled[:, :, 0] if outputs_RC.shape[1] == 1 else filled

    def subset(self, chosen: np.ndarray) -> "Examples":
        """Some examples as a split of their own."""
        sequences = self.sequences(chosen)
        return Examples(
            ids=[self.ids[i] for i in sequences],
            type_ids=[self.type_ids[i] for i in sequences],
            targets=self.targets[chosen],
            joints=None if self.joints is None else np.concatenate([[0], np.cumsum(self.num_sequences[chosen])]),
            places=None if self.places is None else [self.places[i] for i in sequences],
            weights=None if self.weights is None else self.weights[chosen],
            wanted=None if self.wanted is None else [self.wanted[i] for i in sequences],
            next_tokens=None if self.next_tokens is None else [self.next_tokens[i] for i in sequences],
            reference=self.reference,
            decoder_ids=self.decoder_of(sequences),
        )


def tokenized(encoded: Encoded, targets: np.ndarray) -> Examples:
    """Examples of token ids; those of words count as many words as are read."""
    read = None if encoded.places is None else np.array([len(row) for row in encoded.places], dtype=np.int64)
    return Examples(
        ids=encoded.ids,
        type_ids=encoded.type_ids or [np.zeros_like(row) for row in encoded.ids],
        targets=targets,
        joints=encoded.joints,
        places=encoded.places,
        weights=read,
    )


def spans(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """All whole numbers from each start up to its end, one span after the other."""
    sizes = ends - starts
    return np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(int(sizes.sum()))


def mean_loss(losses_B: Tensor, examples: Examples) -> float:
    """The mean of all examples' losses."""
    if examples.weights is None:
        return float(losses_B.mean())
    return float(losses_B.sum() / examples.weight(np.arange(len(examples))))


def calibrated(logits_BK: np.ndarray, reference_MK: np.ndarray) -> np.ndarray:
    """Probabilities divided by those that inputs get which say nothing, and made to sum to one again; as logarithms.

    Args:
        logits_BK: of examples, scores of the same K answers.
        reference_MK: of the inputs that say nothing; the mean of their probabilities is taken.

    Returns:
        (B, K) in the type given.

    Source:
        Zhao et al. 2021, "Calibrate before use", arXiv:2102.09690, section 5: W = diag(p_cf)^-1, b = 0.
    """
    told = torch.log_softmax(torch.from_numpy(reference_MK).double(), 1).exp().mean(0).log()
    shifted = torch.from_numpy(logits_BK).double() - told
    return torch.log_softmax(shifted, 1).numpy().astype(logits_BK.dtype)


def as_logits(outputs_RC: np.ndarray, examples: Examples) -> np.ndarray:
    """`Examples.logits` of a whole split, as arrays."""
    if examples.single:
        return outputs_RC
    return examples.logits(torch.from_numpy(outputs_RC), np.arange(len(examples))).numpy()
