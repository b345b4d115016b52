"""PiSSA: LoRA that starts at the principal part of the weight: y = W x + b + s (B A - B_0 A_0) x with s = alpha / r.

Meng et al. 2024, "PiSSA: principal singular values and singular vectors adaptation", arXiv:2404.02948, section 3,
equations 2 to 5: W = U S V^T, s B_0 A_0 = U_r S_r V_r^T, and W - s B_0 A_0 is what stays frozen. Written as a change
since the start, the frozen part is the base itself, which all trials share and which is never rounded again.
Trains r (in + out) numbers per site; as many frozen ones are kept. No weight decay: it would pull the principal part of
the base towards zero. Mergeable. Stored for peft as LoRA of rank 2r, which computes the same on the untouched base.
"""

# D in_features, O out_features, R rank
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
from remora.methods.lora import LORA_LAYOUT, lora_from_peft
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site


@register("pissa")
class PiSSA(Method):
    """Principal singular values and vectors adaptation."""

    label: ClassVar[str] = "PiSSA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Meng et al. 2024, arXiv:2404.02948"
    use_when: ClassVar[str] = "where training is short: it starts at the principal part of the weight"
    lr_range: ClassVar[LogRange] = LogRange(5e-5, 5e-3)
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 4, "alpha": 16, "targets": ("attention.q",)})

    class Config(MethodConfig):
        """Rank r, scaling numerator alpha, and where to attach."""

        rank: int = Field(8, ge=1)
        alpha: float = Field(8.0, gt=0)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    @property
    def scale(self) -> float:
        """s in y = W x + s (B A - B_0 A_0) x."""
        return self.config.alpha / self.config.rank

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The r largest singular values, half of each in A and half in B."""
        A_RD, B_OR = principal(base.weight.detach().cpu(), self.config.rank, self.scale)
        return SiteState(
            trained={"lora_A": A_RD, "lora_B": B_OR}, frozen={"start_A": A_RD.clone(), "start_B": B_OR.clone()}
        )

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """Both products as one of rank 2r."""
        A = torch.cat([state["lora_A"], state["start_A"]])
        return LinearChange(A=A, B=torch.cat([state["lora_B"], -state["start_B"]], 1), scale=self.scale)

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Never for A and B: their start is a part of the base."""
        return parameter not in ("lora_A", "lora_B") and super().decays(parameter, value)

    def peft_holds(self, site: Site) -> bool:
        """Never: a PiSSA file means another base, W - s B_0 A_0; LoRA of rank 2r means the same everywhere."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Those of a PiSSA file, which is read but never written."""
        return LORA_LAYOUT

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of LoraConfig with ``init_lora_weights="pissa"``: peft takes the principal part away at every load."""
        patterns = PeftSettings({key: given.rest().get(key) for key in ("rank_pattern", "alpha_pattern")})
        found = lora_from_peft(given, cls.name, modules)
        if found is None:
            return None
        patterns.refuse(dict.fromkeys(patterns.rest(), "modules differ in rank or scale (PiSSA)"))
        return {"rank": found["rank"], "alpha": found["alpha"]}


def principal(weight_OD: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A (R, D) and B (O, R), float32, such that ``scale * B A`` is the best approximation of a weight of that rank."""
    U_OR, values_R, V_RD = torch.linalg.svd(weight_OD.double(), full_matrices=False)
    rank = min(rank, values_R.shape[0])
    root_R = (values_R[:rank] / scale).sqrt()
    return (root_R[:, None] * V_RD[:rank]).float(), (U_OR[:, :rank] * root_R).float()
