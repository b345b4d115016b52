"""Prefix tuning: n trained keys and values stand before those of every sequence, in every layer's attention.

Li and Liang 2021, "Prefix-tuning: optimizing continuous prompts for generation", arXiv:2101.00190, section 4.2; with
`reparameterize` [K_l; V_l] = U_l tanh(W P + w) + u_l per virtual token, a network over a small matrix P whose first
layer all layers share (section 4.3). The keys are a cache's: rotary positions are not applied to them, and a text's
tokens take positions from n on. The head reads [CLS] or the last real token, and learns `head_ratio` times as fast as
the network, whose keys and values move by many of its numbers at once.
Trains 2 n kv numbers per layer, kv = key-value heads x features; reparameterised 2 kv (h + 1) per layer and once
(n + h) kv + h. PEFT type PREFIX_TUNING, which holds what the network gives; Remora's own file keeps the network.
"""

# n virtual tokens, D = key-value heads x features, H hidden features of the network
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from remora.methods.base import LogRange, Method, MethodConfig, PeftTensor, Rows, SiteState, SiteWeights, Tensors
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site, SiteKind


def draw_linear(outputs: int, inputs: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias (outputs,) from U(-1/sqrt(inputs), 1/sqrt(inputs)), as torch starts a layer."""
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=rng)
    return weight, torch.empty(outputs).uniform_(-bound, bound, generator=rng)


class PrefixConfig(MethodConfig):
    """Number of virtual tokens, whether a network gives them, its hidden features, and the head's ratio."""

    num_virtual_tokens: int = Field(8, ge=1)
    reparameterize: bool = True
    encoder_hidden: int = Field(512, ge=1)
    head_ratio: float = Field(10.0, gt=0)


@register("prefix-tuning")
class PrefixTuning(Method):
    """Trained keys and values before every sequence, by default given by a network while training."""

    label: ClassVar[str] = "prefix tuning"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "Li and Liang 2021, arXiv:2101.00190"
    use_when: ClassVar[str] = "to serve many tasks from one base without touching its weights"
    lr_range: ClassVar[LogRange] = LogRange(5e-5, 6e-4)  # above, keys grow until attention sees nothing else
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("kv",)
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"num_virtual_tokens": 3, "reparameterize": False})
    Config: ClassVar[type[MethodConfig]] = PrefixConfig

    config: PrefixConfig

    @property
    def targets(self) -> tuple[str, ...]:
        """Every layer's keys and values."""
        return ("attention.kv",)

    @property
    def num_virtual_tokens(self) -> int:
        """Positions before a text."""
        return self.config.num_virtual_tokens

    @property
    def num_prefix_tokens(self) -> int:
        """All of them, none has a row."""
        return self.config.num_virtual_tokens

    def common(self, sites: Sequence[Site], rng: torch.Generator) -> dict[str, Tensor]:
        """The small matrix, standard normal, and the network's first layer."""
        if not self.config.reparameterize:
            return {}
        width = sites[0].out_features
        inner, inner_bias = draw_linear(self.config.encoder_hidden, width, rng)
        embedding = torch.empty(self.config.num_virtual_tokens, width).normal_(generator=rng)
        return {"embedding": embedding, "inner": inner, "inner_bias": inner_bias}

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The network's last layer for this site, or keys and values themselves, standard normal."""
        both = 2 * site.out_features
        if not self.config.reparameterize:
            prefix = torch.empty(self.config.num_virtual_tokens, both).normal_(generator=rng)
            return SiteState(trained={"prefix": prefix})
        outer, outer_bias = draw_linear(both, self.config.encoder_hidden, rng)
        return SiteState(trained={"outer": outer, "outer_bias": outer_bias})

    def prefix(self, state: Tensors, site: Site, rows: Rows) -> tuple[Tensor, Tensor]:
        """The first half of each row as keys, the second as values."""
        both = self._both(state).view(self.config.num_virtual_tokens, 2, site.heads, -1)
        return both[:, 0], both[:, 1]

    def _both(self, state: Tensors) -> Tensor:
        """(n, 2 D) keys and values of a layer."""
        if not self.config.reparameterize:
            return state["prefix"]
        inside_NH = torch.tanh(F.linear(state["embedding"], state["inner"], state["inner_bias"]))
        return F.linear(inside_NH, state["outer"], state["outer_bias"])

    @property
    def head_lr_multiplier(self) -> float:
        """The ratio that was set."""
        return self.config.head_ratio

    def decays(self, parameter: str, value: Tensor) -> bool:
        """The network's matrices only: virtual tokens are inputs, not a linear map."""
        return parameter not in ("prefix", "embedding") and super().decays(parameter, value)

    @property
    def peft_exact(self) -> bool:
        """Not with a network, of which peft stores what it gives."""
        return not self.config.reparameterize

    def peft_holds(self, site: Site) -> bool:
        """Not ALBERT's layers, which run several times with one prefix."""
        return site.calls == 1

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's PrefixTuningConfig; its sizes are those of keys and values."""
        return {
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "token_dim": sites[0].out_features,
            "num_transformer_submodules": 1,
            "num_attention_heads": sites[0].heads,
            "num_layers": len(sites),
            "encoder_hidden_size": sites[0].out_features,
            "prefix_projection": False,
        }

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """Keys and values, layer beside layer."""
        return {"prefix": PeftTensor(suffix="prompt_embeddings", axis="layers")}

    def peft_state(self, state: Tensors, site: Site) -> Tensors:
        """What the network gives, where there is one."""
        return {"prefix": self._both(state)}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of PrefixTuningConfig; files hold what the network gave."""
        if cls is not PrefixTuning or given.peft_type != cls.peft_type:
            return None
        given.skip("encoder_hidden_size", "prefix_projection", "init_weights")
        return {"num_virtual_tokens": given.take("num_virtual_tokens", int, 0), "reparameterize": False}
