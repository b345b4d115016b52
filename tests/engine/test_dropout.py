"""Keyed dropout: right rate and scale, independent between sites, steps, rows and features, untouched by NaN."""

import numpy as np
import pytest
import torch

from remora.engine.dropout import apply_mask, drop, keep_mask, site_key
from remora.engine.hashing import folded32, mix_numpy, mix_torch, row_keys
from remora.seeds import fold

ROWS, FEATURES = 400, 384


def keys(lane_key: int = 1, sequence: int = 0, rows: int = ROWS) -> torch.Tensor:
    return torch.from_numpy(
        row_keys(np.uint32(folded32(fold(lane_key, "step"))), np.full(rows, sequence), np.arange(rows))
    )


def kept(keys_T: torch.Tensor, rate: float, name: str = "a", call: int = 0) -> torch.Tensor:
    return keep_mask(mix_torch(keys_T ^ site_key(name, call)), FEATURES, rate) != 0


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_rate_and_scale(rate: float) -> None:
    x = torch.ones(ROWS, FEATURES, dtype=torch.float64)
    y = drop(x, keep_mask(keys(), FEATURES, rate), rate)
    error = np.sqrt(rate * (1 - rate) / x.numel())
    assert abs(float((y == 0).double().mean()) - rate) < 5 * error + 2**-15
    assert abs(float(y.mean()) - 1) < 5 * error / (1 - rate)
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)], rel=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_and_features_drop_alike(axis: int) -> None:
    counts = kept(keys(), 0.5).double().mean(axis)
    size = ROWS if axis == 0 else FEATURES
    assert float((counts - 0.5).abs().max()) < 5.5 * 0.5 / np.sqrt(size)


@pytest.mark.parametrize(
    "other",
    [
        lambda: kept(keys(), 0.5, name="b"),
        lambda: kept(keys(), 0.5, call=1),
        lambda: kept(keys(lane_key=2), 0.5),
        lambda: kept(keys(sequence=1), 0.5),
        lambda: kept(keys(), 0.5).roll(1, 0),
        lambda: kept(keys(), 0.5).roll(1, 1),
        lambda: kept(keys(), 0.5).roll(2, 1),
    ],
    ids=["site", "call", "lane or step", "sequence", "next row", "next feature", "next pair"],
)
def test_masks_are_independent(other) -> None:
    one, two = kept(keys(), 0.5).double() - 0.5, other().double() - 0.5
    correlation = float((one * two).mean() / 0.25)
    assert abs(correlation) < 5 / np.sqrt(one.numel())


def test_the_independence_test_sees_equal_masks() -> None:
    one = kept(keys(), 0.5).double() - 0.5
    assert float((one * one).mean() / 0.25) == 1.0


def test_a_mask_depends_on_its_rows_keys_alone() -> None:
    whole = kept(keys(), 0.3)
    assert torch.equal(kept(keys()[100:107], 0.3), whole[100:107])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_dropped_nan_is_zero(dtype: torch.dtype) -> None:
    x = torch.full((3, 7), torch.nan, dtype=dtype)
    mask = keep_mask(keys(rows=3), 7, 0.5)
    y = apply_mask(x, mask, 0.5)
    assert torch.equal(y == 0, mask == 0)
    assert y.dtype == dtype


def test_gradient() -> None:
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = keep_mask(keys(rows=5), 8, 0.4)
    assert torch.autograd.gradcheck(lambda value: drop(value, mask, 0.4), (x,))


def test_numpy_and_torch_mix_alike() -> None:
    values = np.arange(1000, dtype=np.uint32) * np.uint32(2654435761)
    mixed = mix_torch(torch.from_numpy(values.view(np.int32))).numpy().view(np.uint32)
    assert np.array_equal(mixed, mix_numpy(values))
