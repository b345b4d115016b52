"""AdaMix: several Pfeiffer adapters per site; a step runs through randomly drawn ones, evaluation through their mean.

Wang et al. 2022, "AdaMix: mixture-of-adaptations for parameter-efficient model tuning", arXiv:2205.12410. Section 3.1:
in every step and layer a matrix D_j and a matrix U_k are drawn uniformly, for the whole batch; y' = y + U_k f(D_j y +
d_j) + u_k. Section 3.2: the batch runs twice, on two draws A and B, and (KL(A, B) + KL(B, A)) / 2 between both
predictions joins the loss. Section 3.3: evaluation takes the mean of the modules' weights, one adapter's cost. Section
3.4: modules may share U or D; here U by default, as in the authors' published runs.
Both passes give cross-entropy, of which the loss is the mean, where the paper takes that of A; A and B are drawn alike,
so it is the same in expectation. So is the gradient of the consistency term: it goes through the second pass alone,
twice, which saves keeping both passes at once. Regression compares squared differences, the same for unit normals.
Trains num_modules (m out + m) + m out + out numbers per layer, at twice the step of a Pfeiffer adapter. Not mergeable.
"""

# T rows, O features of the sublayer's output, M of the bottleneck, N examples, C outputs
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from remora.methods.adapter_houlsby import Activation, BottleneckConfig, bottleneck, draw_near_zero
from remora.methods.adapter_pfeiffer import PfeifferAdapter
from remora.methods.base import AdapterTensors, LogRange, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.registry import register
from remora.models.sites import Site
from remora.seeds import torch_generator


def divergence(logits_NC: Tensor, other_NC: Tensor) -> Tensor:
    """(N,) symmetric Kullback-Leibler divergence of two predictions; of unit normals where there is one output."""
    if logits_NC.shape[1] == 1:
        return 0.5 * (logits_NC - other_NC).square().sum(1)
    one, other = torch.log_softmax(logits_NC, 1), torch.log_softmax(other_NC, 1)
    return 0.5 * ((one.exp() - other.exp()) * (one - other)).sum(1)


class _Config(BottleneckConfig):
    """Features of the bottleneck, its activation, dropout on it; modules per site, which half they share, consistency.

    `consistency` weighs the divergence of two forwards; at 0 there is one forward.
    """

    bottleneck: int = Field(16, ge=1)
    activation: Activation = "gelu"
    num_modules: int = Field(4, ge=1)
    sharing: Literal["none", "up", "down"] = "up"
    consistency: float = Field(1.0, ge=0)


@register("adamix")
class AdaMix(PfeifferAdapter):
    """A mixture of bottleneck adapters with random routing."""

    label: ClassVar[str] = "AdaMix"
    family: ClassVar = "unified"
    citation: ClassVar[str] = "Wang et al. 2022, arXiv:2205.12410"
    use_when: ClassVar[str] = "in place of a Pfeiffer adapter where training may take twice as long for a better one"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"bottleneck": 5, "num_modules": 3, "sharing": "none", "consistency": 0.5, "dropout": 0.1},
    )
    Config: ClassVar[type[MethodConfig]] = _Config

    config: _Config  # type: ignore[assignment]

    @property
    def num_choices(self) -> tuple[int, int]:
        """How many D and how many U a site has."""
        num, sharing = self.config.num_modules, self.config.sharing
        return (1 if sharing == "down" else num, 1 if sharing == "up" else num)

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Every module as a Houlsby adapter starts: weights near zero, biases zero."""
        width, inside = site.out_features, self.config.bottleneck
        num_down, num_up = self.num_choices
        return SiteState(
            trained={
                "down": torch.stack([draw_near_zero(inside, width, rng) for _ in range(num_down)]),
                "down_bias": torch.zeros(num_down, inside),
                "up": torch.stack([draw_near_zero(width, inside, rng) for _ in range(num_up)]),
                "up_bias": torch.zeros(num_up, width),
            }
        )

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The sublayer's output and what the drawn modules make of it, or their mean outside training."""
        return y_TD + bottleneck(_one_module(state), y_TD, self.config.activation, self.config.dropout, rows)

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Weights alone; biases of several modules are a matrix."""
        return not parameter.endswith("bias") and super().decays(parameter, value)

    def num_forwards(self) -> int:
        """Two, unless they are not compared."""
        return 2 if self.config.consistency > 0 else 1

    def before_step(self, adapter: AdapterTensors, step: int, num_steps: int) -> None:
        """Draws the modules of every site for all forwards of the step."""
        rng = torch_generator(adapter.seed, "routes", step)
        for site in adapter.sites:
            drawn = [torch.randint(num, (self.num_forwards(),), generator=rng) for num in self.num_choices]
            adapter.drawn[site.id] = {"routes": torch.stack(drawn, 1)}

    def before_forward(self, adapter: AdapterTensors, step: int, forward: int) -> None:
        """Takes those of the forward."""
        for drawn in adapter.drawn.values():
            drawn["route"] = drawn["routes"][forward]

    def agreement(self, logits_NC: Tensor, earlier: Sequence[Tensor]) -> Tensor | None:
        """The weighed divergence of both forwards, with twice its gradient for the one that has it."""
        found = divergence(logits_NC, earlier[0])
        return self.config.consistency * (2 * found - found.detach())


def _one_module(state: Tensors) -> dict[str, Tensor]:
    """The matrices D and U with their biases that a forward runs through."""
    if "route" not in state:
        return {name: state[name].mean(0) for name in ("down", "down_bias", "up", "up_bias")}
    down, up = state["route"].tolist()
    return {
        "down": state["down"][down],
        "down_bias": state["down_bias"][down],
        "up": state["up"][up],
        "up_bias": state["up_bias"][up],
    }
