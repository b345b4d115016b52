"""LoReFT: h' = h + R^T (W h + b - R h) on a layer's output, at the first p and the last s tokens of every text.

Wu et al. 2024, "ReFT: representation finetuning for language models", arXiv:2404.03592, section 3.2, equation 2. One
R, W and b per layer serve the first and the last tokens alike (the paper's "tied" setting); a text shorter than p + s
is changed everywhere once. R has orthonormal rows: after every optimizer step it is taken back to the nearest point of
their kind by a QR decomposition with a positive diagonal. A parametrisation would instead decompose in every pass and
send gradients through it; what it would save is one small decomposition per step.
Trains 2 r width + r numbers per layer. Not mergeable.
"""

# T rows, D features, R rank
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from remora.errors import ConfigError
from remora.methods.base import (
    AdapterTensors,
    LogRange,
    Method,
    MethodConfig,
    Rows,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.prefix_tuning import draw_linear
from remora.methods.registry import register
from remora.models.base import Base
from remora.models.sites import Site, SiteKind


def orthonormal(rotation_RD: Tensor) -> Tensor:
    """(R, D) orthonormal rows that span the same space: Q of a QR decomposition whose R has a positive diagonal."""
    q_DR, r_RR = torch.linalg.qr(rotation_RD.T)
    return (q_DR * torch.where(r_RR.diagonal() < 0, -1.0, 1.0).to(q_DR.dtype)).T


@register("loreft")
class LoReFT(Method):
    """Low-rank edits of hidden states at some tokens of every text."""

    label: ClassVar[str] = "LoReFT"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "Wu et al. 2024, arXiv:2404.03592"
    use_when: ClassVar[str] = "for very few parameters, where editing the states of some positions is enough"
    lr_range: ClassVar[LogRange] = LogRange(3e-4, 3e-2)
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("block",)
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 2, "first": 1, "last": 2, "dropout": 0.1})

    class Config(MethodConfig):
        """Rank of the edits, how many tokens from either end get them, dropout on what is added in the subspace."""

        rank: int = Field(4, ge=1)
        first: int = Field(4, ge=0)
        last: int = Field(4, ge=0)
        dropout: float = Field(0.0, ge=0, lt=1)

        @model_validator(mode="after")
        def _changes_something(self) -> Self:
            if self.first == self.last == 0:
                raise ValueError("first and last are both 0, so that no token is changed")
            return self

    config: Config

    @property
    def targets(self) -> tuple[str, ...]:
        """Every layer's output."""
        return ("block",)

    def sites(self, base: Base) -> tuple[Site, ...]:
        """Every layer's output, if it has room for the subspace."""
        found = super().sites(base)
        if self.config.rank > found[0].out_features:
            raise ConfigError(
                f"loreft: rank {self.config.rank} is more than the {found[0].out_features} features of {base.name}",
                "choose a smaller rank",
            )
        return found

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """R random with orthonormal rows, W and b as torch starts a linear layer."""
        rank, width = self.config.rank, site.out_features
        rotation_RD = orthonormal(torch.empty(rank, width).normal_(generator=rng))
        source_RD, bias_R = draw_linear(rank, width, rng)
        return SiteState(trained={"rotation": rotation_RD.clone(), "source": source_RD, "source_bias": bias_R})

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The layer's output, moved within the subspace on the chosen rows."""
        rotation_RD, source_RD, bias_R = (state[name].to(y_TD.dtype) for name in ("rotation", "source", "source_bias"))
        move_TR = rows.dropout(F.linear(y_TD, source_RD - rotation_RD, bias_R), self.config.dropout)
        from_end_T = rows.length_T - rows.place_T
        chosen_T = (rows.place_T < self.config.first) | ((from_end_T > 0) & (from_end_T <= self.config.last))
        return torch.where(chosen_T[:, None], y_TD + move_TR @ rotation_RD, y_TD)

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Not R, whose rows keep their length."""
        return parameter != "rotation" and super().decays(parameter, value)

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """R back to orthonormal rows."""
        for state in adapter.states.values():
            state.trained["rotation"].copy_(orthonormal(state.trained["rotation"]))
