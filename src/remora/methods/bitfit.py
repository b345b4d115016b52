"""BitFit: y = W x + (b + beta) at every linear layer, and the same at every norm of the layers; only the betas train.

Ben Zaken et al. 2021, "BitFit: simple parameter-efficient fine-tuning for transformer-based masked language-models",
arXiv:2106.10199, section 3. A beta starts at 0 and is added to the base's bias, so weight decay never acts on it and
the base stays as it is. Linear layers without a bias (LLaMA) get one, which the method's remark says.
Trains out_features numbers per site. Mergeable where the base has biases. PEFT type BEFT for the linear layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from remora.methods.base import (
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    PeftTensor,
    Rows,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.base import Base
from remora.models.sites import Site, SiteKind


@register("bitfit")
class BitFit(Method):
    """Bias terms only."""

    label: ClassVar[str] = "BitFit"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Ben Zaken et al. 2021, arXiv:2106.10199"
    use_when: ClassVar[str] = "on encoders, whose layers have biases, as a small and strong baseline"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 3e-2)
    peft_type: ClassVar[str | None] = "BEFT"
    mergeable: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("linear", "norm")
    # A key's bias adds the same number to all scores of a query, unless positions enter after it.
    zero_gradients: ClassVar[tuple[str, ...]] = ("attention.k.bias", "cross.k.bias")
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"targets": ("attention.q", "ffn.up")})

    class Config(MethodConfig):
        """Where to attach: linear layers, and those of the norms that have a bias."""

        targets: tuple[str, ...] = ("linear", "norm")

    def sites(self, base: Base) -> tuple[Site, ...]:
        """Linear layers, and norms with a bias inside the layers."""
        return tuple(site for site in super().sites(base) if site.kind == "linear" or (site.bias and site.layer >= 0))

    def remark(self, sites: Sequence[Site]) -> str | None:
        """Says where the base had no bias to train."""
        added = sum(site.kind == "linear" and not site.bias for site in sites)
        return f"zero biases added to {added} of {len(sites)} layers that have none" if added else None

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Zero."""
        return SiteState(trained={"bias": torch.zeros(site.out_features)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The added bias alone."""
        return LinearChange(bias=state["bias"])

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The norm's output and the added bias."""
        return y_TD + state["bias"].to(y_TD.dtype)

    def merged(self, state: Tensors, site: Site, base: SiteWeights) -> SiteWeights:
        """The sum of both biases."""
        assert base.bias is not None, "without a bias in the base a trained one has no place to go"
        return SiteWeights(weight=base.weight, bias=base.bias + state["bias"].to(base.bias.dtype))

    def peft_holds(self, site: Site) -> bool:
        """Neither norms nor GPT-2's transposed layers: peft's BEFT takes nn.Linear only."""
        return site.kind == "linear" and not site.transposed

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's BeftConfig."""
        return {"init_weights": True}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """The added bias, as a row."""
        return {"bias": PeftTensor(suffix="beft_bias", axis="outputs", shape=(1, -1), fill=_zeros)}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """BeftConfig has no keys that say anything once it is trained."""
        given.skip("init_weights")
        return {} if given.peft_type == cls.peft_type else None


def _zeros(weight_OD: Tensor) -> Tensor:
    return weight_OD.new_zeros(weight_OD.shape[0])
