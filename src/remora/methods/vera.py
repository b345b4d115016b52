"""VeRA: y = W x + b + lambda_b * (B (lambda_d * (A drop(x)))); A and B random, frozen, shared by all sites.

Kopiczko et al. 2023, "VeRA: vector-based random matrix adaptation", arXiv:2310.11454, section 3.
Trains r + out numbers per site. A and B come from `projection_seed`, drawn as peft draws them; a site uses as many of
their columns and rows as it has features. Mergeable. PEFT type VERA.
"""

# D in_features, O out_features, R rank
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
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site


def kaiming_uniform(num_rows: int, num_columns: int, rng: torch.Generator) -> Tensor:
    """(rows, columns) from U(-b, b) with b = sqrt(6 / columns): He's rule for rectifiers."""
    bound = math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(num_columns))
    return torch.empty(num_rows, num_columns).uniform_(-bound, bound, generator=rng)


@register("vera")
class VeRA(Method):
    """Vector-based random matrix adaptation."""

    label: ClassVar[str] = "VeRA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Kopiczko et al. 2023, arXiv:2310.11454"
    use_when: ClassVar[str] = "for very many adapters to store: their files are a fraction of LoRA's"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 1e-1)
    peft_type: ClassVar[str | None] = "VERA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"rank": 32, "projection_seed": 7, "targets": ("attention.v", "ffn.down")},
    )

    class Config(MethodConfig):
        """Rank of the shared matrices and the seed they come from, start of lambda_d, dropout, where to attach."""

        rank: int = Field(256, ge=1)
        initial_d: float = Field(0.1, gt=0)
        dropout: float = Field(0.0, ge=0, lt=1)
        projection_seed: int = Field(0, ge=0)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    def shared(self, sites: Sequence[Site]) -> dict[str, Tensor]:
        """A (R, largest D) and B (largest O, R)."""
        rng = torch.Generator().manual_seed(self.config.projection_seed)
        rank = self.config.rank
        A_RD = kaiming_uniform(rank, max(site.in_features for site in sites), rng)
        return {"vera_A": A_RD, "vera_B": kaiming_uniform(max(site.out_features for site in sites), rank, rng)}

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """lambda_d constant, lambda_b zero: the start is the base itself."""
        lambda_d_R = torch.full((self.config.rank,), self.config.initial_d)
        return SiteState(trained={"lambda_d": lambda_d_R, "lambda_b": torch.zeros(site.out_features)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The vectors stay outside of the matrices, so that sites with one input share its product with A."""
        return LinearChange(
            A=state["vera_A"][:, : site.in_features],
            rank_scale=state["lambda_d"],
            B=state["vera_B"][: site.out_features],
            term_scale=state["lambda_b"],
            dropout=self.config.dropout,
        )

    def peft_holds(self, site: Site) -> bool:
        """Not a block of a fused projection: peft has one lambda_d for the whole."""
        return not site.is_part

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's VeraConfig."""
        return {
            "r": self.config.rank,
            "projection_prng_key": self.config.projection_seed,
            "save_projection": True,
            "vera_dropout": self.config.dropout,
            "d_initial": self.config.initial_d,
            "bias": "none",
            "init_weights": True,
        }

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """The two vectors."""
        return {
            "lambda_b": PeftTensor(suffix="vera_lambda_b", axis="outputs"),
            "lambda_d": PeftTensor(suffix="vera_lambda_d", axis="inputs"),
        }

    def peft_shared(self) -> Mapping[str, str]:
        """A and B."""
        return {"vera_A": "vera_A", "vera_B": "vera_B"}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of VeraConfig."""
        if given.peft_type != cls.peft_type:
            return None
        given.refuse({"bias": "biases of the base are trained beside it"})
        given.skip("init_weights", "fan_in_fan_out", "save_projection")
        return {
            "rank": given.take("r", int, 256),
            "projection_seed": given.take("projection_prng_key", int, 0),
            "initial_d": given.take("d_initial", float, 0.1),
            "dropout": given.take("vera_dropout", float, 0.0),
        }
