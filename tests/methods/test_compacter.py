"""Compacter's sums of Kronecker products, and sizes that do not fit."""

import pytest
import torch

from remora.errors import ConfigError
from remora.methods.compacter import kronecker_sum
from remora.methods.registry import get_method
from tests.tiny import tiny_base


def test_sum_of_kronecker_products_entry_by_entry() -> None:
    rng = torch.Generator().manual_seed(0)
    A, s, t = (torch.randn(2, *shape, generator=rng, dtype=torch.float64) for shape in ((2, 2), (3, 4), (4, 5)))
    whole = kronecker_sum(A, s, t)
    assert whole.shape == (6, 10)
    for row in range(6):
        for column in range(10):
            entry = sum(A[i, row // 3, column // 5] * (s[i, row % 3] * t[i, :, column % 5]).sum() for i in range(2))
            assert float(whole[row, column]) == pytest.approx(float(entry), abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bottleneck": 10}, "the bottleneck, 10,"),
        ({"bottleneck": 6, "num_products": 3}, "the width of tiny-bert, 32,"),
    ],
)
def test_sizes_that_cannot_be_cut_into_blocks(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        get_method("compacter", settings).sites(tiny_base("bert"))
