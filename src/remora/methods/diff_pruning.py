"""Diff pruning: y = (W + z * z_g * w) x + b; a change w of the weight, kept sparse by gates z with an L0 penalty.

Guo, Rush and Kim 2020, "Parameter-efficient transfer learning with diff pruning", arXiv:2012.07463, section 3, in one
run. First, for the share `search` of the steps, all w train behind stretched hard-concrete gates (Louizos et al. 2017,
arXiv:1712.01312): z = clamp(3 sigmoid(alpha + logit(u)) - 1.5, 0, 1) with u uniform and drawn anew in every step, one
more gate z_g for the whole matrix (the structured variant), and `l0` times the expected number of open gates,
sigmoid(alpha) sigmoid(alpha_g) each, as penalty. Then the changes with the largest |w| sigmoid(alpha) sigmoid(alpha_g)
are kept, the share `density` over all sites and at least one per site, and these train on alone, `refine` times as
fast. The paper ranks by |z w|, which does not tell closed gates apart, runs its phases as two trainings of three epochs
each and starts alpha at 5; here gates start less open, since short runs would never close any.
Trains 2 in out + 1 numbers per site, with gradients and two moments each: twice what full fine-tuning keeps at its
sites, beside the base, and a longer step. In the end `density` of in out count. Mergeable. No PEFT type; stored in
Remora's own file as trained, dense: `value`, `alpha` and `group` per site.
"""

# O out_features, D in_features, K weights kept at a site
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.autograd import Function

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


def _draw(like: Tensor, rng: torch.Generator) -> Tensor:
    """Random 16-bit words of a tensor's shape, which cost a quarter of random floats."""
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=rng)
    return words.view(torch.int16)[: like.numel()].view(like.shape).to(like.device)


def _stretched(alpha: Tensor, words: Tensor | None) -> tuple[Tensor, Tensor]:
    """sigmoid(alpha + logit(u)), with u from random words or 1/2, and the gate before it is cut to [0, 1]."""
    if words is None:
        s = torch.sigmoid(alpha)
    else:
        s = words.to(alpha.dtype).add_(2**15 + 0.5).mul_(2**-16).logit_().add_(alpha).sigmoid_()
    return s, s.mul(2 * _STRETCH).sub_(_STRETCH)


def gate(alpha: Tensor, words: Tensor | None = None) -> Tensor:
    """Hard-concrete gates in [0, 1]; `words` are random, or None for evaluation."""
    return _stretched(alpha, words)[1].clamp_(0, 1)


class _Gated(Function):
    """z * z_g * w; the backward pass computes the gates again, so that nothing of the weight's size is kept for it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, alpha: Tensor, group: Tensor, words: Tensor, group_words: Tensor) -> Tensor:
        ctx.save_for_backward(value, alpha, group, words, group_words)
        return gate(alpha, words).mul_(value).mul_(gate(group, group_words))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        value, alpha, group, words, group_words = ctx.saved_tensors
        s, z = _stretched(alpha, words)
        group_s, group_z = _stretched(group, group_words)
        slope, group_slope = _slope(s, z), _slope(group_s, group_z)
        z.clamp_(0, 1)
        through = grad * value
        group_grad = torch.dot(through.reshape(-1), z.reshape(-1)) * group_slope
        group_z.clamp_(0, 1)
        return z.mul_(grad).mul_(group_z), slope.mul_(through).mul_(group_z), group_grad, None, None


def _slope(s: Tensor, z: Tensor) -> Tensor:
    """Derivative of a gate by its alpha, in the place of `s`; zero where the gate is cut."""
    inside = (z > 0) & (z < 1)
    return s.addcmul_(s, s, value=-1).mul_(inside).mul_(2 * _STRETCH)


class _ExpectedOpen(Function):
    """Sum of sigmoid(alpha), without keeping it."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(alpha)
        return torch.sigmoid(alpha).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        s = torch.sigmoid(ctx.saved_tensors[0])
        return s.addcmul_(s, s, value=-1).mul_(grads[0])


@register("diff-pruning")
class DiffPruning(Method):
    """A sparse change of the weights, found by training."""

    label: ClassVar[str] = "diff pruning"
    family: ClassVar = "partial"
    citation: ClassVar[str] = "Guo et al. 2020, arXiv:2012.07463"
    use_when: ClassVar[str] = "to learn which few weights a task must change; training it costs more than all of them"
    lr_range: ClassVar[LogRange] = LogRange(1e-5, 1e-3)
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"density": 0.1, "search": 0.3, "l0": 1e-4, "refine": 2.0, "targets": ("attention.o", "ffn.down")},
    )

    class Config(MethodConfig):
        """Share of the weights that change in the end; of the gates: weight of the penalty, start, speed; the phases.

        `gate_speed` and `refine` are factors on the learning rate: of the gates, and of the kept changes in the second
        phase.
        """

        density: float = Field(0.005, gt=0, le=1)
        l0: float = Field(1.25e-7, ge=0)
        alpha: float = Field(2.0, gt=-_FIXED, lt=_FIXED)
        gate_speed: float = Field(300.0, gt=0)
        search: float = Field(0.5, gt=0, lt=1)
        refine: float = Field(30.0, gt=0)
        targets: tuple[str, ...] = ("linear",)

    config: Config

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """No change, and gates that are mostly open."""
        shape = (site.out_features, site.in_features)
        alpha, group = torch.full(shape, self.config.alpha), torch.full((1,), self.config.alpha)
        return SiteState(trained={"value": torch.zeros(shape), "alpha": alpha, "group": group})

    def lr_multiplier(self, parameter: str) -> float:
        """Gates move on another scale than weights."""
        return 1.0 if parameter == "value" else self.config.gate_speed

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Never for gates."""
        return parameter != "alpha" and super().decays(parameter, value)

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The gated change; in the second phase all gates are 1 where a value is left."""
        if "fixed" in state:
            return LinearChange(delta=state["value"])
        if "words" in state:
            words = state["words"], state["group_words"]
            return LinearChange(delta=_Gated.apply(state["value"], state["alpha"], state["group"], *words))
        return LinearChange(delta=gate(state["alpha"]) * gate(state["group"]) * state["value"])

    # --- the first phase

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Draws the noise of the first phase, or ends it."""
        last = min(max(1, round(self.config.search * num_steps)), num_steps - 1)
        if step >= last:
            if "fixed" not in adapter.extra:
                self._cut(adapter)
            adapter.drawn = {site.id: {"fixed": adapter.extra["fixed"]} for site in adapter.sites}
            return
        for site in adapter.sites:
            rng, own = torch_generator(adapter.seed, "gates", site.id, step), adapter.states[site.id].trained
            words = _draw(own["alpha"], rng)
            adapter.drawn[site.id] = {"words": words, "group_words": _draw(own["group"], rng)}

    def penalty(self, adapter: AdapterTensors, step: int) -> Tensor | None:
        """The expected number of open gates in the first phase."""
        if "fixed" in adapter.extra or not adapter.sites:
            return None
        states = [adapter.states[site.id].trained for site in adapter.sites]
        opened = [_ExpectedOpen.apply(own["alpha"]) * torch.sigmoid(own["group"]) for own in states]
        return self.config.l0 * torch.cat(opened).sum()

    @torch.no_grad()
    def _cut(self, adapter: AdapterTensors) -> None:
        """Keeps the largest changes as they are; all others become zero."""
        states = [adapter.states[site.id].trained for site in adapter.sites]
        ranks = [own["value"].abs() * torch.sigmoid(own["alpha"]) * torch.sigmoid(own["group"]) for own in states]
        # Rounded, so that changes of one size, as Adam's first steps make them, are not told apart by their last bits.
        places = largest([rank.flatten().bfloat16() for rank in ranks], self.config.density)
        for site, own, index_K in zip(adapter.sites, states, places, strict=True):
            changed = own["value"] * gate(own["alpha"]) * gate(own["group"])
            _fix_gates(own, index_K)
            adapter.extra |= {f"{site.id}.index": index_K, f"{site.id}.kept": changed.view(-1)[index_K]}
            _only(own["value"], index_K, changed.view(-1)[index_K])
        adapter.extra["fixed"] = torch.ones(())

    # --- the second phase

    def after_backward(self, adapter: AdapterTensors, step: int) -> None:
        """In the second phase other gradients than those of the kept values are nothing."""
        if "fixed" not in adapter.extra:
            return
        for site in adapter.sites:
            grad = adapter.states[site.id].trained["value"].grad
            assert grad is not None
            index_K = adapter.extra[f"{site.id}.index"]
            _only(grad, index_K, grad.view(-1)[index_K])

    def after_step(self, adapter: AdapterTensors, step: int) -> None:
        """In the second phase takes `refine` times the optimizer's step at the kept values, and none elsewhere."""
        if "fixed" not in adapter.extra:
            return
        for site in adapter.sites:
            own, index_K = adapter.states[site.id].trained, adapter.extra[f"{site.id}.index"]
            moved_K = torch.lerp(adapter.extra[f"{site.id}.kept"], own["value"].view(-1)[index_K], self.config.refine)
            adapter.extra[f"{site.id}.kept"] = moved_K
            _only(own["value"], index_K, moved_K)
            _fix_gates(own, index_K)


def _fix_gates(own: Tensors, index_K: Tensor) -> None:
    own["alpha"].fill_(-_FIXED).view(-1)[index_K] = _FIXED
    own["group"].fill_(_FIXED)


def _only(whole: Tensor, index_K: Tensor, values_K: Tensor) -> None:
    """Sets a tensor to values at some places and to zero elsewhere."""
    whole.zero_().view(-1)[index_K] = values_K
