"""Parallel adapters: y' = y + s (U f(D x + d) + u), a bottleneck beside the feed-forward sublayer, which maps x to y.

He et al. 2022, "Towards a unified view of parameter-efficient transfer learning", arXiv:2110.04366, section 3.3
and table 1 ("scaled parallel adapter"). As in the authors' code D starts as LoRA's A and U at zero, so that the start
is the base itself.
Trains 2 m out + m + out numbers per layer. Not mergeable.
"""

# T rows, D features of the sublayer's input and output, M of the bottleneck
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.adapter_houlsby import Activation, BottleneckConfig, bottleneck
from remora.methods.base import LogRange, Method, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.lora import draw_A
from remora.methods.registry import register
from remora.models.sites import Site


class ParallelConfig(BottleneckConfig):
    """Features of the bottleneck, its activation and dropout, and the factor s of what it adds."""

    activation: Activation = "relu"
    scale: float = Field(4.0, gt=0)


@register("adapter-parallel")
class ParallelAdapter(Method):
    """Scaled bottleneck adapters beside the feed-forward sublayer."""

    label: ClassVar[str] = "parallel adapter"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "He et al. 2022, arXiv:2110.04366"
    use_when: ClassVar[str] = "in place of serial adapters where feed-forward layers must change much"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"bottleneck": 6, "scale": 1.5, "dropout": 0.1})
    Config: ClassVar[type[MethodConfig]] = ParallelConfig

    config: ParallelConfig

    @property
    def targets(self) -> tuple[str, ...]:
        """The layer that reads the sublayer's input, which is only noted, and the layer that gives its output."""
        return ("ffn.up", "ffn.down")

    def transforms(self, site: Site) -> bool:
        """Always: what it adds is not linear."""
        return True

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Nothing where the input is noted; D uniform, the rest zero where the output is changed."""
        if site.name == "ffn.up":
            return SiteState()
        width, inside = site.out_features, self.config.bottleneck
        return SiteState(
            trained={
                "down": draw_A(inside, width, rng),
                "down_bias": torch.zeros(inside),
                "up": torch.zeros(width, inside),
                "up_bias": torch.zeros(width),
            }
        )

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """Notes the sublayer's input at its first layer, adds to its output at the last."""
        if site.name == "ffn.up":
            rows.notes["ffn.input"] = x_TD
            return y_TD
        added_TD = bottleneck(state, rows.notes["ffn.input"], self.config.activation, self.config.dropout, rows)
        return y_TD + self.config.scale * added_TD
