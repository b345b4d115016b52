"""The changed linear layer against its formula, with gradients, and the joining of blocks of a fused projection."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine.layout import LaneBatch, Layout, build_layout
from remora.engine.linear import LaneChange, changed_linear, widen
from remora.methods.base import LinearChange, join

D, O, R, T = 5, 4, 2, 6  # noqa: E741
NAMES = ("A", "B", "delta", "in_scale", "out_scale", "bias")
COMBINATIONS = [(), ("A", "B"), ("delta",), ("in_scale",), ("out_scale",), ("bias",), ("A", "B", "out_scale"), NAMES]


def layout(training: bool = False) -> Layout:
    lanes = [
        LaneBatch(ids=[np.ones(T, np.int64)], type_ids=[np.zeros(T, np.int64)], index=[0], dropout_key=k)
        for k in range(3)
    ]
    return build_layout(
        lanes, kind="packed", position_offset=0, pad_id=0, training=training, device=torch.device("cpu")
    )


def drawn(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"A": (R, D), "B": (O, R), "delta": (O, D), "in_scale": (D,), "out_scale": (O,), "bias": (O,)}
    return {
        name: torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_() for name, shape in shapes.items()
    }


def base() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(99)
    x = torch.randn(3 * T, D, generator=rng, dtype=torch.float64).requires_grad_()
    weight = torch.randn(O, D, generator=rng, dtype=torch.float64)
    return x, weight, torch.randn(O, generator=rng, dtype=torch.float64)


def formula(x: Tensor, W: Tensor, b: Tensor | None, change: LinearChange) -> Tensor:
    inner = (x if change.in_scale is None else x * change.in_scale) @ W.T
    if change.A is not None and change.B is not None:
        inner = inner + change.scale * x @ change.A.T @ change.B.T
    if change.delta is not None:
        inner = inner + x @ change.delta.T
    y = inner if change.out_scale is None else inner * change.out_scale
    y = y if b is None else y + b
    return y if change.bias is None else y + change.bias


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("first", COMBINATIONS)
@pytest.mark.parametrize("second", [(), ("A", "B"), NAMES])
def test_values_and_gradients(first: tuple[str, ...], second: tuple[str, ...], with_bias: bool) -> None:
    """Lanes 0 and 2 are changed, lane 1 between them is not."""
    x, weight, bias = base()
    given = bias if with_bias else None
    tensors = [{n: v for n, v in drawn(k).items() if n in names} for k, names in enumerate((first, second))]
    changes = [LinearChange(**part, scale=1.5) for part in tensors]
    rows = [slice(0, T), slice(2 * T, 3 * T)]
    lanes = [LaneChange(rows=r, change=c) for r, c in zip(rows, changes, strict=True)]
    mine = changed_linear(x, weight, given, lanes, layout())
    middle = formula(x[T : 2 * T], weight, given, LinearChange())
    theirs = torch.cat(
        [formula(x[rows[0]], weight, given, changes[0]), middle, formula(x[rows[1]], weight, given, changes[1])]
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    leaves = [x, *tensors[0].values(), *tensors[1].values()]
    pull = torch.randn(mine.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    got = torch.autograd.grad((mine * pull).sum(), leaves)
    wanted = torch.autograd.grad((theirs * pull).sum(), leaves)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradcheck_with_dropout() -> None:
    x, weight, bias = base()
    parts = drawn(0)

    def once(x: Tensor, *values: Tensor) -> Tensor:
        change = LinearChange(**dict(zip(NAMES, values, strict=True)), scale=0.5, dropout=0.4)
        return changed_linear(x, weight, bias, [LaneChange(rows=slice(0, 2 * T), change=change)], layout(training=True))

    assert torch.autograd.gradcheck(once, (x, *parts.values()))


def test_input_needs_no_gradient() -> None:
    x, weight, bias = base()
    parts = drawn(0)
    change = LinearChange(**parts)
    y = changed_linear(x.detach(), weight, bias, [LaneChange(rows=slice(0, T), change=change)], layout())
    y.sum().backward()
    assert all(value.grad is not None for value in parts.values())


def test_nan_of_one_lane_stays_there() -> None:
    x, weight, bias = base()
    first, second = drawn(0), drawn(1)
    with torch.no_grad():
        first["A"].fill_(math.nan)
        x[:T] = math.nan
    lanes = [
        LaneChange(rows=slice(0, T), change=LinearChange(**first)),
        LaneChange(rows=slice(2 * T, 3 * T), change=LinearChange(**second)),
    ]
    y = changed_linear(x, weight, bias, lanes, layout())
    y.sum().backward()
    assert torch.isfinite(y[T:]).all()
    assert torch.isfinite(x.grad[T:]).all()
    assert all(torch.isfinite(value.grad).all() for value in second.values())
    assert torch.isnan(y[:T]).all()


def test_delta_weight_is_the_changed_layer() -> None:
    x, weight, _ = base()
    change = LinearChange(**{n: v for n, v in drawn(0).items() if n not in ("bias", "in_scale")}, scale=0.7)
    torch.testing.assert_close(x @ change.delta_weight(weight).T, formula(x, weight, None, change))


def test_blocks_of_a_fused_projection_join_to_one_change() -> None:
    _, weight, bias = base()
    x = torch.randn(T, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    fused_W, fused_b = torch.cat([weight, 2 * weight, weight - 1]), torch.cat([bias, bias + 1, bias])
    columns = [torch.tensor([0, 3, 6, 9]), torch.tensor([2, 5, 8, 11])]
    parts = [LinearChange(**{n: v for n, v in drawn(k).items() if n != "in_scale"}, scale=1.0 + k) for k in (0, 1)]
    whole = join([widen(change, cols, 3 * O) for change, cols in zip(parts, columns, strict=True)])
    y = formula(x, fused_W, fused_b, whole)
    expected = formula(x, fused_W, fused_b, LinearChange()).clone()
    for change, cols in zip(parts, columns, strict=True):
        expected[:, cols] = formula(x, fused_W[cols], fused_b[cols], change)
    torch.testing.assert_close(y, expected)


def test_a_block_cannot_scale_the_input_of_the_others() -> None:
    with pytest.raises(AssertionError, match="cannot scale the input"):
        widen(LinearChange(in_scale=torch.ones(D)), torch.arange(O), 3 * O)


@pytest.mark.parametrize(("trained", "dropout", "kept"), [(True, 0.0, True), (True, 0.3, False), (False, 0.3, False)])
def test_the_input_is_kept_only_for_a_trained_A(trained: bool, dropout: float, kept: bool) -> None:
    """With dropout the dropped input is kept instead; with A frozen (LoRA-FA) nothing as wide as the input is."""
    x, weight, bias = base()
    parts = {name: value for name, value in drawn(0).items() if name in ("A", "B")}
    parts["A"].requires_grad_(trained)
    change = LinearChange(**parts, dropout=dropout)
    y = changed_linear(x, weight, bias, [LaneChange(rows=slice(0, 3 * T), change=change)], layout(training=True))
    shapes = [tuple(value.shape) for value in y.grad_fn.saved_tensors if value.is_floating_point()]
    assert ((3 * T, D) in shapes) == trained
    assert any(value is x or value.data_ptr() == x.data_ptr() for value in y.grad_fn.saved_tensors) == kept
    y.sum().backward()
    assert parts["B"].grad is not None
