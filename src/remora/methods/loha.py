"""LoHa: y = W x + b + s ((B_1 A_1) * (B_2 A_2)) drop(x), s = alpha / r: two low-rank matrices multiplied elementwise.

Hyeon-Woo et al. 2021, "FedPara: low-rank Hadamard product for communication-efficient federated learning",
arXiv:2108.06098, section 2.2, proposition 1: its rank reaches r^2 with the numbers of two matrices of rank r. Used for
fine-tuning in Yeh et al. 2023, "Navigating text-to-image customization: from LyCORIS fine-tuning to model evaluation",
arXiv:2309.14859, section 3.2.
The product is itself of the low-rank form, with A's rows A_1[i] * A_2[j] and B's columns B_1[:, i] * B_2[:, j], so no
matrix of the weight's size is made. Trains 2 r (in + out) numbers per site. Mergeable. PEFT type LOHA.
"""

# D in_features, O out_features, R rank, S = R^2 rank of the product
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

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
from remora.methods.lora import draw_A
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site


@register("loha")
class LoHa(Method):
    """Low-rank Hadamard product."""

    label: ClassVar[str] = "LoHa"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Hyeon-Woo et al. 2021, arXiv:2108.06098"
    use_when: ClassVar[str] = "where updates of high rank are wanted at few parameters"
    lr_range: ClassVar[LogRange] = LogRange(3e-4, 3e-2)
    peft_type: ClassVar[str | None] = "LOHA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 6, "alpha": 12, "targets": ("ffn.up", "ffn.down")})

    class Config(MethodConfig):
        """Rank r of both factors, scaling numerator alpha, dropout on the low-rank branch, and where to attach."""

        rank: int = Field(4, ge=1)
        alpha: float = Field(8.0, gt=0)
        dropout: float = Field(0.0, ge=0, lt=1)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A_2 zero, all others uniform, as peft starts."""
        rank, bound = self.config.rank, 1 / math.sqrt(self.config.rank)
        B_1, B_2 = (torch.empty(site.out_features, rank).uniform_(-bound, bound, generator=rng) for _ in range(2))
        A_1, A_2 = draw_A(rank, site.in_features, rng), torch.zeros(rank, site.in_features)
        return SiteState(trained={"A_1": A_1, "B_1": B_1, "A_2": A_2, "B_2": B_2})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The product as one low-rank term of rank r^2."""
        A_SD = (state["A_1"][:, None] * state["A_2"]).flatten(0, 1)
        B_OS = (state["B_1"][:, :, None] * state["B_2"][:, None]).flatten(1)
        return LinearChange(A=A_SD, B=B_OS, scale=self.config.alpha / self.config.rank, dropout=self.config.dropout)

    def peft_holds(self, site: Site) -> bool:
        """Neither GPT-2's transposed layers nor blocks of a fused projection."""
        return not site.transposed and not site.is_part

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's LoHaConfig; it knows no dropout of the input."""
        return {"r": self.config.rank, "alpha": self.config.alpha, "init_weights": True}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """The four factors; what is A in LoRA is b in peft's names."""
        return {
            "A_1": PeftTensor(suffix="hada_w1_b", axis="ranks_in"),
            "B_1": PeftTensor(suffix="hada_w1_a", axis="ranks_out"),
            "A_2": PeftTensor(suffix="hada_w2_b", axis="ranks_in"),
            "B_2": PeftTensor(suffix="hada_w2_a", axis="ranks_out"),
        }

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of LoHaConfig, where all modules have the same."""
        if given.peft_type != cls.peft_type:
            return None
        given.skip("init_weights", "rank_dropout", "module_dropout", "use_effective_conv2d")
        return {"rank": given.take("r", int, 8), "alpha": given.take("alpha", float, 8.0)}
