"""Prompt tuning: n trained vectors stand before the embedded tokens of every text; nothing else of the base changes.

Lester et al. 2021, "The power of scale for parameter-efficient prompt tuning", arXiv:2104.08691, section 2.
The vectors take positions 0 .. n-1 and their share of the text budget; the head reads [CLS] or the last real token,
never a virtual one. They may start from a text, such as the names of the classes (section 2.1). A head, which the paper
does without, learns `head_ratio` times as fast: at the tokens' rate it is still untrained when they have already moved
what it reads.
Trains n times the width of the embeddings. PEFT type PROMPT_TUNING.
"""

# T rows, D features, n virtual tokens
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from remora.errors import ConfigError
from remora.methods.base import LogRange, Method, MethodConfig, PeftTensor, Rows, SiteState, SiteWeights, Tensors
from remora.methods.peft_settings import PeftSettings
from remora.methods.registry import register
from remora.models.sites import Site, SiteKind


class PromptConfig(MethodConfig):
    """Number of virtual tokens, their start (embeddings of random words, of `text`, or normal like them), and how many
    times as fast as they the head learns.
    """

    num_virtual_tokens: int = Field(8, ge=1)
    init: Literal["vocabulary", "normal", "text"] = "vocabulary"
    text: str = ""
    head_ratio: float = Field(10.0, gt=0)

    @model_validator(mode="after")
    def _text_is_for_init(self) -> Self:
        if (self.init == "text") != bool(self.text.strip()):
            raise ValueError("init=text and text belong together: give both, or neither")
        return self


@register("prompt-tuning")
class PromptTuning(Method):
    """Trained virtual tokens before the text."""

    label: ClassVar[str] = "prompt tuning"
    family: ClassVar = "additive"
    citation: ClassVar[str] = "Lester et al. 2021, arXiv:2104.08691"
    use_when: ClassVar[str] = "with large bases that serve many tasks in one batch; on small ones it learns slowly"
    lr_range: ClassVar[LogRange] = LogRange(2e-3, 5e-2)
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("embedding",)
    identity_at_init: ClassVar[bool] = False
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"num_virtual_tokens": 3, "init": "normal"})

    Config: ClassVar[type[MethodConfig]] = PromptConfig

    config: PromptConfig

    @property
    def targets(self) -> tuple[str, ...]:
        """The token embedding."""
        return ("embedding",)

    @property
    def num_virtual_tokens(self) -> int:
        """Rows put before each sequence."""
        return self.config.num_virtual_tokens

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """Rows of the embedding (a text's, over again until they suffice; random ones each at most once while they
        last), or a normal with its standard deviation.

        Raises:
            ConfigError: a text without tokens, or a base without a tokenizer.
        """
        num = self.config.num_virtual_tokens
        if self.config.init == "normal":
            spread = float(base.weight.float().std())
            return SiteState(trained={"prompt": torch.empty(num, site.out_features).normal_(0, spread, generator=rng)})
        if self.config.init == "text":
            found = torch.tensor(self._tokens(base))
        else:
            vocabulary = base.weight.shape[0]
            found = torch.cat([torch.randperm(vocabulary, generator=rng) for _ in range(-(-num // vocabulary))])
        words = found.repeat(-(-num // len(found)))[:num]
        return SiteState(trained={"prompt": base.weight[words.to(base.weight.device)].detach().float().cpu().clone()})

    def _tokens(self, base: SiteWeights) -> Sequence[int]:
        found = base.encode(self.config.text) if base.encode is not None else ()
        if not found:
            why = "it has no tokens" if base.encode is not None else "the base has no tokenizer"
            raise ConfigError(
                f"prompt-tuning cannot start from text={self.config.text!r}: {why}", "choose another init"
            )
        return found

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The trained vectors on the rows of virtual tokens, the base's embeddings on the others."""
        assert rows.virtual_T is not None, "the pass holds no rows for the virtual tokens"
        prompt_TD = state["prompt"].to(y_TD.dtype)[rows.virtual_T.clamp_min(0)]
        return torch.where(rows.virtual_T[:, None] >= 0, prompt_TD, y_TD)

    @property
    def head_lr_multiplier(self) -> float:
        """The ratio that was set."""
        return self.config.head_ratio

    def decays(self, parameter: str, value: Tensor) -> bool:
        """Never: the rows are inputs, not a linear map."""
        return False

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's PromptTuningConfig that do not depend on the base."""
        return {
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "token_dim": sites[0].out_features,
            "num_transformer_submodules": 1,
            "prompt_tuning_init": "RANDOM",
        }

    def peft_layout(self, site: Site) -> Mapping[str, PeftTensor]:
        """The vectors."""
        return {"prompt": PeftTensor(suffix="prompt_embeddings", axis="tokens")}

    @classmethod
    def from_peft(cls, given: PeftSettings, modules: Sequence[str]) -> dict[str, Any] | None:
        """Those of PromptTuningConfig; also of PromptEncoderConfig, whose files hold what the encoder gave."""
        if cls is not PromptTuning or given.peft_type not in ("PROMPT_TUNING", "P_TUNING"):
            return None
        given.skip("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
        given.skip(*(f"encoder_{key}" for key in ("reparameterization_type", "hidden_size", "num_layers", "dropout")))
        given.skip("num_layers", "num_attention_heads")
        return {"num_virtual_tokens": given.take("num_virtual_tokens", int, 0), "init": "normal"}
