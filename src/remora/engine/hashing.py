"""Cheap counter-based random bits: an integer hash of (row key, feature); a mask depends on nothing but its keys.

The mixing is the 32-bit finaliser by Chris Wellons ("hash prospector", 2018, multipliers 7feb352d and 846ca68b), in
wrap-around int32 arithmetic, so that the same bits come out on every device.
"""

import numpy as np
import torch
from torch import Tensor

from remora.engine.transfer import to_device

_M1 = 0x7FEB352D
_M2 = 0x846CA68B
_GOLDEN = 0x9E3779B9


def mix_numpy(x: np.ndarray) -> np.ndarray:
    """Hash each unsigned 32-bit number."""
    x = x.astype(np.uint32, copy=True)
    x ^= x >> np.uint32(16)
    x *= np.uint32(_M1)
    x ^= x >> np.uint32(15)
    x *= np.uint32(_M2)
    x ^= x >> np.uint32(16)
    return x


def folded32(key: int) -> int:
    """Both halves of a 64-bit key in an unsigned 32-bit one."""
    return (key ^ (key >> 32)) & 0xFFFFFFFF


def row_keys(lane_key: np.ndarray, sequence: np.ndarray, position: np.ndarray) -> np.ndarray:
    """One int32 key per row.

    Args:
        lane_key: uint32, the lane's key as `folded32` gives it.
        sequence: the sequence's index in its lane's batch.
        position: in the sequence.
    """
    keys = mix_numpy(sequence.astype(np.uint32) * np.uint32(_GOLDEN) ^ lane_key)
    return mix_numpy(keys + position.astype(np.uint32) * np.uint32(_M1)).view(np.int32)


def signed32(value: int) -> int:
    """The low 32 bits of an integer as a signed one."""
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _logical_shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def mix_torch(x: Tensor) -> Tensor:
    """`mix_numpy` on an int32 tensor."""
    x = x ^ _logical_shift(x, 16)
    x = x * signed32(_M1)
    x = x ^ _logical_shift(x, 15)
    x = x * signed32(_M2)
    return x ^ _logical_shift(x, 16)


def random_bits(keys: Tensor, counters: Tensor) -> Tensor:
    """Random int32 words for every (key, counter).

    Args:
        keys: (..., 1) int32, well mixed.
        counters: broadcastable int32, distinct for the features of a row.

    Returns:
        int32 of the broadcast shape, both 16-bit halves usable.
    """
    x = keys ^ counters
    x.mul_(signed32(_M1))
    shifted = x >> 15
    x.bitwise_xor_(shifted)
    x.mul_(signed32(_M2))
    torch.bitwise_right_shift(x, 16, out=shifted)
    return x.bitwise_xor_(shifted)


def feature_counters(num: int, device: torch.device) -> Tensor:
    """(num,) mixed int32 counters for features 0..num-1."""
    return to_device(mix_numpy(np.arange(num, dtype=np.uint32) + np.uint32(_GOLDEN)).view(np.int32), device)
