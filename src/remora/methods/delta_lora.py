"""Delta-LoRA: LoRA whose product's changes are also added to the weight: y = W_t x + b + s B_t A_t x, s = alpha / r.

Zi et al. 2023, "Delta-LoRA: fine-tuning high-rank parameters with the delta of low-rank matrices", arXiv:2309.02411,
section 4, algorithm 1: from step K on, W_(t+1) = W_t + c (B_(t+1) A_(t+1) - B_t A_t) with c = ratio * s. The sum
telescopes to W_t = W + c (B_t A_t - B_K A_K), so no trial needs a weight of its own; in that term A_t and B_t are
constants of the backward pass, or it would be LoRA with a larger alpha. No dropout (section 4.2): both terms must see
the same x. Trains r (in + out) numbers per site; A_K and B_K are kept. Mergeable. What was trained is exactly a LoRA of
rank 2r, (s + c) B_t A_t - c B_K A_K, and is stored so for peft.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from remora.methods.base import (
    AdapterTensors,
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
from remora.methods.registry import register
from remora.models.sites import Site


@register("delta-lora")
class DeltaLoRA(Method):
    """LoRA that passes its changes on to the weight."""

    label: ClassVar[str] = "Delta-LoRA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Zi et al. 2023, arXiv:2309.02411"
    use_when: ClassVar[str] = "where LoRA stays behind full fine-tuning and the weights themselves may move"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"rank": 4, "ratio": 2.0, "start": 0.2, "targets": ("linear",)},
    )

    class Config(MethodConfig):
        """Rank r, scaling numerator alpha, the ratio of c to s, and the share of the steps before step K."""

        rank: int = Field(8, ge=1)
        alpha: float = Field(16.0, gt=0)
        ratio: float = Field(0.5, gt=0)
        start: float = Field(0.1, ge=0, lt=1)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A uniform, B zero, and the same as A_K and B_K until step K."""
        rank = self.config.rank
        trained = {"lora_A": draw_A(rank, site.in_features, rng), "lora_B": torch.zeros(site.out_features, rank)}
        kept = {"start_A": trained["lora_A"].clone(), "start_B": trained["lora_B"].clone()}
        return SiteState(trained=trained, frozen={**kept, "started": torch.zeros(1)})

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Keeps A_K and B_K when step K begins."""
        if step != round(self.config.start * num_steps):
            return
        for state in adapter.states.values():
            for name in ("A", "B"):
                state.frozen[f"start_{name}"].copy_(state.trained[f"lora_{name}"].detach())
            state.frozen["started"].fill_(1.0)

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """LoRA's term and the weight's, side by side; without gradients both products of A_t and B_t are one."""
        A, B, ratio = state["lora_A"], state["lora_B"], self.config.ratio * state["started"]
        scale = self.config.alpha / self.config.rank
        passed_on = -ratio * state["start_B"]
        if not torch.is_grad_enabled():
            both = torch.cat([(1 + ratio) * B, passed_on], 1)
            return LinearChange(A=torch.cat([A, state["start_A"]]), B=both, scale=scale)
        A_all = torch.cat([A, A.detach(), state["start_A"]])
        return LinearChange(A=A_all, B=torch.cat([B, ratio * B.detach(), passed_on], 1), scale=scale)

    def peft_holds(self, site: Site) -> bool:
        """Never as it is: the file holds the sum of both terms."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Nothing of its own."""
        return {}
