"""4-bit NormalFloat with double quantisation: a frozen weight held as codes and scales, about 4.13 bits per number.

Dettmers et al. 2023, "QLoRA: efficient finetuning of quantized LLMs", arXiv:2305.14314, section 3, appendix E. Blocks
of 64 numbers are divided by their largest magnitude and rounded to the nearest of 16 levels, the quantiles of a normal
distribution. The magnitudes, less their mean, are quantised again in blocks of 256, to the 8-bit dynamic type of
Dettmers 2016 (arXiv:1511.04561). Codes, scales and what they give back are bit for bit those of bitsandbytes on a CPU,
computed with torch operations alone; a base is always quantised on the CPU, so it has the same codes on every device.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch import Tensor

from remora.native import kernels

BLOCK = 64
"""Numbers that share a scale."""
SCALE_BLOCK = 256
"""Scales that share one of their own."""

# Appendix E of the paper, in the float32 digits that bitsandbytes uses.
LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_CPU = torch.device("cpu")
_EXPONENTS = 7
_GRID = 65535
"""bitsandbytes rounds a number to this many steps between -1 and 1 before it looks its 8-bit code up."""
_TINY = 1e-38


@dataclass(frozen=True, kw_only=True, eq=False)
class NF4Weight:
    """A quantised weight of n numbers; tensors are flat.

    Args:
        codes: (n / 2,) uint8, two levels each, the first in the high bits.
        scale_codes: (n / 64,) uint8, codes of the blocks' scales.
        scale_scales: (n / 64 / 256,) float32, scales of those.
        scale_offset: (1,) float32, mean of the blocks' scales.
        shape: of the weight.
    """

    codes: Tensor
    scale_codes: Tensor
    scale_scales: Tensor
    scale_offset: Tensor
    shape: tuple[int, ...]

    def scales(self) -> Tensor:
        """(n / 64,) float32, the largest magnitude of each block as double quantisation gives it back."""
        values = dynamic_levels(self.codes.device).index_select(0, self.scale_codes.int())
        outer = self.scale_scales.repeat_interleave(SCALE_BLOCK)[: values.shape[0]]
        return values.mul_(outer).add_(self.scale_offset)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight, computed in float32 and rounded to a type once."""
        if self.codes.device.type == "cpu" and kernels.usable_type(dtype):
            num = prod(self.shape)
            return kernels.dequantise(self.codes, self.scales(), levels(), num, BLOCK, dtype).view(self.shape)
        if self.codes.device.type == "cuda" and bitsandbytes_installed():
            return dense_by_bitsandbytes(self, dtype)
        return dense_by_torch(self, dtype)


def dense_by_torch(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    """`NF4Weight.dense` in torch operations."""
    num = prod(weight.shape)
    pairs = _pairs(weight.codes.device).index_select(0, weight.codes.int()).view(-1)
    scales = weight.scales()
    if num % BLOCK:
        return pairs[:num].mul_(scales.repeat_interleave(BLOCK)[:num]).to(dtype).view(weight.shape)
    return pairs.view(-1, BLOCK).mul_(scales[:, None]).to(dtype).view(weight.shape)


def dense_by_bitsandbytes(weight: NF4Weight, dtype: torch.dtype) -> Tensor:
    """`NF4Weight.dense` by the package's kernel, one launch where torch needs four; asked for on CUDA devices only.

    The weight is given as one row: on a CPU with AVX-512, version 0.50.2 takes wrong scales where rows are not whole
    blocks.
    """
    functional = importlib.import_module("bitsandbytes.functional")
    state = functional.QuantState(
        absmax=weight.scales(),
        shape=torch.Size((1, prod(weight.shape))),
        code=levels(weight.codes.device),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    return functional.dequantize_4bit(weight.codes[:, None], state).view(weight.shape)


@cache
def bitsandbytes_installed() -> bool:
    """Whether the package is there (extra ``quant``); it is not imported."""
    return importlib.util.find_spec("bitsandbytes") is not None


def quantise(weight: Tensor) -> NF4Weight:
    """Quantise a weight.

    Args:
        weight: any shape, finite, on the CPU; float64 is rounded to float32 first.
    """
    blocks = _blocks(weight.detach().reshape(-1).float(), BLOCK)
    scales = blocks.abs().amax(1)
    scaled = (blocks * (1.0 / scales.clamp(min=_TINY))[:, None]).clamp_(-1, 1)
    found = torch.bucketize(scaled, _midpoints(levels()), out_int32=True).view(-1)[: _even(weight.numel())]
    found = found.to(torch.uint8)
    scale_codes, scale_scales, offset = quantise_scales(scales)
    return NF4Weight(
        codes=(found[::2] << 4) | found[1::2],
        scale_codes=scale_codes,
        scale_scales=scale_scales,
        scale_offset=offset.view(1),
        shape=tuple(weight.shape),
    )


def quantise_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise the scales of blocks: the second of the two quantisations.

    Args:
        scales: (n,) float32.

    Returns:
        codes (n,) uint8, scales (n / 256,) float32 and the mean () that was taken off.
    """
    offset = scales.mean()
    blocks = _blocks(scales - offset, SCALE_BLOCK)
    outer = blocks.abs().amax(1)
    inverse = torch.where(outer > 0, 1.0 / outer, 0.0)
    scaled = (blocks * inverse[:, None]).nan_to_num_(0.0).clamp_(-1, 1)
    steps = ((scaled + 1) * 0.5 * _GRID + 0.5).to(torch.int64)
    codes = _dynamic_codes().index_select(0, steps.view(-1)).view(blocks.shape)
    codes = torch.where((outer > 0)[:, None], codes, 0)  # where all scales are alike, any code times 0 is right
    return codes.view(-1)[: scales.shape[0]].to(torch.uint8), outer, offset


@cache
def levels(device: torch.device = _CPU) -> Tensor:
    """(16,) float32, the levels of NF4 in rising order."""
    return torch.tensor(LEVELS, dtype=torch.float32, device=device)


@cache
def dynamic_levels(device: torch.device = _CPU) -> Tensor:
    """(256,) float32, the values of the signed 8-bit dynamic type in rising order.

    For each power of ten from 1e-6 to 1 the interval from its tenth to itself is cut into twice as many equal parts as
    for the one before; their middles with both signs, 0 and 1 are the values.
    """
    values = [0.0, 1.0]
    for exponent in range(_EXPONENTS):
        edges = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (exponent + 1 - _EXPONENTS)).tolist()
        values += [*middles, *(-middle for middle in middles)]
    return torch.tensor(sorted(values), dtype=torch.float32, device=device)


@cache
def _dynamic_codes() -> Tensor:
    """(65536,) the nearest dynamic code of every step between -1 and 1."""
    steps = torch.arange(_GRID + 1) / _GRID * 2 - 1
    return torch.bucketize(steps, _midpoints(dynamic_levels()))


@cache
def _pairs(device: torch.device) -> Tensor:
    """(256, 2) the two levels that a byte of codes stands for."""
    values = levels(device)
    return torch.stack([values.repeat_interleave(len(LEVELS)), values.repeat(len(LEVELS))], 1)


def _midpoints(values: Tensor) -> Tensor:
    return (values[:-1] + values[1:]) / 2


def _blocks(flat: Tensor, size: int) -> Tensor:
    """(blocks, size), the last one filled up with zeros."""
    return torch.nn.functional.pad(flat, (0, -flat.shape[0] % size)).view(-1, size)


def _even(num: int) -> int:
    return num + num % 2
