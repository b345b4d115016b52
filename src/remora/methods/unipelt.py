"""UniPELT: prefix tuning, LoRA and a Pfeiffer adapter in every layer, each behind a gate that looks at the text.

Mao et al. 2022, "UniPELT: a unified framework for parameter-efficient language model tuning", arXiv:2110.07577, section
3. Per layer and text three gates G = mean over tokens of sigmoid(w h + c) in (0, 1): the prefix's keys and values
become G_P P_k, G_P P_v; LoRA at queries and values W x + b + G_L B A drop(x), the gate in place of the constant
alpha / r; the adapter after the feed-forward sublayer y + G_A (U f(D y + d) + u). G_P and G_L look at what the queries
are projected from, G_A at the adapter's own input y. That is the layer's input in BERT and its kin, which the paper
has; in models that put norms first it is that input after the norm.
Trains what its parts do and 3 (width + 1) numbers per layer. Not mergeable.
"""

# T rows, S sequences, D features
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from remora.methods.adapter_houlsby import Activation, bottleneck
from remora.methods.adapter_pfeiffer import PfeifferAdapter
from remora.methods.base import LogRange, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.combination import Combination
from remora.methods.lora import LoRA
from remora.methods.prefix_tuning import PrefixConfig, PrefixTuning, draw_linear
from remora.methods.registry import register
from remora.models.sites import Site, SiteKind

_GATES = {"attention.q": ("prefix", "lora"), "ffn.down": ("adapter",)}
"""The gates whose tensors lie at a site."""


def gate_of_texts(weight_1D: Tensor, bias_1: Tensor, h_TD: Tensor, rows: Rows) -> Tensor:
    """(S,) mean over the tokens of every text of sigmoid(w h + c)."""
    open_T = torch.sigmoid(F.linear(h_TD, weight_1D.to(h_TD.dtype), bias_1.to(h_TD.dtype))[:, 0].to(weight_1D.dtype))
    real_T = rows.place_T < rows.length_T
    share_T = torch.where(real_T, open_T / rows.length_T.clamp_min(1), 0.0)
    return share_T.new_zeros(rows.num_sequences).index_add(0, rows.sequence_T, share_T)


class UniPELTConfig(PrefixConfig):
    """Virtual tokens and the network that gives them, LoRA's rank, the adapter's bottleneck and activation.

    `dropout` acts on LoRA's input and inside the bottleneck.
    """

    num_virtual_tokens: int = Field(10, ge=1)
    head_ratio: float = Field(1.0, gt=0)
    rank: int = Field(8, ge=1)
    bottleneck: int = Field(48, ge=1)
    activation: Activation = "relu"
    dropout: float = Field(0.0, ge=0, lt=1)


@register("unipelt")
class UniPELT(Combination):
    """Three methods behind gates."""

    label: ClassVar[str] = "UniPELT"
    family: ClassVar = "hybrid"
    citation: ClassVar[str] = "Mao et al. 2022, arXiv:2110.07577"
    use_when: ClassVar[str] = "where you cannot tell which kind of method suits a small data set: gates weigh three"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("kv", "linear")
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {
            "num_virtual_tokens": 2,
            "reparameterize": False,
            "rank": 3,
            "bottleneck": 4,
            "activation": "gelu",
            "dropout": 0.1,
        },
    )
    Config: ClassVar[type[MethodConfig]] = UniPELTConfig

    config: UniPELTConfig

    def __init__(self, config: UniPELTConfig) -> None:
        values = config.model_dump()
        prefix = PrefixConfig(**{name: values[name] for name in PrefixConfig.model_fields})
        # With alpha = r the constant that the gate replaces is 1.
        lora = LoRA.Config(rank=config.rank, alpha=config.rank, dropout=config.dropout)
        inside = {name: values[name] for name in ("bottleneck", "activation", "dropout")}
        adapter = PfeifferAdapter(PfeifferAdapter.Config.model_validate(inside))
        super().__init__(config, [PrefixTuning(prefix), LoRA(lora), adapter])

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The parts' tensors, and gates as torch starts a layer of one output."""
        state = super().init(site, base, shared, rng)
        width = site.in_features if site.name == "attention.q" else site.out_features
        for gate in _GATES.get(site.name, ()):
            state.trained[f"gate_{gate}"], state.trained[f"gate_{gate}_bias"] = draw_linear(1, width, rng)
        return state

    def changes(self, site: Site) -> bool:
        """Never: a gate makes a change depend on the text."""
        return False

    def transforms(self, site: Site) -> bool:
        """At all sites but the keys and values."""
        return site.kind == "linear"

    @property
    def joins_rows(self) -> bool:
        """A gate is a mean over the text."""
        return True

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """What the part adds, times its gate; at the queries, which come first, the layer's gates are computed."""
        h_TD = x_TD if site.name == "attention.q" else y_TD
        for gate in _GATES.get(site.name, ()):
            found_S = gate_of_texts(state[f"gate_{gate}"], state[f"gate_{gate}_bias"], h_TD, rows)
            rows.notes[f"unipelt.{gate}"] = found_S
        (part,) = self.acting(site)
        own = part.own(state)
        if site.name == "ffn.down":
            added_TD = bottleneck(own, y_TD, self.config.activation, self.config.dropout, rows)
            gate_S = rows.notes["unipelt.adapter"]
        else:
            A_RD, B_OR = (own[name].to(y_TD.dtype) for name in ("lora_A", "lora_B"))
            added_TD = F.linear(F.linear(rows.dropout(x_TD, self.config.dropout), A_RD), B_OR)
            gate_S = rows.notes["unipelt.lora"]
        return y_TD + gate_S.to(y_TD.dtype)[rows.sequence_T][:, None] * added_TD

    def prefix(self, state: Tensors, site: Site, rows: Rows) -> tuple[Tensor, Tensor]:
        """Keys and values (S, n, heads, features), closed and opened text by text."""
        keys, values = super().prefix(state, site, rows)
        gate_S111 = rows.notes["unipelt.prefix"].to(keys.dtype)[:, None, None, None]
        return gate_S111 * keys, gate_S111 * values
