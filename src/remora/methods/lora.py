"""LoRA: y = W x + b + (alpha / r) B A drop(x); A drawn at random, B zero, so the start is the base itself.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv:2106.09685, section 4.1, equation 3.
Trains r (in + out) numbers per site. Mergeable: W + (alpha / r) B A. PEFT type LORA.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from remora.errors import ConfigError
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
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site


def draw_A(rank: int, in_features: int, rng: torch.Generator) -> Tensor:
    """(R, D) from U(-1/sqrt(D), 1/sqrt(D)): Kaiming uniform with a = sqrt(5), as the authors' code and peft draw it."""
    bound = 1 / math.sqrt(in_features)
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=rng)


LORA_LAYOUT = {
    "lora_A": PeftTensor(suffix="lora_A.weight", axis="ranks_in"),
    "lora_B": PeftTensor(suffix="lora_B.weight", axis="ranks_out"),
}

_AS_LORA = (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Starts after which a trained adapter is a LoRA on the untouched base; peft's others change the base's weights."""

_TRAINING_ONLY = (
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
    "fan_in_fan_out",  # follows from the layer, and peft sets it by the layer as well
)

_OTHER_FUNCTIONS = {
    "bias": "biases of the base are trained beside it",
    "lora_bias": "the low-rank branch has a bias",
    "layer_replication": "layers of the base are repeated",
    "alora_invocation_tokens": "it acts only after certain tokens (aLoRA)",
    "trainable_token_indices": "rows of the token embedding are trained beside it",
    "target_parameters": "it changes parameters that are not a linear layer's",
    "use_qalora": "inputs are pooled in groups (QALoRA)",
    "use_bdlora": "its matrices are block-diagonal (BD-LoRA)",
    "monteclora_config": "its matrices are drawn at random (MonteCLoRA)",
    "kasa_config": "small singular values of the base's weights are dropped (KaSA)",
    "arrow_config": "it chooses among several adapters (Arrow)",
    "megatron_config": "it belongs to layers of Megatron",
}


def lora_from_peft(given: PeftSettings, method: str, modules: Sequence[str]) -> dict[str, Any] | None:
    """Settings of LoRA or its like in a file of PEFT type LORA; None where it is another method's.

    Args:
        given: of the adapter.
        method: id of the method that asks.
        modules: full names; the settings are those of the first.
    """
    if given.peft_type != "LORA" or not modules:
        return None
    start = given.take("init_lora_weights", object, True)
    stabilized, decomposed = given.take("use_rslora", bool, False), given.take("use_dora", bool, False)
    if method != ("pissa" if start == "pissa" else "dora" if decomposed else "rslora" if stabilized else "lora"):
        return None
    if start not in (*_AS_LORA, "pissa"):
        raise ConfigError(f"init_lora_weights is {start!r}: such a start changes the base's weights beyond recall")
    if start == "pissa" and decomposed:
        raise ConfigError("use_dora with init_lora_weights 'pissa': Remora has no DoRA on what PiSSA leaves")
    given.refuse(_OTHER_FUNCTIONS)
    given.skip(*_TRAINING_ONLY)
    rank = given.at("rank_pattern", modules[0], given.take("r", int, 8), int)
    alpha = given.at("alpha_pattern", modules[0], given.take("lora_alpha", float, 8.0), float)
    if stabilized and method != "rslora":
        alpha *= math.sqrt(max(1, rank))
    return {"rank": rank, "alpha": alpha, "dropout": given.take("lora_dropout", float, 0.0)}


@register("lora")
class LoRA(Method):
    """Low-rank adaptation."""

    label: ClassVar[str] = "LoRA"
    family: ClassVar = "reparameterized"
    citation: ClassVar[str] = "Hu et al. 2021, arXiv:2106.09685"
    use_when: ClassVar[str] = "first: it is the best understood adapter, and most tools can read its files"
    lr_range: ClassVar[LogRange] = LogRange(1e-4, 1e-2)
    peft_type: ClassVar[str | None] = "LORA"
    mergeable: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"rank": 4, "alpha": 32, "targets": ("attention.q",)})

    class Config(MethodConfig):
        """Rank r, scaling numerator alpha, dropout on the low-rank branch, and where to attach."""

        rank: int = Field(8, ge=1)
        alpha: float = Field(16.0, gt=0)
        dropout: float = Field(0.1, ge=0, lt=1)
        targets: tuple[str, ...] = ("attention.q", "attention.v")

    config: Config

    @property
    def scale(self) -> float:
        """s in y = W x + s B A x."""
        return self.config.alpha / self.config.rank

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """A uniform, B zero."""
        rank = self.config.rank
        A_RD, B_OR = draw_A(rank, site.in_features, rng), torch.zeros(site.out_features, rank)
        return SiteState(trained={"lora_A": A_RD, "lora_B": B_OR})

    def change(self, state: Tensors, site: Site, base: SiteWeights) -> LinearChange:
        """The low-rank term alone."""
        return LinearChange(A=state["lora_A"], B=state["lora_B"], scale=self.scale, dropout=self.config.dropout)

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's LoraConfig."""
        return {"r": self.config.rank, "lora_alpha": self.config.alpha, "lora_dropout": self.config.dropout}

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """A and B under peft's names."""
        return LORA_LAYOUT

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of LoraConfig; also for its kin that have a flag in it."""
        return lora_from_peft(given, cls.name, modules)

    def rescaled(self, state: Tensors, own: Method) -> Tensors:
        """B takes up a scale of the site's own."""
        assert isinstance(own, LoRA)
        ratio = own.scale / self.scale
        return state if ratio == 1 else {**state, "lora_B": state["lora_B"] * ratio}
