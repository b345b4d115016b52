"""Compacter: Houlsby's adapters whose matrices are sums of Kronecker products, W = sum_i A_i (x) (s_i t_i).

Mahabadi et al. 2021, "Compacter: efficient low-rank hypercomplex adapter layers", arXiv:2106.04647, section 3: n
small matrices A_i (n, n), trained together by all adapters, and per matrix W (m, w) n products of s_i (m/n, r) and
t_i (r, w/n). y' = y + U f(D y + d) + u after both sublayers. The s_i of U start at zero, so that the start is the base
itself; the others are normal, of a size that gives the entries of W the variance 1/w.
Trains 2 r (m + w) + m + w numbers per site and n^3 once. Not mergeable.
"""

# T rows, O features of the sublayer's output, M of the bottleneck, N Kronecker products, K rank of each
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.errors import ConfigError
from remora.methods.adapter_houlsby import Activation, BottleneckConfig, HoulsbyAdapter, bottleneck
from remora.methods.base import LogRange, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.base import Base
from remora.models.sites import Site


def kronecker_sum(A_Nnn: Tensor, s_NaK: Tensor, t_NKb: Tensor) -> Tensor:
    """(n a, n b) sum of A_i (x) (s_i t_i)."""
    whole = torch.einsum("ixy,iak,ikb->xayb", A_Nnn, s_NaK, t_NKb)
    n, a, _, b = whole.shape
    return whole.reshape(n * a, n * b)


class _Config(BottleneckConfig):
    """Features of the bottleneck, number and rank of the Kronecker products, activation, dropout in the bottleneck."""

    bottleneck: int = Field(24, ge=1)
    num_products: int = Field(4, ge=1)
    rank: int = Field(1, ge=1)
    activation: Activation = "gelu"


@register("compacter")
class Compacter(HoulsbyAdapter):
    """Bottleneck adapters of Kronecker products with shared factors."""

    label: ClassVar[str] = "Compacter"
    citation: ClassVar[str] = "Mahabadi et al. 2021, arXiv:2106.04647"
    use_when: ClassVar[str] = "where a bottleneck adapter is wanted at a hundredth of its parameters"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 3e-2)
    identity_at_init: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"bottleneck": 6, "num_products": 2, "rank": 3, "activation": "relu", "dropout": 0.1},
    )
    Config: ClassVar[type[MethodConfig]] = _Config

    config: _Config  # type: ignore[assignment]

    def sites(self, base: Base) -> tuple[Site, ...]:
        """The ends of both sublayers, if the matrices can be cut into equal blocks."""
        found, num = super().sites(base), self.config.num_products
        for what, size in (("bottleneck", self.config.bottleneck), (f"width of {base.name}", found[0].out_features)):
            if size % num:
                raise ConfigError(
                    f"compacter: the {what}, {size}, is not a multiple of num_products={num}",
                    "choose num_products that divides both",
                )
        return found

    def common(self, sites: Sequence[Site], rng: torch.Generator) -> dict[str, Tensor]:
        """The small matrices, normal with variance 1/n."""
        num = self.config.num_products
        return {"factors": torch.empty(num, num, num).normal_(0, 1 / math.sqrt(num), generator=rng)}

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """s_i and t_i of both matrices, biases zero."""
        num, rank = self.config.num_products, self.config.rank
        inside, width = self.config.bottleneck, site.out_features

        def drawn(*shape: int, std: float = 1.0) -> Tensor:
            return torch.empty(num, *shape).normal_(0, std, generator=rng)

        return SiteState(
            trained={
                "down_s": drawn(inside // num, rank),
                "down_t": drawn(rank, width // num, std=1 / math.sqrt(rank * width)),
                "down_bias": torch.zeros(inside),
                "up_s": torch.zeros(num, width // num, rank),
                "up_t": drawn(rank, inside // num, std=1 / math.sqrt(rank)),
                "up_bias": torch.zeros(width),
            }
        )

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """Houlsby's adapter with the matrices multiplied out."""
        dense = {
            name: kronecker_sum(state["factors"], state[f"{name}_s"], state[f"{name}_t"]) for name in ("down", "up")
        }
        added_TD = bottleneck({**state, **dense}, y_TD, self.config.activation, self.config.dropout, rows)
        return y_TD + added_TD
