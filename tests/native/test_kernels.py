"""The compiled kernels against the torch operations they stand for, in float64: values, gradients, masks, NaN."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine.activations import activate
from remora.engine.attention import AttentionRule, attend
from remora.engine.dropout import pair_counters
from remora.engine.layout import LaneBatch, Layout, build_layout
from remora.engine.linear import LaneChange, changed_linear
from remora.methods.base import LinearChange
from remora.native import kernels

pytestmark = pytest.mark.skipif(not kernels.status()[0], reason=f"no compiled kernels: {kernels.status()[1]}")

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
DTYPES = tuple(TOLERANCE)
SILU = torch.nn.functional.silu
FORMULAS = {
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "silu": SILU,
}


def layout_of(lengths: tuple[int, ...], *, lanes: int = 1, exempt: int | None = None) -> Layout:
    """A training pass of `lanes` lanes with these sequences each; lane `exempt` has no base dropout."""
    batches = [
        LaneBatch(
            ids=[np.full(length, 7, np.int64) for length in lengths],
            type_ids=[np.zeros(length, np.int64) for length in lengths],
            index=range(len(lengths)),
            dropout_key=11 + lane,
            base_dropout=lane != exempt,
        )
        for lane in range(lanes)
    ]
    return build_layout(batches, kind="packed", position_offset=0, pad_id=0, training=True, device=torch.device("cpu"))


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal numbers that the compared types can hold exactly."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).double()


def close(found: Tensor, expected: Tensor) -> None:
    expected = expected.detach()
    scale = max(1.0, float(expected.abs().max()))
    assert float((found.detach().double() - expected).abs().max()) <= TOLERANCE[found.dtype] * scale


@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_and_their_slopes(name: str, dtype: torch.dtype) -> None:
    grid = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-20, 60.0, -60.0, 300.0, -300.0])])
    x64 = grid.to(dtype).double().requires_grad_()
    grad64 = drawn(*grid.shape, dtype=dtype)
    x, grad = x64.detach().to(dtype).requires_grad_(), grad64.to(dtype)
    expected = FORMULAS[name](x64)
    assert kernels.usable(x)
    found = activate(x, name)
    # Relative to each value: tails must not be drowned by the largest number.
    error = (found - expected).detach().abs() / (1e-6 if dtype == torch.float32 else 4e-3)
    assert bool((error <= 1 + expected.detach().abs()).all())
    (expected_grad,) = torch.autograd.grad(expected, x64, grad64)
    (found_grad,) = torch.autograd.grad(found, x, grad)
    close(found_grad, expected_grad)


@pytest.mark.parametrize("name", kernels.ACTIVATIONS)
def test_activations_hand_nan_on(name: str) -> None:
    x = torch.tensor([1.0, math.nan, -2.0], requires_grad=True)
    y = activate(x, name)
    assert y.isnan().tolist() == [False, True, False]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("features", [1, 5, 32, 384])
@pytest.mark.parametrize("exempt", [None, 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_has_the_masks_of_the_torch_path(features: int, exempt: int | None, dtype: torch.dtype) -> None:
    layout = layout_of((3, 9, 1), lanes=2, exempt=exempt)
    x = drawn(layout.num_rows, features).to(dtype).requires_grad_()
    other = layout_of((3, 9, 1), lanes=2, exempt=exempt)
    y = layout.dropout.hidden(x[None], "site", 0.3)[0]
    expected = other.dropout.hidden(x.detach().double()[None], "site", 0.3)[0]
    assert torch.equal(y == 0, expected == 0)
    assert exempt is None or torch.equal(y[layout.lane_rows[0]], x[layout.lane_rows[0]])
    close(y, expected)
    grad = drawn(*x.shape, seed=1).to(dtype)
    (found,) = torch.autograd.grad(y, x, grad)
    assert torch.equal(found == 0, (grad == 0) | (expected == 0))


def test_dropped_elements_are_zero_where_the_input_is_nan() -> None:
    layout = layout_of((40,))
    y = layout.dropout.hidden(torch.full((1, 40, 16), math.nan), "site", 0.5)
    assert bool((y == 0).any())
    assert bool(y.isnan().any())
    assert bool(((y == 0) | y.isnan()).all())


RULES = {
    "plain": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=None, causal=False),
    "dropout": AttentionRule(scaling=0.5, dropout=0.2, softcap=None, window=None, causal=False),
    "causal": AttentionRule(scaling=0.5, dropout=0.2, softcap=None, window=None, causal=True),
    "window": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=4, causal=False),
    "causal window": AttentionRule(scaling=0.5, dropout=0.1, softcap=None, window=5, causal=True),
    "softcap": AttentionRule(scaling=0.5, dropout=0.1, softcap=2.0, window=None, causal=True),
}
LENGTHS = (1, 2, 15, 16, 17, 33, 64, 3)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("heads", "kv_heads", "features"), [(3, 3, 32), (4, 2, 20), (2, 1, 5)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_attention(rule: AttentionRule, heads: int, kv_heads: int, features: int, dtype: torch.dtype) -> None:
    """Against the torch path in float64, which has its own proof; large q and k make mistakes in limits show."""
    rows = 2 * sum(LENGTHS)
    shapes = ((rows, heads, features), (rows, kv_heads, features), (rows, kv_heads, features))
    exact = [drawn(*shape, seed=i, dtype=dtype) * (2 if i < 2 else 1) for i, shape in enumerate(shapes)]
    grad = drawn(rows, heads, features, seed=9, dtype=dtype)

    def run(dtype: torch.dtype) -> tuple[Tensor, ...]:
        inputs = [x.to(dtype).requires_grad_() for x in exact]
        layout = layout_of(LENGTHS, lanes=2, exempt=1)
        out = attend(*inputs, layout, rule, "attention")
        return out, *torch.autograd.grad(out, inputs, grad.to(dtype))

    for found, expected in zip(run(dtype), run(torch.float64), strict=True):
        assert found.dtype == dtype
        close(found, expected)


def test_attention_reads_strided_inputs_and_leaves_out_unwanted_gradients() -> None:
    rule = RULES["plain"]
    whole = drawn(3, 20, 2, 8).float()
    q, k, v = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in whole)
    v.requires_grad_()
    layout = layout_of((13, 7))
    out = attend(q, k, v, layout, rule, "attention")
    expected = attend(*(x.detach().contiguous().double() for x in (q, k, v)), layout_of((13, 7)), rule, "attention")
    close(out, expected)
    out.sum().backward()
    assert v.grad is not None
    assert q.grad is None


def test_a_sequence_of_nan_spoils_no_other() -> None:
    q = drawn(30, 2, 8).float()
    q[:10] = math.nan
    k, v = drawn(30, 2, 8, seed=1).float(), drawn(30, 2, 8, seed=2).float()
    out = attend(q, k, v, layout_of((10, 20)), RULES["dropout"], "attention")
    assert bool(out[:10].isnan().all())
    assert bool(out[10:].isfinite().all())


RANKS = [1, 4, 8, 9, 16, 32]


@pytest.mark.parametrize(("rank", "dropout"), list(product(RANKS, [0.0, 0.1])))
@pytest.mark.parametrize(("D", "O"), [(384, 1536), (20, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_low_rank_terms(rank: int, dropout: float, D: int, O: int, dtype: torch.dtype) -> None:  # noqa: E741
    """Two lanes of different rank and a bare one between them, against the same code in float64."""
    layout = layout_of((5, 12), lanes=3)
    weight, bias = drawn(O, D, dtype=dtype) / 16, drawn(O, seed=1, dtype=dtype)
    factors = [drawn(rank, D, seed=2) / 16, drawn(O, rank, seed=3), drawn(3, D, seed=4) / 16, drawn(O, 3, seed=5)]
    x64, grad64 = drawn(layout.num_rows, D, seed=6, dtype=dtype), drawn(layout.num_rows, O, seed=7, dtype=dtype)

    def run(dtype: torch.dtype, master: torch.dtype) -> tuple[Tensor, ...]:
        x = x64.to(dtype).requires_grad_()
        a, b, c, d = (value.to(master).requires_grad_() for value in factors)
        changes = [
            LaneChange(
                rows=layout.lane_rows[lane],
                change=LinearChange(A=A, B=B, scale=1.5, dropout=dropout),
                dropout_site=77,
            )
            for lane, A, B in ((0, a, b), (2, c, d))
        ]
        y = changed_linear(x, weight.to(dtype), bias.to(dtype), changes, layout_of((5, 12), lanes=3))
        return y, *torch.autograd.grad(y, [x, a, b, c, d], grad64.to(dtype))

    found, expected = run(dtype, torch.float32), run(torch.float64, torch.float64)
    for one, other in zip(found, expected, strict=True):
        other = other.detach()
        scale = max(1.0, float(other.abs().max()))
        assert float((one.detach().double() - other).abs().max()) <= TOLERANCE[dtype] * scale


def test_low_rank_terms_compute_no_gradient_that_nobody_wants() -> None:
    layout = layout_of((6,))
    x = drawn(6, 16).float()
    A, B = drawn(4, 16, seed=1).float(), drawn(8, 4, seed=2).float().requires_grad_()
    change = LaneChange(rows=layout.lane_rows[0], change=LinearChange(A=A, B=B, scale=1.0))
    y = changed_linear(x, drawn(8, 16).float(), None, [change], layout)
    y.sum().backward()
    expected = torch.ones(6, 8).T @ (x @ A.T)
    assert B.grad is not None
    close(B.grad, expected.double())


def test_other_types_are_left_to_torch() -> None:
    assert not kernels.usable(torch.zeros(1, dtype=torch.float64))
    assert not kernels.usable(torch.zeros(1, dtype=torch.float16))
    assert not kernels.usable(torch.zeros(1, device="meta"))


def test_rows_do_not_depend_on_their_number() -> None:
    """A row's bits are the same alone and among others: what makes packed and solo training agree."""
    layout, alone = layout_of((5, 12, 31)), layout_of((5,))
    q, k, v = (drawn(48, 2, 16, seed=i).bfloat16() for i in range(3))
    rule = RULES["dropout"]
    together = attend(q, k, v, layout, rule, "attention")
    assert torch.equal(together[:5], attend(q[:5], k[:5], v[:5], alone, rule, "attention"))
    x = drawn(48, 64).bfloat16()
    call = kernels.LowRankCall(x_TD=x, A_RD=drawn(4, 64).float(), B_OR=drawn(32, 4).float(), scaling=2.0, drop=None)
    y = torch.zeros(48, 32, dtype=torch.bfloat16)
    call.forward(y)
    few = torch.zeros(3, 32, dtype=torch.bfloat16)
    kernels.LowRankCall(x_TD=x[:3], A_RD=call.A_RD, B_OR=call.B_OR, scaling=2.0, drop=None).forward(few)
    assert torch.equal(y[:3], few)
    drop = layout.dropout.draw(3, 0.1, pair_counters(64, x.device))
    assert torch.equal(
        kernels.drop_rows(x, drop)[:5], kernels.drop_rows(x[:5], alone.dropout.draw(3, 0.1, drop.counters))
    )
