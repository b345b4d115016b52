"""SSF: y = gamma * (W x + b) + beta; a scale and a shift per output of a linear layer, 1 and 0 at the start.

Lian et al. 2022, "Scaling and shifting your features", arXiv:2210.08823, equation 3. An example of a method of your
own: `remora compare --plugin examples/ssf.py --methods lora,ssf ...`.
"""

from typing import Any, ClassVar

import torch

from remora.methods.base import LinearChange, LogRange, Method, MethodConfig, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.sites import Site


@register("ssf")
class SSF(Method):
    """Scales and shifts of what linear layers compute."""

    label: ClassVar[str] = "SSF"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Lian et al. 2022, arXiv:2210.08823"
    use_when: ClassVar[str] = "to see how a method is written"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 3e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({},)

    class Config(MethodConfig):
        """Where to attach."""

        targets: tuple[str, ...] = ("linear",)

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The base as it is."""
        return SiteState(trained={"scale": torch.ones(site.out_features), "shift": torch.zeros(site.out_features)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The engine scales W x alone; what the scale does to the base's bias b goes into the bias."""
        scale, shift = state["scale"], state["shift"]
        return LinearChange(out_scale=scale, bias=shift if base.bias is None else shift + (scale - 1) * base.bias)
