"""What one attention call asks for, and which computation answers it: decided here and nowhere else."""

import importlib.util
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from remora.engine.layout import Bucket

NATIVE_LENGTH = 128
"""Passes whose sequences are at most this long go to the compiled kernel, which computes in float32; longer ones are
mostly matrix products and go to those of the stored type."""

_FLASH_FEATURES = 256
"""Most features of a head that flash attention takes."""

Computation = Literal["kernel", "products", "varlen", "flash-attn", "buckets"]
"""The compiled CPU kernel; explicit products over buckets; torch's or the flash-attn package's attention over sequences
of any length; torch's scaled_dot_product_attention over buckets."""


@dataclass(frozen=True, kw_only=True)
class AttentionRule:
    """What one attention call asks for, besides q, k and v."""

    scaling: float
    dropout: float
    softcap: float | None
    window: int | None
    causal: bool


@dataclass(frozen=True)
class Choice:
    """A computation, and why it and no other."""

    computation: Computation
    reason: str


@dataclass(frozen=True)
class Flash:
    """Which implementations of flash attention are there: torch's own over sequences, the package flash-attn."""

    varlen: bool
    package: bool


@cache
def flash_here(device: torch.device) -> Flash:
    """What a device and the installed packages offer; flash attention needs CUDA compute capability 8.0."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return Flash(varlen=False, package=False)
    return Flash(varlen=_varlen_fits(), package=importlib.util.find_spec("flash_attn") is not None)


def _varlen_fits() -> bool:
    """Whether this torch has attention over sequences with all that a call may ask for; it grew from 2.10 on."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    from torch.nn.attention.varlen import varlen_attn

    return {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def choose(
    *,
    device_type: str,
    dtype: torch.dtype,
    features: tuple[int, int],
    longest: int,
    softcap: bool,
    dropping: bool,
    native: bool,
    flash: Flash,
) -> Choice:
    """The computation of an attention call.

    Args:
        device_type: ``cpu``, ``cuda`` or another one.
        dtype: of q, k and v.
        features: of a head, in q and k, and in v.
        longest: tokens of the pass's longest sequence.
        softcap: whether scores are capped.
        dropping: whether probabilities are dropped.
        native: whether there are compiled kernels for these tensors.
        flash: what there is of flash attention.
    """
    if device_type == "cpu":
        if not native:
            return Choice("products", "no compiled kernel for these tensors")
        if longest > NATIVE_LENGTH or features[0] != features[1]:
            return Choice("products", f"sequences above {NATIVE_LENGTH} tokens are mostly matrix products")
        return Choice("kernel", f"sequences of at most {NATIVE_LENGTH} tokens")
    if dropping:
        return Choice("products", "dropout of probabilities is keyed by sequence, which fused attention cannot do")
    half = dtype in (torch.bfloat16, torch.float16)
    takes_shape = half and features[0] == features[1] <= _FLASH_FEATURES and features[0] % 8 == 0
    if takes_shape and flash.varlen and not softcap:
        return Choice("varlen", "torch's attention over sequences of any length")
    if takes_shape and flash.package:
        return Choice("flash-attn", "the package flash-attn is installed")
    if softcap:
        return Choice("products", "scores are capped, which only the package flash-attn fuses")
    why = "no flash attention for this device" if takes_shape else "flash attention takes half precision only"
    return Choice("buckets", f"{why}; torch's fused attention over sequences of like length")


def forbidden(bucket: Bucket, rule: AttentionRule) -> Tensor | None:
    """(N or 1, 1, 1, L, L) True where a query must not look; None when every query may look everywhere.

    Padding queries look at the sequence's first row alone, so that no row is without a key.
    """
    width = bucket.rows_NL.shape[1]
    if bucket.full and not rule.causal and (rule.window is None or rule.window >= width):
        return None
    position = torch.arange(width, device=bucket.rows_NL.device)
    distance = position[:, None] - position[None, :]
    outside = torch.zeros(width, width, dtype=torch.bool, device=position.device)
    if rule.causal:
        outside |= distance < 0
    if rule.window is not None:
        outside |= distance.abs() >= rule.window
    if bucket.full:
        return outside[None, None, None]
    real_NL = bucket.real_NL
    outside = outside | ~real_NL[:, None, :]
    outside = torch.where(real_NL[:, :, None], outside, (position > 0)[None, None, :])
    return outside[:, None, None]
