"""(IA)^3: keys and values y = l * (W x + b); feed-forward y = W (l * x) + b; a scale per feature, 1 at the start.

Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and cheaper than in-context learning",
arXiv:2205.05638, section 3.3. Trains out_features scales at a key or value site, in_features at a feed-forward one.
Mergeable. PEFT type IA3.
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
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.peft_settings import PeftSettings, matches_end
from remora.methods.registry import register
from remora.models.sites import Site


def _ones(weight_OD: Tensor) -> Tensor:
    return weight_OD.new_ones(weight_OD.shape[0])


@register("ia3")
class IA3(Method):
    """Learned scales of keys, values and feed-forward activations."""

    label: ClassVar[str] = "(IA)^3"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "Liu et al. 2022, arXiv:2205.05638"
    use_when: ClassVar[str] = "for few examples or adapters of a few kilobytes"
    lr_range: ClassVar[LogRange] = LogRange(1e-3, 1e-1)
    peft_type: ClassVar[str | None] = "IA3"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"targets": ("attention.v",)})

    class Config(MethodConfig):
        """Where to attach, and which of these sites scale their inputs; every other one scales its outputs."""

        targets: tuple[str, ...] = ("attention.k", "attention.v", "ffn.down")
        feedforward: tuple[str, ...] = ("ffn.down",)

    config: Config

    def scales_input(self, site: Site) -> bool:
        """Whether the scale acts on a site's input, by the site's portable name or that of its module."""
        return not {site.name, site.module, site.hf_name}.isdisjoint(self.config.feedforward)

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """All ones."""
        width = site.in_features if self.scales_input(site) else site.out_features
        return SiteState(trained={"scale": torch.ones(width)})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """A scale of the input, or of the output including the base's bias."""
        scale = state["scale"]
        if self.scales_input(site):
            return LinearChange(in_scale=scale)
        return LinearChange(out_scale=scale, bias=None if base.bias is None else (scale - 1) * base.bias)

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's IA3Config; `feedforward_modules` in full, the writer shortens names."""
        return {
            "feedforward_modules": [site.hf_name for site in sites if self.scales_input(site)],
            "init_ia3_weights": True,
        }

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """The scales, as a row for inputs and as a column for outputs."""
        if self.scales_input(site):
            return {"scale": PeftTensor(suffix="ia3_l", axis="inputs", shape=(1, -1))}
        return {"scale": PeftTensor(suffix="ia3_l", axis="outputs", shape=(-1, 1), fill=_ones)}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of IA3Config."""
        if given.peft_type != cls.peft_type:
            return None
        given.skip("init_ia3_weights", "fan_in_fan_out")
        patterns = given.names("feedforward_modules") or ()
        return {"feedforward": tuple(module for module in modules if matches_end(patterns, module))}
