"""FISH mask: the share `density` of the weights with the largest Fisher information is trained, all others stay frozen.

Sung, Nair and Raffel 2021, "Training neural networks with fixed sparse masks", arXiv:2111.09839, equation 4:
before training, the squared gradients of single examples' losses at their own labels are summed per weight (the
empirical Fisher information), and the largest over all sites are chosen, at least one per site. The mask then stays.
Trains `density` of the weights; the change of a site is a vector of values and their places. Mergeable. No PEFT type;
stored in Remora's own file as `values` and `index` (into the weight's rows, one after the other) per site.
"""

# O out_features, D in_features, K weights trained at a site
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.base import (
    AdapterTensors,
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.registry import register
from remora.models.sites import Site


def largest(scores: list[Tensor], density: float) -> list[Tensor]:
    """Places of the largest scores over several tensors, in order.

    Args:
        scores: one-dimensional, not negative.
        density: share of all; at least one per tensor is taken.

    Returns:
        Per tensor, sorted int64 places.
    """
    raised: list[Tensor] = []
    for own in scores:
        raised.append(own.clone())
        raised[-1][own.argmax()] = torch.inf
    every = torch.cat(raised)
    num = max(len(scores), round(density * every.numel()))
    chosen = torch.zeros_like(every, dtype=torch.bool)
    chosen[torch.argsort(every, descending=True, stable=True)[:num]] = True
    return [part.nonzero()[:, 0] for part in chosen.split([own.numel() for own in scores])]


@register("fish-mask")
class FishMask(Method):
    """A sparse change at the weights with the largest Fisher information."""

    label: ClassVar[str] = "FISH mask"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Sung et al. 2021, arXiv:2111.09839"
    use_when: ClassVar[str] = "where single weights may move, chosen by how much the loss depends on them"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"density": 0.05, "num_examples": 4, "targets": ("ffn.up",)})

    class Config(MethodConfig):
        """Share of the weights trained, training examples that choose them, and where to attach."""

        density: float = Field(0.005, gt=0, le=1)
        num_examples: int = Field(128, ge=1)
        targets: tuple[str, ...] = ("linear",)

    config: Config

    @property
    def num_survey_examples(self) -> int:
        """Those that choose the weights."""
        return self.config.num_examples

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Nothing is trained before the survey."""
        return SiteState(trained={"values": torch.zeros(0)}, frozen={"index": torch.zeros(0, dtype=torch.int64)})

    def survey(self, adapter: AdapterTensors, gradients: Iterable[Tensors]) -> None:
        """Chooses the weights."""
        fisher: dict[str, Tensor] = {}
        for of_example in gradients:
            for key, gradient in of_example.items():
                squared = gradient.square()
                fisher[key] = fisher[key].add_(squared) if key in fisher else squared
        places = largest([fisher[site.id].flatten() for site in adapter.sites], self.config.density)
        for site, index_K in zip(adapter.sites, places, strict=True):
            values_K = torch.zeros(len(index_K), device=index_K.device)
            adapter.states[site.id] = SiteState(trained={"values": values_K}, frozen={"index": index_K})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The values in their places, zero elsewhere."""
        flat = state["values"].new_zeros(base.weight.numel())
        return LinearChange(delta=flat.index_copy(0, state["index"], state["values"]).view(base.weight.shape))
