"""LoRA: y = W x + b + (alpha / r) B A drop(x); A drawn at random, B zero, so the start is the base itself.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv:2106.09685, section 4.1, equation 3.
Trains r (in + out) numbers per site. Mergeable: W + (alpha / r) B A. PEFT type LORA.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.base import (
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    PeftTensor,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.registry import register
from remora.models.sites import Site


def draw_A(rank: int, in_features: int, rng: torch.Generator) -> Tensor:
    """(R, D) from U(-1/sqrt(D), 1/sqrt(D)): Kaiming uniform with a = sqrt(5), as the authors' code and peft draw it."""
    bound = 1 / math.sqrt(in_features)
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=rng)


@register("lora")
class LoRA(Method):
    """Low-rank adaptation."""

    label: ClassVar[str] = "LoRA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    use_when: ClassVar[str] = "first: it is the best understood adapter, and most tools can read its files"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 4, "alpha": 32, "targets": ("attention.q",)})

    class Config(MethodConfig):
        """Rank r, scaling numerator alpha, dropout on the low-rank branch, and where to attach."""

        rank: int = Field(8, ge=1)
        alpha: float = Field(16.0, gt=0)
        dropout: float = Field(0.1, ge=0, lt=1)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    @property
    def scale(self) -> float:
        """s in y = W x + s B A x."""
        return self.config.alpha / self.config.rank

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A uniform, B zero."""
        rank = self.config.rank
        A_RD, B_OR = draw_A(rank, site.in_features, rng), torch.zeros(site.out_features, rank)
        return SiteState(trained={"lora_A": A_RD, "lora_B": B_OR})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term alone."""
        return LinearChange(A=state["lora_A"], B=state["lora_B"], scale=self.scale, dropout=self.config.dropout)

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's LoraConfig."""
        return {"r": self.config.rank, "lora_alpha": self.config.alpha, "lora_dropout": self.config.dropout}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """A and B under peft's names."""
        return {
            "lora_A": PeftTensor(suffix="lora_A.weight", axis="ranks_in"),
            "lora_B": PeftTensor(suffix="lora_B.weight", axis="ranks_out"),
        }
