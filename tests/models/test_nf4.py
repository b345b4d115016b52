"""NF4 with double quantisation: bit for bit what bitsandbytes gives on a CPU, and what the paper says it is."""

import importlib
import logging
import math
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch import Tensor

from remora.models import nf4
from remora.models.nf4 import NF4Weight, dense_by_torch, quantise
from remora.native import kernels

SHAPES = ((384, 1536), (1536, 384), (32, 32), (16, 96), (48, 50), (7, 9), (1, 64), (1, 1), (3, 5, 8))


def weight_of(*shape: int, seed: int = 0, scale: float = 0.05) -> Tensor:
    """Normal numbers whose spread differs from row to row."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(shape[0], *(1 for _ in shape[1:]), generator=generator) + 0.1
    return torch.randn(shape, generator=generator) * rows * scale


@pytest.fixture(scope="module")
def bitsandbytes() -> ModuleType:
    """The package's functions; it logs that it could use a package more."""
    if not nf4.bitsandbytes_installed():
        pytest.skip("bitsandbytes is not installed (extra quant)")
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("bitsandbytes.functional")
    finally:
        logging.disable(logging.NOTSET)


def theirs(functional: ModuleType, weight: Tensor) -> tuple[Tensor, "object"]:
    return functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")


class TestAgainstBitsandbytes:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_codes_and_both_levels_of_scales_are_equal(
        self, shape: tuple[int, ...], dtype: torch.dtype, bitsandbytes: ModuleType
    ) -> None:
        weight = weight_of(*shape).to(dtype)
        codes, state = theirs(bitsandbytes, weight)
        mine = quantise(weight)
        assert torch.equal(mine.codes, codes.view(-1))
        assert torch.equal(mine.scale_codes, state.absmax)
        assert torch.equal(mine.scale_scales, state.state2.absmax)
        assert torch.equal(mine.scale_offset, state.offset.view(1))
        assert torch.equal(nf4.dynamic_levels(), state.state2.code)
        assert torch.equal(nf4.levels(), state.code)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_the_largest_magnitudes_are_equal_before_the_second_quantisation(
        self, shape: tuple[int, ...], bitsandbytes: ModuleType
    ) -> None:
        weight = weight_of(*shape)
        _, state = bitsandbytes.quantize_4bit(weight, blocksize=64, quant_type="nf4")
        padded = torch.nn.functional.pad(weight.reshape(-1), (0, -weight.numel() % 64))
        assert torch.equal(padded.view(-1, 64).abs().amax(1), state.absmax)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_what_comes_back_is_equal(
        self, shape: tuple[int, ...], dtype: torch.dtype, bitsandbytes: ModuleType
    ) -> None:
        weight = weight_of(*shape)
        codes, state = theirs(bitsandbytes, weight)
        state.dtype = dtype
        state.shape = torch.Size((1, weight.numel()))  # its CPU kernel misreads rows that are not whole blocks
        expected = bitsandbytes.dequantize_4bit(codes, state).view(shape)
        mine = quantise(weight)
        assert torch.equal(mine.dense(dtype), expected)
        assert torch.equal(dense_by_torch(mine, dtype), expected)
        assert torch.equal(nf4.dense_by_bitsandbytes(mine, dtype), expected)

    @given(
        rows=st.integers(1, 40),
        columns=st.integers(1, 200),
        seed=st.integers(0, 10**6),
        scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    )
    def test_any_weight(self, rows: int, columns: int, seed: int, scale: float) -> None:
        if not nf4.bitsandbytes_installed():
            pytest.skip("bitsandbytes is not installed (extra quant)")
        weight = weight_of(rows, columns, seed=seed, scale=scale)
        codes, state = theirs(importlib.import_module("bitsandbytes.functional"), weight)
        mine = quantise(weight)
        assert torch.equal(mine.codes, codes.view(-1))
        assert torch.equal(mine.scale_codes, state.absmax)
        assert torch.equal(mine.scale_scales, state.state2.absmax)
        assert torch.equal(mine.scale_offset, state.offset.view(1))

    def test_alike_zero_and_tiny_blocks(self, bitsandbytes: ModuleType) -> None:
        for weight in (torch.full((7, 9), 0.3), torch.zeros(4, 64), torch.cat([torch.zeros(1, 64), weight_of(3, 64)])):
            codes, state = theirs(bitsandbytes, weight)
            mine = quantise(weight)
            assert torch.equal(mine.codes, codes.view(-1))
            assert torch.equal(mine.scale_codes, state.absmax)
            assert torch.equal(mine.scale_scales, state.state2.absmax)


def test_the_levels_are_the_papers_quantiles() -> None:
    """Section 3: eight quantiles of a normal distribution for negative numbers, nine for positive ones, one zero."""
    outermost = 1 - 0.5 * (1 / 32 + 1 / 30)
    negative = -norm.ppf([outermost + (0.5 - outermost) * i / 7 for i in range(7)])
    positive = norm.ppf([outermost + (0.5 - outermost) * i / 8 for i in range(8)])
    values = sorted([*negative / norm.ppf(outermost), 0.0, *positive / norm.ppf(outermost)])
    assert torch.allclose(nf4.levels().double(), torch.tensor(values).double(), atol=1e-6, rtol=0)


def test_every_number_gets_the_nearest_level() -> None:
    """Formula of the paper, number by number in float64: the code is the level nearest to w / max |w| of its block."""
    weight = weight_of(5, 70)
    held = quantise(weight)
    codes = [code for byte in held.codes.tolist() for code in (byte >> 4, byte & 15)]
    flat = weight.reshape(-1).double().tolist()
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        largest = max(abs(value) for value in block)
        for value, code in zip(block, codes[start:], strict=False):
            distances = [abs(value / largest - level) for level in nf4.LEVELS]
            assert distances[code] <= min(distances) + 1e-7


def test_the_error_is_bounded() -> None:
    """A number is off by half the widest gap between levels times its block's scale, and the scale by its own error."""
    weight = weight_of(384, 384)
    held = quantise(weight)
    largest = weight.view(-1, 64).abs().amax(1)
    scales = held.scales()
    # The 8-bit type's widest gap is 0.9 / 64, between its largest values.
    assert float((scales - largest).abs().max()) <= 0.5 * 0.9 / 64 * 1.02 * float(
        (largest - largest.mean()).abs().max()
    )
    gap = max(upper - lower for lower, upper in zip(nf4.LEVELS[:-1], nf4.LEVELS[1:], strict=True))
    error = (held.dense(torch.float32) - weight).view(-1, 64).abs().amax(1)
    assert bool((error <= gap / 2 * largest + (scales - largest).abs() + 1e-7).all())
    assert float((held.dense(torch.float32) - weight).norm() / weight.norm()) < 0.1


def test_quantising_again_changes_no_code() -> None:
    held = quantise(weight_of(64, 64))
    assert torch.equal(quantise(held.dense(torch.float32)).codes, held.codes)


def test_the_bits_per_number_are_the_papers() -> None:
    """4 bits, 8/64 for the scales, 32/(64 * 256) for theirs: 4.127; and the offset."""
    held = quantise(weight_of(1024, 1024))
    tensors = (held.codes, held.scale_codes, held.scale_scales, held.scale_offset)
    bits = 8 * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert math.isclose(bits, (4 + 8 / 64 + 32 / (64 * 256)) * 1024 * 1024 + 32)


@pytest.mark.skipif(not kernels.status()[0], reason=f"no compiled kernels: {kernels.status()[1]}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compiled_kernel_gives_what_torch_gives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    held = quantise(weight_of(*shape))
    assert torch.equal(held.dense(dtype), dense_by_torch(held, dtype))


def test_other_types_round_the_same_numbers() -> None:
    held: NF4Weight = quantise(weight_of(96, 48))
    single = held.dense(torch.float32)
    assert torch.equal(held.dense(torch.float64), single.double())
    assert torch.equal(held.dense(torch.float16), single.half())
