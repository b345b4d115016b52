"""How the sequences of all lanes of one pass lie in memory.

Packed: hidden states are (1, T, D), all sequences one after the other without padding. Padded: (B, L, D), lanes are
contiguous batch rows. Either way, flattened rows ``[start_k, stop_k)`` belong to lane k, and everything a method, a
head or a dropout needs to know about a row is in this one object.

T rows, S sequences, N sequences of a bucket, L length of a bucket.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from remora.engine.dropout import DropoutKeys
from remora.engine.hashing import folded32, row_keys
from remora.engine.shared_products import SharedProducts
from remora.engine.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class LaneBatch:
    """Sequences that one lane puts into a pass.

    Args:
        ids: token ids per sequence, int64.
        type_ids: segment ids per sequence (all zero where the tokenizer gives none).
        index: number of each sequence within the lane's whole batch (dropout masks are keyed by it).
        num_virtual: rows put before each sequence for virtual tokens.
        num_prefix: keys and values put before each sequence in attention alone; positions start after them.
        dropout_key: of (trial, step, forward number).
        base_dropout: whether the base's own dropout is active.
        places: tokens of each sequence whose rows are read; None for the one that is pooled. All lanes alike.
        decoder_ids: of an encoder-decoder, token ids that go into the decoder per sequence; `ids` are then those that
            its encoder reads, virtual tokens stand before these, and `places` are the decoder's.
    """

    ids: Sequence[np.ndarray]
    type_ids: Sequence[np.ndarray]
    index: Sequence[int]
    num_virtual: int = 0
    num_prefix: int = 0
    dropout_key: int = 0
    base_dropout: bool = True
    places: Sequence[np.ndarray] | None = None
    decoder_ids: Sequence[np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Sequences attended to together: `rows_NL` gathers them from the pass (padding repeats a sequence's first row)."""

    rows_NL: Tensor
    lengths_N: Tensor
    real_NL: Tensor
    full: bool


@dataclass(frozen=True, kw_only=True)
class Prefixed:
    """A packed pass as attention sees it where lanes bring keys and values: with rows for them before each sequence.

    Args:
        layout: of all these rows.
        query_T: the pass's row at each of them; before a sequence its first row, whose second result nobody reads.
        key_T: the row at each of them among the pass's rows and then all prefixes, sequence by sequence.
        real_T: where the pass's rows lie among them.
        num_sequences: of each lane that has a prefix.
    """

    layout: "Layout"
    query_T: Tensor
    key_T: Tensor
    real_T: Tensor
    num_sequences: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One pass. Row numbers refer to the flattened (1 * T) or (B * L) rows.

    What a step needs to know on the host is a plain number here, so that nothing is read back from the device.
    """

    kind: Literal["packed", "padded"]
    input_ids: Tensor
    position_ids: Tensor
    type_ids: Tensor
    attention_mask: Tensor | None
    lane_rows: tuple[slice, ...]
    lane_sequences: tuple[slice, ...]
    first_S: Tensor
    last_S: Tensor
    start_S: Tensor
    length_S: Tensor
    joints_S: Tensor
    """(S + 1,) int32 rows at which sequences of a packed pass begin and end."""
    sequence_T: Tensor
    place_T: Tensor
    virtual_T: Tensor | None
    buckets: tuple[Bucket, ...]
    unbucket_T: Tensor | None
    num_tokens: int
    num_text_tokens: int
    """Without virtual ones."""
    longest: int
    dropout: DropoutKeys
    training: bool
    prefixed: Prefixed | None = None
    given_R: Tensor | None = None
    """(R,) the rows that are read, where they are given and not pooled; those of one lane stand together."""
    lane_reads: tuple[slice, ...] = ()
    """Which of the rows read belong to each lane."""
    source: "Layout | None" = None
    """Of an encoder-decoder: the rows of the encoder; all else here is about the decoder's."""
    groups: dict[tuple[tuple[int, int], ...], Any] = field(default_factory=dict[tuple[tuple[int, int], ...], Any])
    """Places of rows that `low_rank` has worked out for some lanes of this pass."""
    products: SharedProducts = field(default_factory=SharedProducts)
    """With frozen matrices, for layers that read the same rows."""

    @property
    def num_rows(self) -> int:
        """Rows of the flattened hidden states."""
        return self.input_ids.numel()

    def narrowed(self, rows_R: Tensor) -> "Layout":
        """The rest of a packed pass for the rows that are read; nothing that follows may look at other rows.

        Args:
            rows_R: (R,) numbers of those rows, in the sequences' order.
        """
        return replace(
            self,
            input_ids=self.input_ids.view(-1)[rows_R][None],
            position_ids=self.position_ids.view(-1)[rows_R][None],
            type_ids=self.type_ids.view(-1)[rows_R][None],
            lane_rows=self.lane_reads,
            sequence_T=self.sequence_T[rows_R],
            place_T=self.place_T[rows_R],
            virtual_T=None if self.virtual_T is None else self.virtual_T[rows_R],
            buckets=(),
            unbucket_T=None,
            dropout=self.dropout.narrowed(rows_R),
            prefixed=None,
        )


_BUCKET_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)


def build_layout(
    batches: Sequence[LaneBatch],
    *,
    kind: Literal["packed", "padded"],
    position_offset: int,
    pad_id: int,
    training: bool,
    device: torch.device,
) -> Layout:
    """Lay the sequences of all lanes out for one pass.

    Args:
        batches: one per lane, each with at least one sequence.
        kind: the layout the architecture needs.
        position_offset: first position id of a sequence (RoBERTa-likes: pad_token_id + 1).
        pad_id: token id for padding and for the placeholder rows of virtual tokens.
        training: whether dropout is active.
        device: where tensors go.
    """
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    virtual: list[int] = []
    keys: list[tuple[int, int, bool]] = []
    lane_sequences: list[slice] = []
    for batch in batches:
        lane_sequences.append(slice(len(ids), len(ids) + len(batch.ids)))
        for tokens, segment, index in zip(batch.ids, batch.type_ids, batch.index, strict=True):
            n = batch.num_virtual
            ids.append(np.concatenate([np.full(n, pad_id, tokens.dtype), tokens]) if n else tokens)
            types.append(np.concatenate([np.zeros(n, segment.dtype), segment]) if n else segment)
            virtual.append(n)
            keys.append((batch.dropout_key, index, batch.base_dropout))
    lengths = np.array([len(tokens) for tokens in ids])
    width = int(lengths.max())
    stride = lengths if kind == "packed" else np.full(len(ids), width)
    starts = np.concatenate([[0], np.cumsum(stride)[:-1]])
    num_rows = int(stride.sum())
    position = np.concatenate([np.arange(n) for n in stride])
    sequence = np.repeat(np.arange(len(ids)), stride)
    real = position < lengths[sequence]
    shape = (1, num_rows) if kind == "packed" else (len(ids), width)

    def rows(values: Sequence[np.ndarray], fill: int) -> Tensor:
        flat = np.full(num_rows, fill, np.int64)
        flat[real] = np.concatenate(values)
        return to_device(flat, device).view(shape)

    lane_key_S = np.array([folded32(lane_key) for lane_key, _, _ in keys], np.uint32)
    index_S = np.array([index for _, index, _ in keys])
    key_T = row_keys(lane_key_S[sequence], index_S[sequence], position)
    without = np.array([not on for _, _, on in keys])
    exempt_T = to_device(without[sequence], device) if without.any() else None
    virtual_S = np.array(virtual)
    virtual_T = None
    if virtual_S.any():
        virtual_T = to_device(np.where(position < virtual_S[sequence], position, -1), device)
    prefix_S = np.repeat([batch.num_prefix for batch in batches], [len(batch.ids) for batch in batches])
    padded_position = np.minimum(position, lengths[sequence] - 1) + prefix_S[sequence]
    buckets, unbucket = _buckets(starts, lengths, device) if kind == "packed" else ((), None)
    given_R, lane_reads = _given(batches, starts + virtual_S, device)
    layout = Layout(
        kind=kind,
        input_ids=rows(ids, pad_id),
        position_ids=to_device(padded_position + position_offset, device).view(shape),
        type_ids=rows(types, 0),
        attention_mask=None if kind == "packed" else to_device(real.astype(np.int64), device).view(shape),
        lane_rows=tuple(_span(starts, stride, part) for part in lane_sequences),
        lane_sequences=tuple(lane_sequences),
        first_S=to_device(starts + virtual_S, device),
        last_S=to_device(starts + lengths - 1, device),
        start_S=to_device(starts, device),
        length_S=to_device(lengths, device),
        joints_S=to_device(np.append(starts, num_rows).astype(np.int32), device),
        sequence_T=to_device(sequence, device),
        place_T=to_device(position, device),
        virtual_T=virtual_T,
        buckets=buckets,
        unbucket_T=unbucket,
        num_tokens=int(lengths.sum()),
        num_text_tokens=int((lengths - virtual_S).sum()),
        longest=width,
        dropout=DropoutKeys(to_device(key_T, device), exempt_T, batches[0].dropout_key),
        training=training,
        given_R=given_R,
        lane_reads=lane_reads or tuple(lane_sequences),
    )
    if not prefix_S.any():
        return layout
    assert kind == "packed", "attention in the padded layout takes no keys and values from outside"
    return replace(layout, prefixed=_prefixed(layout, prefix_S, starts, lengths))


def _given(
    batches: Sequence[LaneBatch], first_S: np.ndarray, device: torch.device
) -> tuple[Tensor | None, tuple[slice, ...]]:
    """The rows of given places, where there are any, and which of them are each lane's."""
    places = [rows for batch in batches for rows in batch.places or ()]
    if not places:
        return None, ()
    assert len(places) == len(first_S), "either all lanes of a pass give the places of their rows or none"
    rows = np.concatenate([first + row for first, row in zip(first_S, places, strict=True)])
    ends = np.cumsum([sum(map(len, batch.places or ())) for batch in batches]).tolist()
    reads = tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
    return to_device(rows, device), reads


def _prefixed(layout: Layout, prefix_S: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Prefixed:
    """The same pass with `prefix_S[s]` more rows before sequence s."""
    device, num_rows = layout.input_ids.device, layout.num_rows
    wide_lengths = prefix_S + lengths
    wide_starts = np.concatenate([[0], np.cumsum(wide_lengths)[:-1]])
    sequence = np.repeat(np.arange(len(lengths)), wide_lengths)
    place = np.arange(len(sequence)) - wide_starts[sequence] - prefix_S[sequence]
    real = place >= 0
    query_T = to_device(starts[sequence] + np.maximum(place, 0), device)
    key = np.where(real, starts[sequence] + place, 0)
    key[~real] = num_rows + np.arange(int(prefix_S.sum()))
    buckets, unbucket = _buckets(wide_starts, wide_lengths, device)
    wide = replace(
        layout,
        input_ids=layout.input_ids[:, query_T],
        position_ids=layout.position_ids[:, query_T],
        type_ids=layout.type_ids[:, query_T],
        start_S=to_device(wide_starts, device),
        length_S=to_device(wide_lengths, device),
        joints_S=to_device(np.append(wide_starts, len(sequence)).astype(np.int32), device),
        sequence_T=layout.sequence_T[query_T],
        place_T=to_device(place + prefix_S[sequence], device),
        buckets=buckets,
        unbucket_T=unbucket,
        longest=int(wide_lengths.max()),
        dropout=layout.dropout.narrowed(query_T),
    )
    return Prefixed(
        layout=wide,
        query_T=query_T,
        key_T=to_device(key, device),
        real_T=to_device(np.flatnonzero(real), device),
        num_sequences={
            lane: part.stop - part.start for lane, part in enumerate(layout.lane_sequences) if prefix_S[part.start] > 0
        },
    )


def token_chunks(ids: Sequence[np.ndarray], tokens: int, room: int = 0) -> Iterator[np.ndarray]:
    """Cut examples, in order of length, into passes.

    Args:
        ids: token ids per example.
        tokens: most tokens of a pass, padding included (at least one example).
        room: virtual tokens before each example.

    Yields:
        Example numbers.
    """
    lengths = np.array([len(example) for example in ids]) + room
    order = np.argsort(lengths, kind="stable")
    start = 0
    for at in range(len(order)):
        if at > start and (at - start + 1) * lengths[order[at]] > tokens:
            yield order[start:at]
            start = at
    if len(order):
        yield order[start:]


def _span(starts: np.ndarray, stride: np.ndarray, part: slice) -> slice:
    last = part.stop - 1
    return slice(int(starts[part.start]), int(starts[last] + stride[last]))


def _buckets(starts: np.ndarray, lengths: np.ndarray, device: torch.device) -> tuple[tuple[Bucket, ...], Tensor]:
    """Group sequences by length rounded up; also where each row of the pass lies in the buckets joined end to end."""
    limits = np.array([*_BUCKET_LENGTHS, max(int(lengths.max()), _BUCKET_LENGTHS[-1])])
    rounded = limits[np.searchsorted(limits, lengths)]
    buckets: list[Bucket] = []
    unbucket = np.empty(int(lengths.sum()), np.int64)
    offset = 0
    for limit in np.unique(rounded):
        members = np.flatnonzero(rounded == limit)
        width = int(lengths[members].max())
        column = np.arange(width)
        real = column[None, :] < lengths[members, None]
        rows_NL = starts[members, None] + np.where(real, column[None, :], 0)
        unbucket[rows_NL[real]] = offset + np.flatnonzero(real.ravel())
        offset += real.size
        buckets.append(
            Bucket(
                rows_NL=to_device(rows_NL, device),
                lengths_N=to_device(lengths[members], device),
                real_NL=to_device(real, device),
                full=bool(real.all()),
            )
        )
    return tuple(buckets), to_device(unbucket, device)
