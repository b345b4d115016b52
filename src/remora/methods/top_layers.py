"""Top layers: weights, biases and norms of the last k layers (and the norm after them) are trained, nothing else.

Lee, Tang and Lin 2019, "What would Elsa do? Freezing layers during transformer fine-tuning", arXiv:1911.03090,
section 3. The base is not copied: the trained weight W' enters as y = W x + (W' - W) x, so trials still share the base,
and a base in half precision does not round small changes away. Weight decay acts on W' itself, as in full fine-tuning.
Trains all numbers of these layers. Mergeable. No PEFT type; Remora's own file holds `weight` and `bias` per site.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from remora.methods.base import LinearChange, LogRange, Method, MethodConfig, SiteState, SiteWeights, Tensors
from remora.methods.ln_tuning import own_values
from remora.methods.registry import register
from remora.models.base import Base
from remora.models.sites import Site, SiteKind, find_sites


@register("top-layers")
class TopLayers(Method):
    """Fine-tuning of the last layers."""

    label: ClassVar[str] = "top layers"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Lee et al. 2019, arXiv:1911.03090"
    use_when: ClassVar[str] = "as a plain baseline between head only and full fine-tuning"
    lr_range: ClassVar[LogRange] = LogRange(2e-5, 1e-3)
    mergeable: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("linear", "norm")
    # A key's bias adds the same number to all scores of a query, unless positions enter after it.
    zero_gradients: ClassVar[tuple[str, ...]] = ("attention.k.bias", "cross.k.bias")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"num_layers": 1})

    class Config(MethodConfig):
        """How many layers from the top."""

        num_layers: int = Field(2, ge=1)

    config: Config

    def sites(self, base: Base) -> tuple[Site, ...]:
        """Linear layers and norms of the last layers, and the final norm where there is one."""
        found = find_sites(base, ("linear", "norm"))
        layers = sorted({site.layer for site in found if site.layer >= 0})
        top = layers[-self.config.num_layers :]
        return tuple(site for site in found if site.layer in top or site.name == "norm.final")

    def remark(self, sites: Sequence[Site]) -> str | None:
        """Says where there are fewer layers than asked for, or layers that share their weights."""
        layers = {site.layer for site in sites if site.layer >= 0}
        if len(layers) < self.config.num_layers:
            return f"the base has weights for {len(layers)} layers, all of which are trained"
        return None

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The base's own values."""
        return SiteState(trained=own_values(base))

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """What the trained values differ by."""
        delta = state["weight"] - base.weight.to(state["weight"].dtype)
        bias = None if base.bias is None else state["bias"] - base.bias.to(state["bias"].dtype)
        return LinearChange(delta=delta, bias=bias)

    def norm_weights(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """The trained values."""
        return SiteWeights(weight=state["weight"], bias=state.get("bias"))

    def merged(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """The trained values."""
        return SiteWeights(weight=state["weight"], bias=state.get("bias"))
