"""SoRA: y = W x + b + (alpha / r) B (g * (A drop(x))); a proximal step after every update sets small gates g to zero.

Ding et al. 2023, "Sparse low-rank adaptation of pre-trained language models", arXiv:2311.11696, section 3.2, equations
5 to 8: after the optimizer's step with rate eta, g <- sign(g) max(|g| - eta * sparsity, 0), which is the proximal step
of an L1 norm of the gates. Trains r (in + out + 1) numbers per site; ranks with a zero gate at the end are not written.
Mergeable. Stored for peft as LoRA with the gates folded into A.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from remora.methods.base import AdapterTensors, LinearChange, LogRange, PeftTensor, SiteState, SiteWeights, Tensors
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.sites import Site


@register("sora")
class SoRA(LoRA):
    """Sparse low-rank adaptation."""

    label: ClassVar[str] = "SoRA"
    citation: ClassVar[str] = "Ding et al. 2023, arXiv:2311.11696"
    use_when: ClassVar[str] = "where the rank each site needs should come out of training"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"rank": 4, "sparsity": 2.0, "targets": ("attention.v", "ffn.up")},
    )

    class Config(LoRA.Config):
        """LoRA's settings, and the weight of the gates' L1 norm."""

        sparsity: float = Field(0.1, ge=0)

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A uniform, B zero, gates normal."""
        trained = super().init(site, base, shared, rng).trained
        return SiteState(trained={**trained, "gate": torch.empty(self.config.rank).normal_(generator=rng)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term, with the gates in A."""
        A = state["gate"][:, None] * state["lora_A"]
        return LinearChange(A=A, B=state["lora_B"], scale=self.scale, dropout=self.config.dropout)

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Soft threshold of the gates."""
        assert isinstance(self.config, SoRA.Config)
        threshold = adapter.lr * self.config.sparsity
        for state in adapter.states.values():
            gate = state.trained["gate"]
            gate.copy_(gate.sign() * (gate.abs() - threshold).clamp_min(0))

    def peft_holds(self, site: Site) -> bool:
        """Never: peft knows no gates, but folded it is a LoRA."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Nothing beyond LoRA's keys."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Nothing of its own."""
        return {}
