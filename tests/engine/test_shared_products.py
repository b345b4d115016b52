"""Vectors around frozen matrices: layers with one input compute the product with A once, and nothing changes."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from remora.engine import shared_products
from remora.engine.layout import Layout
from remora.engine.linear import NATIVE_RANK, LaneChange, changed_linear
from remora.engine.shared_products import frozen_products
from remora.methods.base import LinearChange
from tests.engine.test_low_rank import drawn, layout

D, O, R = 7, 5, NATIVE_RANK + 3  # noqa: E741
LENGTHS = (4, 6, 3)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lanes each product had that was computed."""
    counted: list[int] = []

    def counting(x: Tensor, rows: Sequence[slice], matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
        counted.append(len(rows))
        return frozen_products(x, rows, matrices)

    monkeypatch.setattr(shared_products, "frozen_products", counting)
    return counted


def vectors(lane: int, layer: int, A: Tensor, **settings: object) -> LinearChange:
    B = drawn(O, R, seed=100 + layer).detach()
    u, v = drawn(R, seed=200 + 10 * lane + layer), drawn(O, seed=300 + 10 * lane + layer)
    return LinearChange(A=A, B=B, rank_scale=u, term_scale=v, scale=1.5, **settings)  # type: ignore[arg-type]


def changed(x: Tensor, layer: int, changes: list[LinearChange | None], pass_: Layout) -> Tensor:
    lanes = [
        LaneChange(rows=rows, change=change, dropout_site=5)
        for rows, change in zip(pass_.lane_rows, changes, strict=True)
        if change is not None
    ]
    return changed_linear(x, drawn(O, D, seed=50 + layer).detach(), drawn(O, seed=60).detach(), lanes, pass_)


def naive(x: Tensor, layer: int, changes: list[LinearChange | None], pass_: Layout) -> Tensor:
    """The equation, lane by lane."""
    y = x @ drawn(O, D, seed=50 + layer).detach().T + drawn(O, seed=60).detach()
    pieces: list[Tensor] = []
    for rows, change in zip(pass_.lane_rows, changes, strict=True):
        piece = y[rows]
        if change is not None:
            low = x[rows] @ change.A.T * change.rank_scale  # type: ignore[union-attr, operator]
            piece = piece + change.scale * change.term_scale * (low @ change.B.T)  # type: ignore[union-attr, operator]
            if change.out_scale is not None:
                piece = (piece - drawn(O, seed=60).detach()) * change.out_scale + drawn(O, seed=60).detach()
        pieces.append(piece)
    return torch.cat(pieces)


def two_layers(gap: bool) -> list[list[LinearChange | None]]:
    matrices = [drawn(R, D, seed=lane).detach() for lane in range(len(LENGTHS))]
    layers: list[list[LinearChange | None]] = [
        [vectors(lane, layer, A) for lane, A in enumerate(matrices)] for layer in range(2)
    ]
    if gap:
        layers[0][1] = layers[1][1] = None
        layers[1][2] = vectors(2, 1, matrices[2], out_scale=drawn(O, seed=70))
    return layers


@pytest.mark.parametrize("gap", [False, True])
def test_values_and_gradients_are_those_of_the_equation(gap: bool, products: list[int]) -> None:
    results: list[list[Tensor]] = []
    for compute in (changed, naive):
        x = drawn(sum(LENGTHS), D, seed=9)
        layers, pass_ = two_layers(gap), layout(LENGTHS, training=True)
        y = [compute(x, layer, changes, pass_) for layer, changes in enumerate(layers)]
        (torch.tanh(y[0]) * y[1]).sum().backward()
        assert x.grad is not None
        found = [*y, x.grad]
        for change in (change for changes in layers for change in changes if change is not None):
            assert change.rank_scale is not None
            assert change.term_scale is not None
            given = (change.rank_scale.grad, change.term_scale.grad)
            found += [
                value
                for value in (*given, None if change.out_scale is None else change.out_scale.grad)
                if value is not None
            ]
        results.append([value.detach() for value in found])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert products == [2 if gap else 3]  # one product for both layers


def test_another_input_has_a_product_of_its_own(products: list[int]) -> None:
    x, pass_ = drawn(sum(LENGTHS), D, seed=9).detach(), layout(LENGTHS, training=True)
    layers = two_layers(gap=False)
    first = changed(x, 0, layers[0], pass_)
    torch.testing.assert_close(changed(x.clone(), 0, layers[0], pass_), first, rtol=0, atol=0)
    x.mul_(2)  # in the same memory
    torch.testing.assert_close(changed(x, 0, layers[0], pass_), naive(x, 0, layers[0], pass_), rtol=1e-12, atol=1e-12)
    assert len(products) == 3


def test_with_and_without_a_graph_are_kept_apart(products: list[int]) -> None:
    x, pass_ = drawn(sum(LENGTHS), D, seed=9), layout(LENGTHS, training=True)
    layers = two_layers(gap=False)
    with torch.no_grad():
        changed(x, 0, layers[0], pass_)
    changed(x, 1, layers[1], pass_).sum().backward()
    assert x.grad is not None
    assert len(products) == 2


def test_a_lane_of_nan_stays_alone() -> None:
    x, pass_ = drawn(sum(LENGTHS), D, seed=9), layout(LENGTHS, training=True)
    layers = two_layers(gap=False)
    with torch.no_grad():
        x[pass_.lane_rows[1]] = float("nan")
    sum(changed(x, layer, changes, pass_) for layer, changes in enumerate(layers)).sum().backward()  # type: ignore[union-attr]
    assert x.grad is not None
    for lane, rows in enumerate(pass_.lane_rows):
        change = layers[0][lane]
        assert change is not None
        assert change.rank_scale is not None
        grad = change.rank_scale.grad
        assert grad is not None
        assert bool(grad.isfinite().all()) == (lane != 1)
        if lane != 1:
            assert x.grad[rows].isfinite().all()


def test_dropout_has_masks_of_each_layer_and_folds(products: list[int]) -> None:
    x, pass_ = drawn(sum(LENGTHS), D, seed=9), layout(LENGTHS, training=True)
    matrices = [drawn(R, D, seed=lane).detach() for lane in range(len(LENGTHS))]
    changes: list[LinearChange | None] = [vectors(lane, 0, A, dropout=0.3) for lane, A in enumerate(matrices)]
    folded = [change.folded() for change in changes if change is not None]
    torch.testing.assert_close(changed(x, 0, changes, pass_), changed(x, 0, [*folded], pass_), rtol=0, atol=0)
    assert products == []
