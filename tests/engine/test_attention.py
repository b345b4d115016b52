"""Packed attention against attention written out per sequence, in float64, with gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from remora.engine.attention import AttentionRule, CurrentPass, attend, bind, packed_attention
from remora.engine.layout import LaneBatch, Layout, build_layout

LENGTHS = (1, 7, 3, 12, 9, 9, 20)


def layout_of(lengths: tuple[int, ...], *, training: bool = False, dropout_key: int = 5) -> Layout:
    ids = [np.full(length, 7, np.int64) for length in lengths]
    types = [np.zeros(length, np.int64) for length in lengths]
    batch = LaneBatch(ids=ids, type_ids=types, index=range(len(ids)), dropout_key=dropout_key)
    return build_layout(
        [batch], kind="packed", position_offset=0, pad_id=0, training=training, device=torch.device("cpu")
    )


def tensors(num_heads: int, num_kv: int, features: int = 4, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    rows = sum(LENGTHS)
    q = scale * torch.randn(rows, num_heads, features, generator=rng, dtype=torch.float64)
    k = scale * torch.randn(rows, num_kv, features, generator=rng, dtype=torch.float64)
    v = torch.randn(rows, num_kv, features, generator=rng, dtype=torch.float64)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def explicit(q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
    """One sequence, one head after the other."""
    out: list[Tensor] = []
    start = 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        heads: list[Tensor] = []
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            scores = q[rows, head] @ k[rows, group].T * rule.scaling
            if rule.softcap is not None:
                scores = rule.softcap * torch.tanh(scores / rule.softcap)
            for i in range(length):
                for j in range(length):
                    outside = rule.window is not None and abs(i - j) >= rule.window
                    if outside or (rule.causal and j > i):
                        scores = scores.index_put((torch.tensor(i), torch.tensor(j)), torch.tensor(-math.inf).double())
            heads.append(scores.softmax(-1) @ v[rows, group])
        out.append(torch.stack(heads, 1))
        start += length
    return torch.cat(out)


RULES = {
    "plain": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=None, causal=False),
    "causal": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=None, causal=True),
    "window": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=4, causal=False),
    "causal window": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=4, causal=True),
    "softcap": AttentionRule(scaling=0.7, dropout=0.0, softcap=2.0, window=None, causal=True),
    "everything": AttentionRule(scaling=0.7, dropout=0.0, softcap=2.0, window=5, causal=True),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("num_heads", "num_kv"), [(4, 4), (4, 2), (3, 1)])
def test_forward_and_gradients(name: str, num_heads: int, num_kv: int) -> None:
    rule = RULES[name]
    given = tensors(num_heads, num_kv)
    weights = torch.randn(sum(LENGTHS), num_heads, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results: list[tuple[Tensor, ...]] = []
    for function in (lambda q, k, v: attend(q, k, v, layout_of(LENGTHS), rule, "a"), lambda *x: explicit(*x, rule)):
        out = function(*given)
        results.append((out, *torch.autograd.grad((out * weights).sum(), given)))
    for mine, naive in zip(*results, strict=True):
        torch.testing.assert_close(mine, naive, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["window", "causal", "softcap"])
def test_leaving_a_rule_out_is_an_error_of_order_one(name: str) -> None:
    given = tensors(4, 2)
    with_rule = attend(*given, layout_of(LENGTHS), RULES[name], "a")
    without = AttentionRule(scaling=RULES[name].scaling, dropout=0.0, softcap=None, window=None, causal=False)
    assert float((with_rule - attend(*given, layout_of(LENGTHS), without, "a")).abs().max().detach()) > 0.3


def test_gradcheck_with_dropout() -> None:
    given = tensors(4, 2, features=2, scale=1.0)
    rule = AttentionRule(scaling=0.5, dropout=0.3, softcap=3.0, window=6, causal=True)

    def once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, layout_of(LENGTHS, training=True), rule, "a")

    assert torch.autograd.gradcheck(once, given, fast_mode=True)


def test_needs_only_the_gradients_asked_for() -> None:
    q, k, v = (value.detach() for value in tensors(2, 2))
    out = attend(q, k, v.requires_grad_(), layout_of(LENGTHS), RULES["plain"], "a")
    out.sum().backward()
    assert v.grad is not None
    assert q.grad is None


def test_dropout_of_probabilities_is_keyed_by_step_and_call() -> None:
    given = [value.detach() for value in tensors(2, 2)]
    rule = AttentionRule(scaling=0.1, dropout=0.5, softcap=None, window=None, causal=False)
    first = layout_of(LENGTHS, training=True)
    outs = [attend(*given, first, rule, "a"), attend(*given, first, rule, "a")]
    outs.append(attend(*given, layout_of(LENGTHS, training=True), rule, "a"))
    outs.append(attend(*given, layout_of(LENGTHS, training=True, dropout_key=6), rule, "a"))
    assert torch.equal(outs[0], outs[2]), "the same key gives the same mask"
    assert not torch.allclose(outs[0], outs[1]), "the second call of a module has masks of its own"
    assert not torch.allclose(outs[0], outs[3]), "another step has masks of its own"
    plain = attend(*given, layout_of(LENGTHS, training=False), rule, "a")
    mean = torch.stack(
        [attend(*given, layout_of(LENGTHS, training=True, dropout_key=key), rule, "a") for key in range(400)]
    ).mean(0)
    assert float((mean - plain).abs().max()) < 0.35


class Module(nn.Module):
    is_causal = False


@pytest.fixture
def bound() -> nn.Module:
    module, current = Module(), CurrentPass()
    current.layout = layout_of(LENGTHS)
    undo = bind(module, current)
    yield module
    undo()


def arguments() -> list[Tensor]:
    return [value.detach().transpose(0, 1)[None] for value in tensors(2, 2)]


def test_unknown_keywords_raise(bound: nn.Module) -> None:
    packed_attention(bound, *arguments(), None, position_ids=torch.zeros(1), use_cache=False, unheard_of=None)
    with pytest.raises(AssertionError, match="s_aux"):
        packed_attention(bound, *arguments(), None, s_aux=torch.zeros(2))


def test_masks_and_batches_raise(bound: nn.Module) -> None:
    with pytest.raises(AssertionError, match="no mask"):
        packed_attention(bound, *arguments(), torch.ones(1, 1, 1, 1))
    q, k, v = arguments()
    with pytest.raises(AssertionError, match="one row of sequences"):
        packed_attention(bound, q.expand(2, -1, -1, -1), k, v, None)


def test_scaling_and_causality_come_from_the_module_by_default(bound: nn.Module) -> None:
    q, k, v = arguments()
    out = packed_attention(bound, q, k, v, None)[0]
    same = packed_attention(bound, q, k, v, None, scaling=0.5, is_causal=False)[0]
    assert torch.equal(out, same)
    assert not torch.allclose(out, packed_attention(bound, q, k, v, None, is_causal=True)[0])
