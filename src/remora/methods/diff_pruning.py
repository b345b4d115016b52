"""Diff pruning: y = (W + z * z_g * w) x + b; a change w of the weight, kept sparse by gates z with an L0 penalty.

Guo, Rush and Kim 2021, "Parameter-efficient transfer learning with diff pruning", arXiv:2012.07463. Section 3.1,
equations 3 and 4: z = clamp(3 sigmoid(logit(u) + alpha) - 1.5, 0, 1), a stretched hard-concrete gate with u uniform,
drawn anew in every step; the expected number of open gates is the sum of sigmoid(alpha). Section 3.2: one more gate z_g
per site closes whole weights (structured). Section 3.3: in the end the change is cut to the share `density` of its
largest values over all sites, at least one per site here, and what is left trains on alone. Both phases are one run:
the first takes the share `search` of the steps. Evaluation takes the gates without noise.
Trains 2 in out + 1 numbers per site in the first phase, `density` of in out in the second. Mergeable. No PEFT type;
stored in Remora's own file as `value`, `alpha` and `group` per site.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.base import (
    AdapterTensors,
    LinearChange,
    LogRange,
    Method,
    MethodConfig,
    SiteState,
    SiteWeights,
    Tensors,
)
from remora.methods.fish_mask import largest
from remora.methods.registry import register
from remora.models.sites import Site
from remora.seeds import torch_generator

_STRETCH = 1.5
_FIXED = 20.0
"""An alpha of this size, up or down, is a gate exactly 1 or 0."""


def gate(alpha: Tensor, noise: Tensor | None) -> Tensor:
    """Hard-concrete gates; `noise` uniform, or None for evaluation."""
    logits = alpha if noise is None else alpha + torch.logit(noise)
    return (2 * _STRETCH * torch.sigmoid(logits) - _STRETCH).clamp(0, 1)


@register("diff-pruning")
class DiffPruning(Method):
    """A sparse change of the weights, found by training."""

    label: ClassVar[str] = "diff pruning"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Guo et al. 2021, arXiv:2012.07463"
    use_when: ClassVar[str] = "to store a task as few changed weights; training it costs as much as many"
    lr_range: ClassVar[LogRange] = LogRange(3e-5, 3e-3)
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"density": 0.1, "search": 0.3, "l0": 1e-4, "targets": ("attention.o", "ffn.down")},
    )

    class Config(MethodConfig):
        """Share of the weights that change in the end, weight of the L0 penalty, start of alpha, the first phase."""

        density: float = Field(0.005, gt=0, le=1)
        l0: float = Field(1.25e-7, ge=0)
        alpha: float = Field(5.0, gt=-_FIXED, lt=_FIXED)
        search: float = Field(0.7, gt=0, lt=1)
        targets: tuple[str, ...] = ("linear",)

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """No change, and gates that are mostly open."""
        shape = (site.out_features, site.in_features)
        alpha, group = torch.full(shape, self.config.alpha), torch.full((1,), self.config.alpha)
        return SiteState(trained={"value": torch.zeros(shape), "alpha": alpha, "group": group})

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Draws the noise of the first phase, or ends it."""
        adapter.drawn = {}
        last = min(max(1, round(self.config.search * num_steps)), num_steps - 1)
        if step >= last:
            if "fixed" not in adapter.extra:
                self._cut(adapter)
            return
        for site in adapter.sites:
            rng = torch_generator(adapter.seed, "gates", site.id, step)
            like = adapter.states[site.id].trained["alpha"]
            alpha, group = torch.rand(like.shape, generator=rng), torch.rand(1, generator=rng)
            adapter.drawn[site.id] = {"alpha_noise": _inner(alpha, like), "group_noise": _inner(group, like)}

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The gated change."""
        gates = [gate(state[name], state.get(f"{name}_noise")) for name in ("alpha", "group")]
        return LinearChange(delta=gates[0] * gates[1] * state["value"])

    def penalty(self, adapter: AdapterTensors, step: int) -> Tensor | None:
        """The expected number of open gates in the first phase."""
        if "fixed" in adapter.extra or not adapter.sites:
            return None
        states = [state.trained for state in adapter.states.values()]
        opened = [torch.sigmoid(own["alpha"]).sum() * torch.sigmoid(own["group"]) for own in states]
        return self.config.l0 * torch.cat(opened).sum()

    def after_backward(self, adapter: AdapterTensors, step: int) -> None:
        """In the second phase nothing but the values that are left is trained."""
        if "fixed" in adapter.extra:
            for state in adapter.states.values():
                value, alpha, group = (state.trained[name] for name in ("value", "alpha", "group"))
                assert value.grad is not None
                assert alpha.grad is not None
                assert group.grad is not None
                value.grad[alpha < 0] = 0
                alpha.grad.zero_()
                group.grad.zero_()

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """Undoes what the optimizer's momentum did to gates and values that are fixed."""
        if "fixed" in adapter.extra:
            for state in adapter.states.values():
                own = state.trained
                own["alpha"].copy_(torch.where(own["alpha"] > 0, _FIXED, -_FIXED))
                own["group"].fill_(_FIXED)
                own["value"][own["alpha"] < 0] = 0

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Never for gates."""
        return parameter != "alpha" and super().decays(parameter, value)

    @torch.no_grad()
    def _cut(self, adapter: AdapterTensors) -> None:
        """Keeps the largest changes as they are; all others become zero."""
        states = [adapter.states[site.id].trained for site in adapter.sites]
        changes = [gate(own["alpha"], None) * gate(own["group"], None) * own["value"] for own in states]
        places = largest([change.abs().flatten() for change in changes], self.config.density)
        for own, change, index in zip(states, changes, places, strict=True):
            kept = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
            kept[index] = True
            kept = kept.view(change.shape)
            own["value"].copy_(torch.where(kept, change, 0.0))
            own["alpha"].copy_(torch.where(kept, _FIXED, -_FIXED))
            own["group"].fill_(_FIXED)
        adapter.extra["fixed"] = torch.ones(1)


def _inner(noise: Tensor, like: Tensor) -> Tensor:
    """Uniform noise without the ends, where its logit is infinite."""
    return noise.to(like.device, like.dtype).clamp(1e-6, 1 - 1e-6)
