"""Attention by fused implementations of others, for GPUs: over sequences of any length, or over buckets of like length.

All of them know no dropout here: masks keyed by sequence cannot be handed to them (`attention_choice`).

T rows, H heads, K key-value heads, F head features, N sequences of a bucket, L its length.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from remora.engine.attention_choice import AttentionRule, forbidden
from remora.engine.layout import Layout


def _window(rule: AttentionRule) -> tuple[int, int]:
    """How far a query looks to the left and to the right, both ends included; -1 for as far as there is."""
    left = -1 if rule.window is None else rule.window - 1
    return left, 0 if rule.causal else left


def over_sequences(q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule) -> Tensor:
    """torch's variable-length attention; arguments and result as `remora.engine.attention.attend`."""
    from torch.nn.attention import varlen

    joints, longest = layout.joints_S, layout.longest
    out = varlen.varlen_attn(
        *(q_THF, k_TKF, v_TKF, joints, joints, longest, longest),
        scale=rule.scaling,
        window_size=_window(rule),
        enable_gqa=q_THF.shape[1] != k_TKF.shape[1],
    )
    assert isinstance(out, Tensor)
    return out


def by_package(q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule) -> Tensor:
    """The package flash-attn, which also caps scores."""
    package: Any = importlib.import_module("flash_attn")
    joints, longest = layout.joints_S, layout.longest
    return package.flash_attn_varlen_func(
        *(q_THF, k_TKF, v_TKF, joints, joints, longest, longest),
        softmax_scale=rule.scaling,
        causal=rule.causal,
        window_size=_window(rule),
        softcap=rule.softcap or 0.0,
    )


def over_buckets(q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule) -> Tensor:
    """torch's scaled_dot_product_attention, bucket by bucket."""
    num_heads, groups = q_THF.shape[1], q_THF.shape[1] // k_TKF.shape[1]
    joined: list[Tensor] = []
    for bucket in layout.buckets:
        num, width = bucket.rows_NL.shape
        rows = bucket.rows_NL.view(-1)
        q, k, v = (
            x.index_select(0, rows).view(num, width, x.shape[1], x.shape[2]).transpose(1, 2)
            for x in (q_THF, k_TKF, v_TKF)
        )
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        outside = forbidden(bucket, rule)
        mask = None if outside is None else ~outside[:, 0]
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=rule.scaling)
        joined.append(mixed.transpose(1, 2).reshape(num * width, num_heads, -1))
    assert layout.unbucket_T is not None
    return torch.cat(joined).index_select(0, layout.unbucket_T)
