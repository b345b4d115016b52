"""LoRA-FA: y = W x + b + (alpha / r) B A drop(x) with A drawn at random and frozen; only B is trained.

Zhang et al. 2023, "LoRA-FA: memory-efficient low-rank adaptation", arXiv:2308.03303, section 3.
Trains r out numbers per site; only the r-dimensional A x must be kept for the backward pass. Mergeable. Stored as LoRA.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from remora.methods.base import LogRange, SiteState, SiteWeights, Tensors
from remora.methods.lora import LoRA, draw_A
from remora.methods.registry import register
from remora.models.sites import Site


@register("lora-fa")
class LoRAFrozenA(LoRA):
    """LoRA with A frozen."""

    label: ClassVar[str] = "LoRA-FA"
    citation: ClassVar[str] = "Zhang et al. 2023, arXiv:2308.03303"
    use_when: ClassVar[str] = "where activations kept for the backward pass fill the memory rather than weights"
    lr_range: ClassVar[LogRange] = LogRange(2e-4, 2e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 16, "targets": ("attention.v", "attention.o")})

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A uniform and frozen, B zero."""
        rank = self.config.rank
        B_OR: Tensor = torch.zeros(site.out_features, rank)
        return SiteState(trained={"lora_B": B_OR}, frozen={"lora_A": draw_A(rank, site.in_features, rng)})
