"""The order of training examples: a pure function of seed and epoch, the same for every method."""

import numpy as np
import numpy.typing as npt

from remora.seeds import numpy_rng


def permutation(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """The order in which a trial with this seed visits ``n`` examples in this epoch.

    Args:
        seed: the trial's seed.
        epoch: counted from 0.
        n: number of training examples.

    Returns:
        A permutation of ``0..n-1``, shape (n,).
    """
    return numpy_rng(seed, "order", epoch).permutation(n)
