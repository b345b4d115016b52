"""Houlsby adapters: y' = y + U f(D y + d) + u on the output y of both sublayers; a bottleneck of m features inside.

Houlsby et al. 2019, "Parameter-efficient transfer learning for NLP", arXiv:1902.00751, section 2.1 and figure 2: after
the projection that ends a sublayer, before the skip connection is added (and so before the norm of BERT-like models).
Weights start as a normal of deviation 0.01 cut at two deviations, biases at zero (section 3.6): nearly the base itself.
Trains 2 m out + m + out numbers per site. The base's dropout at a sublayer's end acts after the adapter. Not mergeable.
"""

# T rows, O features of the sublayer's output, M of the bottleneck
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from remora.methods.base import LogRange, Method, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.sites import Site

Activation = Literal["relu", "gelu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


def draw_near_zero(num_rows: int, num_columns: int, rng: torch.Generator) -> Tensor:
    """(rows, columns) from a normal of deviation 0.01, cut at two deviations."""
    return torch.nn.init.trunc_normal_(torch.empty(num_rows, num_columns), 0, 0.01, -0.02, 0.02, generator=rng)


def bottleneck(state: Tensors, x_TO: Tensor, activation: Activation, dropout: float, rows: Rows) -> Tensor:
    """(T, O) U f(D x + d) + u, with dropout on what the bottleneck holds."""
    down, down_bias, up, up_bias = (state[name].to(x_TO.dtype) for name in ("down", "down_bias", "up", "up_bias"))
    inside_TM = ACTIVATIONS[activation](F.linear(x_TO, down, down_bias))
    return F.linear(rows.dropout(inside_TM, dropout), up, up_bias)


class BottleneckConfig(MethodConfig):
    """Features of the bottleneck, its activation, and dropout on it."""

    bottleneck: int = Field(64, ge=1)
    activation: Activation = "gelu"
    dropout: float = Field(0.0, ge=0, lt=1)


@register("adapter-houlsby")
class HoulsbyAdapter(Method):
    """Bottleneck adapters after attention and after the feed-forward layer."""

    label: ClassVar[str] = "Houlsby adapter"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "Houlsby et al. 2019, arXiv:1902.00751"
    use_when: ClassVar[str] = "where LoRA-like changes are too weak and a dearer forward pass is acceptable"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"bottleneck": 5, "activation": "silu", "dropout": 0.1})
    Config: ClassVar[type[MethodConfig]] = BottleneckConfig

    config: BottleneckConfig

    @property
    def targets(self) -> tuple[str, ...]:
        """The linear layers that end the two sublayers."""
        return ("attention.o", "ffn.down")

    def transforms(self, site: Site) -> bool:
        """Always: what it adds is not linear in the site's input."""
        return True

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Weights near zero, biases zero."""
        width, inside = site.out_features, self.config.bottleneck
        return SiteState(
            trained={
                "down": draw_near_zero(inside, width, rng),
                "down_bias": torch.zeros(inside),
                "up": draw_near_zero(width, inside, rng),
                "up_bias": torch.zeros(width),
            }
        )

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The sublayer's output and what the bottleneck makes of it."""
        return y_TD + bottleneck(state, y_TD, self.config.activation, self.config.dropout, rows)
