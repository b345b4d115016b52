"""Named random streams: every random number comes from a generator made here from a seed and a path of names."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def fold(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed from a seed and a path of names.

    Args:
        seed: any integer.
        names: the path, such as ``"order", epoch``; the type of each part counts ("1" and 1 differ).

    Returns:
        An integer in ``[0, 2**63)``, the same on every machine and in every process.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *names):
        tag = b"i" if isinstance(part, int) else b"s"
        text = str(part).encode()
        digest.update(tag + len(text).to_bytes(4, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def numpy_rng(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (Philox) of the stream ``fold(seed, *names)``."""
    return np.random.Generator(np.random.Philox(fold(seed, *names)))


def torch_generator(seed: int, *names: str | int) -> "torch.Generator":
    """A CPU torch generator of the stream ``fold(seed, *names)``."""
    import torch

    return torch.Generator().manual_seed(fold(seed, *names))
