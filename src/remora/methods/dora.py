"""DoRA: y = (m / ||W + s B A||) * (W x + s B A drop(x)) + b; a magnitude per output feature and a low-rank direction.

Liu et al. 2024, "DoRA: weight-decomposed low-rank adaptation", arXiv:2402.09353, equation 5; the norm is taken as a
constant in the backward pass (section 4.3). Norms run over the inputs of an output feature, as in the authors' code.
Trains r (in + out) + out numbers per site. Mergeable. PEFT type LORA with `use_dora`.
"""

# D in_features, O out_features, R rank
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from remora.methods.base import LinearChange, LogRange, PeftTensor, SiteState, SiteWeights, Tensors
from remora.methods.lora import LoRA
from remora.methods.registry import register
from remora.models.sites import Site


def row_norms(weight_OD: Tensor) -> Tensor:
    """(O,) Euclidean norms of a weight's rows, in float32 at least."""
    wide = weight_OD if weight_OD.dtype == torch.float64 else weight_OD.float()
    return torch.linalg.vector_norm(wide, dim=1)


@register("dora")
class DoRA(LoRA):
    """Weight-decomposed low-rank adaptation."""

    label: ClassVar[str] = "DoRA"
    citation: ClassVar[str] = "Liu et al. 2024, arXiv:2402.09353"
    use_when: ClassVar[str] = "where LoRA at a small rank stays behind full fine-tuning, for a dearer step"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 4, "alpha": 8, "targets": ("linear",)})

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """LoRA's A and B; the magnitude starts as the norm of W, which is kept since W never changes."""
        norms_O = row_norms(base.weight)
        trained = {**super().init(site, base, shared, rng).trained, "magnitude": norms_O.clone()}
        return SiteState(trained=trained, frozen={"weight_norm": norms_O})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term, and the outputs scaled by magnitude over norm."""
        norms_O = self._norms(state, base.weight)
        return replace(super().change(state, site, base), out_scale=state["magnitude"] / norms_O)

    @torch.no_grad()
    def _norms(self, state: Tensors, weight_OD: Tensor) -> Tensor:
        """||W + s B A|| per row, without a product of B and A: two thin products and one of R x R."""
        A_RD, B_OR, s = state["lora_A"], state["lora_B"], self.scale
        WA_OR = (weight_OD @ A_RD.to(weight_OD.dtype).T).to(B_OR.dtype)
        cross_O = (B_OR * WA_OR).sum(1)
        own_O = ((B_OR @ (A_RD @ A_RD.T)) * B_OR).sum(1)
        squares_O = state["weight_norm"].square() + 2 * s * cross_O + s * s * own_O
        return squares_O.clamp_min_(torch.finfo(squares_O.dtype).tiny).sqrt_()

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's LoraConfig."""
        return {**super().peft_config(sites), "use_dora": True}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """LoRA's tensors and the magnitude; rows outside the blocks of a fused projection keep the norm of W."""
        magnitude = PeftTensor(suffix="lora_magnitude_vector", axis="outputs", fill=row_norms)
        return {**super().peft_layout(site), "magnitude": magnitude}
