"""Weight masking: y = (W * m) x + b with m = 1 where a trained score is above 0, else 0; no weight ever changes.

Zhao et al. 2020, "Masking as an efficient alternative to finetuning for pretrained language models", arXiv:2004.12406,
section 3.2, equations 1 to 3: the gradient with respect to the binary m is given to its score as it is (straight
through). Scores start uniform around 0 so that the share `sparsity` of the weights is masked, within a width that a
usual learning rate crosses in some tens of steps. No weight decay: a score near zero means nothing.
Trains in times out scores per site, of which one bit each matters in the end. Mergeable. No PEFT type; stored in
Remora's own file as `scores` per site.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.base import LinearChange, LogRange, Method, MethodConfig, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.sites import Site


@register("weight-mask")
class WeightMask(Method):
    """Binary masks of frozen weights."""

    label: ClassVar[str] = "weight mask"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Zhao et al. 2020, arXiv:2004.12406"
    use_when: ClassVar[str] = "to study what a pretrained base already holds; it changes no weight, only drops some"
    lr_range: ClassVar[LogRange] = LogRange(1e-5, 1e-3)
    mergeable: ClassVar[bool] = True
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"sparsity": 0.2, "targets": ("attention.v", "ffn.up")})

    class Config(MethodConfig):
        """Share of weights masked at the start, width of the starting scores, and where to attach."""

        sparsity: float = Field(0.05, gt=0, lt=1)
        width: float = Field(0.02, gt=0)
        targets: tuple[str, ...] = ("linear",)

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Uniform scores, the share `sparsity` of them below 0."""
        low, high = -self.config.sparsity * self.config.width, (1 - self.config.sparsity) * self.config.width
        scores = torch.empty(site.out_features, site.in_features).uniform_(low, high, generator=rng)
        return SiteState(trained={"scores": scores})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """Takes the masked weights away."""
        scores = state["scores"]
        weight_OD = base.weight.to(scores.dtype)
        masked = (scores.detach() <= 0).to(scores.dtype)
        through = scores - scores.detach()  # zero, with the gradient of m
        return LinearChange(delta=weight_OD * (through - masked))

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Never for scores."""
        return parameter != "scores" and super().decays(parameter, value)
