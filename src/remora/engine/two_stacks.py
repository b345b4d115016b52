"""Passes of encoder-decoders: rows of the encoder (B, S, D), rows of the decoder (B, T, D), and which a module is on.

The encoder runs as a whole before the decoder, so whatever is called meanwhile is on the encoder's rows; after that all
is on the decoder's, but for keys and values of cross-attention. What looks rows up (methods, dropout) asks the current
pass, which says `Layout.source` in the first case.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from remora.engine.attention import CurrentPass
from remora.engine.layout import LaneBatch, Layout, build_layout
from remora.seeds import fold

Forward = Callable[..., Any]


def build_two_layouts(batches: Sequence[LaneBatch], *, pad_id: int, training: bool, device: torch.device) -> Layout:
    """Lay out both sides of all lanes' examples, padded.

    Args:
        batches: one per lane, with `decoder_ids`.
        pad_id: token id for padding and for the placeholder rows of virtual tokens.
        training: whether dropout is active.
        device: where tensors go.

    Returns:
        that of the decoder's rows, with that of the encoder's as its `source`. Heads read rows of the decoder.
    """

    def lay_out(sides: list[LaneBatch]) -> Layout:
        return build_layout(sides, kind="padded", position_offset=0, pad_id=pad_id, training=training, device=device)

    source, target = zip(*map(_sides, batches), strict=True)
    return replace(lay_out(list(target)), source=lay_out(list(source)))


def _sides(batch: LaneBatch) -> tuple[LaneBatch, LaneBatch]:
    """What a lane puts into the encoder and into the decoder."""
    assert batch.decoder_ids is not None, "an encoder-decoder needs the token ids that go into its decoder"
    # Keys of their own, so that a token of a text and one of what is written never share a mask.
    source = replace(batch, decoder_ids=None, places=None, dropout_key=fold(batch.dropout_key, "encoder"))
    types = [np.zeros_like(ids) for ids in batch.decoder_ids]
    return source, replace(batch, ids=batch.decoder_ids, type_ids=types, decoder_ids=None, num_virtual=0, num_prefix=0)


def model_inputs(layout: Layout) -> dict[str, Any]:
    """What transformers' model is called with; both stacks make positions of the rows themselves."""
    source = layout.source
    assert source is not None, "a pass of an encoder-decoder has rows of both stacks"
    return {
        "input_ids": source.input_ids,
        "attention_mask": source.attention_mask,
        "decoder_input_ids": layout.input_ids,
        "decoder_attention_mask": layout.attention_mask,
        "use_cache": False,
    }


def on_source(current: CurrentPass, original: Forward) -> Forward:
    """A module's forward during which the current pass is that of the encoder's rows."""

    def forward(*args: Any, **keywords: Any) -> Any:
        target = current.layout
        assert target is not None, "the base is driven by its driver only"
        assert target.source is not None, "only modules that run on the decoder's rows call this"
        current.layout = target.source
        try:
            return original(*args, **keywords)
        finally:
            current.layout = target

    return forward
