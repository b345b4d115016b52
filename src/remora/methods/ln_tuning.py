"""LN tuning: the weights and biases of the norms are trained, y = w * (x - mean) / std + b; all else stays frozen.

Zhao et al. 2023, "Tuning LayerNorm in attention: towards efficient multi-modal LLM finetuning", arXiv:2312.11420,
section 2; as peft's LN tuning. By default every norm of the residual stream, whatever an architecture calls it.
Trains the features of each norm once for the weight and once for the bias, where it has one. The whole norm is computed
with the new values, so norms without a mean (LLaMA) or with weights around zero (Gemma) keep their own formula.
Mergeable. PEFT type LN_TUNING.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from remora.methods.base import (
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
from remora.models.sites import Site, SiteKind


def own_values(base: SiteWeights) -> dict[str, torch.Tensor]:
    """Float32 copies of a site's weight and bias, from which training starts."""
    values = {"weight": base.weight.detach().float().clone(memory_format=torch.contiguous_format)}
    return values if base.bias is None else {**values, "bias": base.bias.detach().float().clone()}


@register("ln-tuning")
class LNTuning(Method):
    """Norms only."""

    label: ClassVar[str] = "LN tuning"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Zhao et al. 2023, arXiv:2312.11420"
    use_when: ClassVar[str] = "as a tiny baseline, and with large bases whose norms are few"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 3e-2)
    peft_type: ClassVar[str | None] = "LN_TUNING"
    mergeable: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("norm",)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"targets": ("norm.ffn",)})

    class Config(MethodConfig):
        """Which norms."""

        targets: tuple[str, ...] = ("norm",)

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The norm's own values."""
        return SiteState(trained=own_values(base))

    def norm_weights(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """The trained values."""
        return SiteWeights(weight=state["weight"], bias=state.get("bias"))

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """LNTuningConfig has no keys of its own."""
        return {}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Weight and bias under peft's names."""
        names = ("weight", "bias") if site.bias else ("weight",)
        return {name: PeftTensor(suffix=f"ln_tuning_layers.{name}", axis="outputs") for name in names}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """LNTuningConfig has no keys of its own."""
        return {} if given.peft_type == cls.peft_type else None
