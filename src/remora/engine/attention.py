"""Attention over the sequences of a packed pass, registered with transformers' AttentionInterface under one name.

Sequences are gathered into buckets of like length, attended to by explicit products (on CPU several times faster than
torch's fused kernel on short sequences, whose bf16 backward is slow), and put back. The backward pass is written out,
so that nothing is kept but q, k, v and the probabilities. Where the compiled kernel is there it takes passes of short
sequences: it reads rows in place and keeps two numbers per query and head instead of probabilities. On a GPU fused
attention of others takes what it can (`attention_choice`).

T rows, H heads, K key-value heads, G = H / K query heads per key-value head, F head features,
N sequences of a bucket, L its length.
"""

import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers import AttentionInterface

from remora.engine.attention_choice import AttentionRule, choose, flash_here, forbidden
from remora.engine.dropout import apply_mask, keep_mask
from remora.engine.fused_attention import by_package, over_buckets, over_sequences
from remora.engine.hashing import feature_counters
from remora.engine.layout import Bucket, Layout
from remora.native import kernels

NAME = "remora_packed"

_IGNORED_KEYWORDS = frozenset(
    {
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "deterministic",
        "output_hidden_states",
        "return_dict",
    }
)
"""Keywords of transformers that change nothing here: positions are already in q and k, no cache, no weights out."""


class _Attend(Function):
    """Forward and backward of attention over all buckets of a pass."""

    @staticmethod
    def forward(
        ctx: Any, q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule, site: int
    ) -> Tensor:
        num_heads, num_kv = q_THF.shape[1], k_TKF.shape[1]
        groups = num_heads // num_kv
        out = torch.empty(q_THF.shape[0], num_heads, v_TKF.shape[2], dtype=q_THF.dtype, device=q_THF.device)
        saved: list[Tensor] = []
        joined: list[Tensor] = []
        for bucket in layout.buckets:
            q = _gather(q_THF, bucket, num_kv, groups)
            k, v = _gather(k_TKF, bucket, num_kv, 1), _gather(v_TKF, bucket, num_kv, 1)
            num, width = bucket.rows_NL.shape
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(rule.scaling)
            if rule.softcap is not None:
                scores.div_(rule.softcap).tanh_()
                saved.append(scores)
                scores = scores * rule.softcap
            scores = scores.view(num, num_kv, groups, width, width)
            outside = forbidden(bucket, rule)
            if outside is not None:
                scores = scores.masked_fill_(outside, float("-inf"))
            probs = scores.softmax(-1)
            dropped, mask = _drop_probs(probs, layout, bucket, rule, site)
            mixed = torch.bmm(dropped.view(num * num_kv, groups * width, width), v)
            joined.append(_ungather(mixed, num, num_kv, groups, width))
            saved += [q, k, v, probs] if mask is None else [q, k, v, probs, mask]
        assert layout.unbucket_T is not None
        torch.index_select(torch.cat(joined), 0, layout.unbucket_T, out=out)
        ctx.save_for_backward(*saved)
        ctx.layout, ctx.rule, ctx.shape = layout, rule, (num_heads, num_kv)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_THF,) = grads
        layout: Layout = ctx.layout
        rule: AttentionRule = ctx.rule
        num_heads, num_kv = ctx.shape
        groups = num_heads // num_kv
        need_q, need_k, need_v = ctx.needs_input_grad[:3]
        saved = iter(ctx.saved_tensors)
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for bucket in layout.buckets:
            num, width = bucket.rows_NL.shape
            capped = next(saved) if rule.softcap is not None else None
            q, k, v, probs = next(saved), next(saved), next(saved), next(saved)
            flat = (num * num_kv, groups * width, width)
            mask = next(saved) if _has_dropout(layout, rule) else None
            grad = _gather(grad_THF, bucket, num_kv, groups)
            if not bucket.full:
                padding = ~bucket.real_NL[:, None, None, :].expand(num, num_kv, groups, width)
                grad = grad.masked_fill_(padding.reshape(num * num_kv, groups * width, 1), 0)
            if need_v:
                dropped = _apply_probs_mask(probs, mask, layout, bucket, rule).view(flat)
                parts[2].append(_ungather(torch.bmm(dropped.transpose(1, 2), grad), num, num_kv, 1, width))
            if not (need_q or need_k):
                continue
            grad_probs = torch.bmm(grad, v.transpose(1, 2)).view(probs.shape)
            grad_probs = _apply_probs_mask(grad_probs, mask, layout, bucket, rule)
            weighted = grad_probs.mul_(probs)
            grad_scores = weighted.sub_(probs * weighted.sum(-1, keepdim=True)).view(flat)
            if capped is not None:
                grad_scores = grad_scores * (1 - capped * capped)
            grad_scores = grad_scores.mul_(rule.scaling)
            if need_q:
                parts[0].append(_ungather(torch.bmm(grad_scores, k), num, num_kv, groups, width))
            if need_k:
                parts[1].append(_ungather(torch.bmm(grad_scores.transpose(1, 2), q), num, num_kv, 1, width))
        assert layout.unbucket_T is not None
        unbucket = layout.unbucket_T
        q_k_v = (torch.cat(part).index_select(0, unbucket) if part else None for part in parts)
        return (*q_k_v, None, None, None)


class _NativeAttend(Function):
    """Forward and backward of attention by the compiled kernel, in float32 inside."""

    @staticmethod
    def forward(
        ctx: Any, q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule, site: int
    ) -> Tensor:
        q_THF, k_TKF, v_TKF = (x if x.stride(2) == 1 else x.contiguous() for x in (q_THF, k_TKF, v_TKF))
        num_rows, num_heads, features = q_THF.shape
        out = torch.empty(num_rows, num_heads, features, dtype=q_THF.dtype)
        stats = torch.empty(num_rows, num_heads, 2, dtype=torch.float32)
        ctx.layout, ctx.rule, ctx.site = layout, rule, site
        _native_call(q_THF, k_TKF, v_TKF, layout, rule, site).forward(out, stats)
        ctx.save_for_backward(q_THF, k_TKF, v_TKF, stats)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_THF,) = grads
        q_THF, k_TKF, v_TKF, stats = ctx.saved_tensors
        out = [
            torch.empty(x.shape, dtype=x.dtype) if needed else None
            for x, needed in zip((q_THF, k_TKF, v_TKF), ctx.needs_input_grad[:3], strict=True)
        ]
        call = _native_call(q_THF, k_TKF, v_TKF, ctx.layout, ctx.rule, ctx.site)
        call.backward(stats, grad_THF.contiguous(), *out)
        return (*out, None, None, None)


def _native_call(
    q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule, site: int
) -> kernels.AttentionCall:
    drop = None
    if _has_dropout(layout, rule):
        counters = probs_counters(q_THF.shape[1], -(-layout.longest // 16) * 16, q_THF.device)
        drop = layout.dropout.draw(site, rule.dropout, counters, exempt=True)
    return kernels.AttentionCall(
        q_THF=q_THF,
        k_TKF=k_TKF,
        v_TKF=v_TKF,
        starts_S=layout.start_S,
        lengths_S=layout.length_S,
        scaling=rule.scaling,
        softcap=rule.softcap,
        window=rule.window,
        causal=rule.causal,
        drop=drop,
    )


def _gather(x_THF: Tensor, bucket: Bucket, num_kv: int, groups: int) -> Tensor:
    """Rows of a bucket as (N * K, G * L, F)."""
    num, width = bucket.rows_NL.shape
    rows = x_THF.index_select(0, bucket.rows_NL.reshape(-1))
    features = x_THF.shape[2]
    return rows.view(num, width, num_kv, groups, features).permute(0, 2, 3, 1, 4).reshape(-1, groups * width, features)


def _ungather(x: Tensor, num: int, num_kv: int, groups: int, width: int) -> Tensor:
    """(N * K, G * L, F) back to rows (N * L, K * G, F)."""
    features = x.shape[-1]
    rows = x.view(num, num_kv, groups, width, features).permute(0, 3, 1, 2, 4)
    return rows.reshape(num * width, num_kv * groups, features)


def _has_dropout(layout: Layout, rule: AttentionRule) -> bool:
    return layout.training and rule.dropout > 0


@cache
def probs_counters(num_heads: int, width: int, device: torch.device) -> Tensor:
    """(H, 1, ceil(L / 2)) int32 counters of (head, pair of key positions), the same whatever the padded length."""
    half = (width + 1) // 2
    heads = feature_counters(num_heads, device)
    return (heads[:, None] * 40503 + feature_counters(half, device)[None, :])[:, None, :]


def _drop_probs(
    probs: Tensor, layout: Layout, bucket: Bucket, rule: AttentionRule, site: int
) -> tuple[Tensor, Tensor | None]:
    if not _has_dropout(layout, rule):
        return probs, None
    _, num_kv, groups, width, _ = probs.shape
    keys = layout.dropout.keys(site, bucket.rows_NL)[:, None, :]
    counters = probs_counters(num_kv * groups, width, probs.device)
    mask = keep_mask(keys, width, rule.dropout, counters).view(probs.shape)
    return _apply_probs_mask(probs, mask, layout, bucket, rule), mask


def _apply_probs_mask(x: Tensor, mask: Tensor | None, layout: Layout, bucket: Bucket, rule: AttentionRule) -> Tensor:
    if mask is None:
        return x
    dropped = apply_mask(x, mask, rule.dropout)
    exempt = layout.dropout.exempt(bucket.rows_NL)
    return dropped if exempt is None else torch.where(exempt[:, None, None, :, None], x, dropped)


def attend(q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, layout: Layout, rule: AttentionRule, name: str) -> Tensor:
    """Attention within each sequence of a packed pass.

    Args:
        q_THF: (T, H, F).
        k_TKF: (T, K, F), and v_TKF likewise.
        layout: the pass.
        rule: scaling, dropout, soft-capping, window, causality.
        name: of the attention module; with the call's number it keys the dropout.

    Returns:
        (T, H, F).
    """
    site = layout.dropout.site(name) if _has_dropout(layout, rule) else 0
    chosen = choose(
        device_type=q_THF.device.type,
        dtype=q_THF.dtype,
        features=(q_THF.shape[2], v_TKF.shape[2]),
        longest=layout.longest,
        softcap=rule.softcap is not None,
        dropping=_has_dropout(layout, rule),
        native=kernels.usable(q_THF),
        flash=flash_here(q_THF.device),
    )
    match chosen.computation:
        case "kernel":
            return _NativeAttend.apply(q_THF, k_TKF, v_TKF, layout, rule, site)
        case "products":
            return _Attend.apply(q_THF, k_TKF, v_TKF, layout, rule, site)
        case "varlen":
            return over_sequences(q_THF, k_TKF, v_TKF, layout, rule)
        case "flash-attn":
            return by_package(q_THF, k_TKF, v_TKF, layout, rule)
        case "buckets":
            return over_buckets(q_THF, k_TKF, v_TKF, layout, rule)


Prefixes = Mapping[int, tuple[Tensor, Tensor]]
"""Keys and values that lanes bring to an attention module, (n, K, F) or (S, n, K, F), by the lane's number."""


def attend_with_prefixes(
    q_THF: Tensor, k_TKF: Tensor, v_TKF: Tensor, prefixes: Prefixes, layout: Layout, rule: AttentionRule, name: str
) -> Tensor:
    """As `attend`, with keys and values before those of each sequence of some lanes, as a cache would hold them.

    Windows and causality see them at the places 0 .. n-1 of a sequence, the sequence's own rows after them.
    """
    wide = layout.prefixed
    if wide is None:
        assert not prefixes, f"the pass has no room for the keys and values given at {name}"
        return attend(q_THF, k_TKF, v_TKF, layout, rule, name)
    assert set(prefixes) == set(wide.num_sequences), f"every lane with a prefix must give one at {name}"

    def widened(x_TKF: Tensor, part: int) -> Tensor:
        given = [x_TKF]
        for lane, num in wide.num_sequences.items():
            extra = prefixes[lane][part].to(x_TKF.dtype)
            given.append(extra.expand(num, *extra.shape[-3:]).flatten(0, 1))
        return torch.cat(given).index_select(0, wide.key_T)

    rows = (q_THF.index_select(0, wide.query_T), widened(k_TKF, 0), widened(v_TKF, 1))
    return attend(*rows, wide.layout, rule, name).index_select(0, wide.real_T)


class CurrentPass(threading.local):
    """The pass this thread is running; attention looks it up here, as transformers hands it no such thing."""

    layout: Layout | None = None

    def prefixes(self, module: str) -> Prefixes:
        """What lanes bring to the attention module of that name."""
        return {}


_CURRENT: dict[int, tuple[CurrentPass, str]] = {}
"""For every module of a driven model: its passes and the module's name."""


def bind(model: nn.Module, current: CurrentPass) -> Callable[[], None]:
    """Let the attention modules of `model` find their pass; returns what undoes it."""
    keys = [id(module) for module in model.modules()]
    for key, (name, _) in zip(keys, model.named_modules(), strict=True):
        _CURRENT[key] = (current, name)

    def undo() -> None:
        for key in keys:
            _CURRENT.pop(key, None)

    return undo


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls: query (1, H, T, F), key and value (1, K, T, F); returns (1, T, H, F).

    Raises:
        AssertionError: a keyword outside the closed list, a mask, or a pass that is not packed: ignoring any of them
            would give wrong numbers without a word.
    """
    unknown = sorted(name for name, given in keywords.items() if given is not None and name not in _IGNORED_KEYWORDS)
    if unknown:
        raise AssertionError(f"attention was asked for {', '.join(unknown)}, which packed attention does not know")
    if attention_mask is not None or query.shape[0] != 1:
        raise AssertionError("packed attention takes one row of sequences and no mask")
    current, name = _CURRENT[id(module)]
    assert current.layout is not None
    rule = AttentionRule(
        scaling=scaling if scaling is not None else query.shape[-1] ** -0.5,
        dropout=dropout,
        softcap=softcap,
        window=sliding_window,
        causal=bool(getattr(module, "is_causal", False) if is_causal is None else is_causal),
    )
    rows = (query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1))
    return attend_with_prefixes(*rows, current.prefixes(name), current.layout, rule, name)[None], None


def register() -> None:
    """Make the name known to transformers, as one that has no masks: it then makes none.

    A mask function of that name that builds none would do the same, but before calling it transformers looks at the
    values of the positions, and on a GPU every pass would wait for that.
    """
    AttentionInterface.register(NAME, packed_attention)


__all__ = ["NAME", "AttentionRule", "CurrentPass", "attend", "bind", "packed_attention", "register"]
