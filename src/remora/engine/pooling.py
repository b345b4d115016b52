"""The rows a head reads: the first token of a sequence, its last real token, or the mean over its real tokens.

Virtual tokens are never read: "first" is the first token after them.
"""

import torch
from torch import Tensor

from remora.engine.layout import Layout
from remora.models.architectures import Pooling


def pooled_rows(hidden_TD: Tensor, layout: Layout, pooling: Pooling) -> tuple[Tensor, Tensor]:
    """One row per sequence, or those whose places were given.

    Args:
        hidden_TD: flattened hidden states of a pass.
        layout: the pass.
        pooling: which row, where none were given.

    Returns:
        rows (R, D), and the number (R,) of the row each comes from (the first one for a mean).
    """
    if layout.given_R is not None:
        return hidden_TD.index_select(0, layout.given_R), layout.given_R
    if pooling == "last":
        return hidden_TD.index_select(0, layout.last_S), layout.last_S
    if pooling == "first":
        return hidden_TD.index_select(0, layout.first_S), layout.first_S
    lengths = layout.last_S + 1 - layout.first_S
    numbers = torch.arange(len(lengths), device=hidden_TD.device)
    sequence = torch.repeat_interleave(numbers, lengths, output_size=layout.num_text_tokens)
    offsets = torch.arange(len(sequence), device=hidden_TD.device) - (lengths.cumsum(0) - lengths)[sequence]
    real = hidden_TD.index_select(0, layout.first_S[sequence] + offsets)
    sums = hidden_TD.new_zeros(len(lengths), hidden_TD.shape[1]).index_add(0, sequence, real)
    return sums / lengths[:, None].to(hidden_TD.dtype), layout.first_S
