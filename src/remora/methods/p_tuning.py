"""P-tuning: n virtual tokens before every text, given by an encoder that is trained with what it reads.

Liu et al. 2021, "GPT understands, too", arXiv:2103.10385, section 3.2. `encoder` "mlp" takes trained vectors e_1 .. e_n
one by one through a network of two hidden layers with ReLU; "lstm" is the paper's first form, token i being
MLP([LSTM(e)_i; LSTM'(e)_i]) with a recurrent network in both directions. The former is the default, as in peft: it
learnt in short runs in which the latter had hardly moved. Where the tokens stand is prompt tuning's; the paper's
templates around them are a task's affair. The head reads [CLS] or the last real token, and learns `head_ratio` times as
fast as the encoder, whose tokens move by many of its numbers at once.
Trains the encoder and n times the width of the embeddings. PEFT type P_TUNING, which holds what the encoder gives;
Remora's own file keeps the encoder, so that training can go on.
"""

# n virtual tokens, E features of an embedding, H hidden features
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from remora.methods.base import LogRange, MethodConfig, Rows, SiteState, SiteWeights, Tensors
from remora.methods.prefix_tuning import draw_linear
from remora.methods.prompt_tuning import PromptTuning
from remora.methods.registry import register
from remora.models.sites import Site

NUM_LSTM_LAYERS = 2


def lstm_names() -> tuple[str, ...]:
    """Tensors of the recurrent network in torch's order: layer by layer, forwards and backwards."""
    parts = ("from_input", "from_state", "input_bias", "state_bias")
    return tuple(
        f"lstm_{layer}_{way}_{part}" for layer in range(NUM_LSTM_LAYERS) for way in ("forth", "back") for part in parts
    )


class _Config(MethodConfig):
    """Number of virtual tokens, kind of the encoder and its hidden features (per direction), the head's ratio."""

    num_virtual_tokens: int = Field(8, ge=1)
    encoder: Literal["lstm", "mlp"] = "mlp"
    encoder_hidden: int = Field(256, ge=1)
    head_ratio: float = Field(10.0, gt=0)


@register("p-tuning")
class PTuning(PromptTuning):
    """Virtual tokens before the text from a trained encoder."""

    label: ClassVar[str] = "P-tuning"
    citation: ClassVar[str] = "Liu et al. 2021, arXiv:2103.10385"
    use_when: ClassVar[str] = "in place of prompt tuning where that learns too slowly"
    lr_range: ClassVar[LogRange] = LogRange(3e-4, 1e-2)
    peft_type: ClassVar[str | None] = "P_TUNING"
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"num_virtual_tokens": 3, "encoder": "lstm", "encoder_hidden": 7},
    )
    Config: ClassVar[type[MethodConfig]] = _Config  # type: ignore[assignment]

    config: _Config  # type: ignore[assignment]

    def init(self, site: Site, base: SiteWeights, shared: Tensors, rng: torch.Generator) -> SiteState:
        """The vectors standard normal, layers as torch starts them."""
        width, hidden = site.out_features, self.config.encoder_hidden
        trained = {"embedding": torch.empty(self.config.num_virtual_tokens, width).normal_(generator=rng)}
        if self.config.encoder == "mlp":
            trained["first"], trained["first_bias"] = draw_linear(hidden, width, rng)
        else:
            for name in lstm_names():
                inputs = width if name.startswith("lstm_0") else 2 * hidden
                shape = {"from_input": (4 * hidden, inputs), "from_state": (4 * hidden, hidden)}
                bound = hidden**-0.5
                size = shape.get(name.split("_", 3)[3], (4 * hidden,))
                trained[name] = torch.empty(size).uniform_(-bound, bound, generator=rng)
            hidden *= 2
        trained["inner"], trained["inner_bias"] = draw_linear(hidden, hidden, rng)
        trained["outer"], trained["outer_bias"] = draw_linear(width, hidden, rng)
        return SiteState(trained=trained)

    def encoded(self, state: Tensors) -> Tensor:
        """(n, E) the virtual tokens."""
        if self.config.encoder == "mlp":
            x = F.relu(F.linear(state["embedding"], state["first"], state["first_bias"]))
        else:
            weights = [state[name] for name in lstm_names()]
            start = weights[0].new_zeros(2 * NUM_LSTM_LAYERS, self.config.encoder_hidden)
            x, _, _ = torch.lstm(
                state["embedding"][None],
                (start[:, None], start[:, None]),
                weights,
                True,
                NUM_LSTM_LAYERS,
                0.0,
                False,
                True,
                True,
            )
            x = x[0]
        inside = F.relu(F.linear(x, state["inner"], state["inner_bias"]))
        return F.linear(inside, state["outer"], state["outer_bias"])

    def transform(
        self, state: Tensors, site: Site, base: SiteWeights, x_TD: Tensor, y_TD: Tensor, rows: Rows
    ) -> Tensor:
        """The encoder's vectors on the rows of virtual tokens, the base's embeddings on the others."""
        return super().transform({"prompt": self.encoded(state)}, site, base, x_TD, y_TD, rows)

    def decays(self, parameter: str, value: Tensor) -> bool:
        """The encoder's matrices only: what it reads are inputs, not a linear map."""
        return parameter != "embedding" and value.ndim >= 2

    @property
    def peft_exact(self) -> bool:
        """No: peft stores what the encoder gives."""
        return False

    def peft_state(self, state: Tensors, site: Site) -> Tensors:
        """What the encoder gives."""
        return {"prompt": self.encoded(state)}

    def peft_config(self, sites: Sequence[Site]) -> dict[str, Any]:
        """Keys of peft's PromptEncoderConfig that do not depend on the base."""
        return {
            "num_virtual_tokens": self.config.num_virtual_tokens,
            "token_dim": sites[0].out_features,
            "num_transformer_submodules": 1,
            "encoder_reparameterization_type": self.config.encoder.upper(),
            "encoder_hidden_size": self.config.encoder_hidden,
            "encoder_num_layers": NUM_LSTM_LAYERS,
            "encoder_dropout": 0.0,
        }
