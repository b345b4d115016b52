"""The pretrained language-modelling head, frozen, on the few rows of a decoder whose next token is asked for.

Its weights are the base's: those of the token embedding where the two are tied (no copy is made), else a tensor of the
checkpoint, which belongs to the base as a pretrained pooler does. Nothing of it is trained but in full fine-tuning,
where tied stays tied. Of each row only the logarithms of the probabilities of a few tokens leave it, the same ones for
all rows or one for each row: logits over the whole vocabulary would take more memory than everything else.
"""

# N rows, D features, V tokens of the vocabulary, U tokens that are asked for
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from remora.errors import ModelError
from remora.models.base import LM_HEAD, Base
from remora.models.head_steps import HeadKind, Step
from remora.models.heads import Dropout, HeadTemplate
from remora.models.next_token import ROWS, next_log_probs, wide_logits


def require_causal(base: Base) -> None:
    """Refuse a base that sees in both directions.

    Raises:
        ModelError: it does.
    """
    if not base.arch.causal:
        raise ModelError(
            f"{base.name} ({base.arch.model_type}) is no causal language model, so it cannot be prompted",
            "choose a decoder such as smollm2, or data.task=classification",
        )


def is_tied(base: Base) -> bool:
    """Whether the language-modelling head has the weights of the token embedding."""
    return bool(base.config.tie_word_embeddings)


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageHead(HeadTemplate):
    """log softmax(W x) of a few tokens.

    Gemma 2 has a soft cap on the logits, BART a bias on them, T5 a factor on the rows; see `Architecture`. It computes
    in the base's type, as transformers does, and takes the softmax in float32 at least.

    Args:
        base: a decoder or an encoder-decoder, loaded with its language-modelling head.
        num_outputs: U, or 1 where every row has a token of its own.
        kind: always ``lm``.
        tokens: ids of the U tokens, the outputs in order; empty where every row has a token of its own.

    Raises:
        ModelError: the base sees in both directions, or was loaded without the head.
    """

    kind: HeadKind = "lm"
    tokens: tuple[int, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.base.arch.encoder_decoder:
            require_causal(self.base)
        if not is_tied(self.base) and self.weight_name not in self.base.pooler:
            raise ModelError(f"{self.base.name} was loaded without its language-modelling head")

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """None: nothing is trained."""
        return ()

    @property
    def weight_name(self) -> str:
        """The name of W in transformers' class."""
        arch = self.base.arch
        return f"{arch.hf_prefix}{arch.embedding}.weight" if is_tied(self.base) else LM_HEAD

    @cached_property
    def pooler(self) -> dict[str, Tensor]:
        """W where it is a tensor of its own."""
        return {} if is_tied(self.base) else {self.weight_name: self.base.pooler[self.weight_name]}

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """The name of W, whether tied or not."""
        return (self.weight_name,)

    def forward(
        self,
        params: Mapping[str, Tensor],
        rows_ND: Tensor,
        *,
        dropout: Dropout | None = None,
        pooler_params: Mapping[str, Tensor] | None = None,
        next_N: Tensor | None = None,
    ) -> Tensor:
        """Logarithms of the probabilities of the tokens asked for, as what follows each row.

        Args:
            params: empty.
            rows_ND: last hidden states, any float type.
            dropout: there is none in this head.
            pooler_params: W of full fine-tuning, by name.
            next_N: the one token that is asked for behind each row; None for `tokens` behind all.

        Returns:
            (N, U), float32 at least; (N, 1) of tokens that differ between rows.
        """
        weight_VD = (pooler_params or {}).get(self.weight_name)
        if weight_VD is None:
            weight_VD = self._own_weight()
        weight_VD = weight_VD.to(device=rows_ND.device, dtype=self.base.dtype)
        rows_ND = rows_ND.to(self.base.dtype) * self.base.arch.lm_scale(self.base.config)
        bias_V = self._bias(rows_ND.device)
        if next_N is not None:
            return next_log_probs(rows_ND, weight_VD, next_N, bias_V, self._cap)[:, None]
        asked_U = torch.tensor(self.tokens, device=rows_ND.device)
        parts = [rows_ND] if torch.is_grad_enabled() else rows_ND.split(ROWS)
        return torch.cat([self._log_probs(part, weight_VD, bias_V, asked_U) for part in parts])

    @cached_property
    def _cap(self) -> float | None:
        return self.base.config.to_dict().get("final_logit_softcapping")

    def _own_weight(self) -> Tensor:
        if is_tied(self.base):
            return self.base.model.get_submodule(self.base.arch.embedding).get_parameter("weight")
        return self.base.pooler[self.weight_name]

    def _bias(self, device: torch.device) -> Tensor | None:
        name = self.base.arch.lm_bias
        bias_1V = None if name is None else self.base.pooler.get(name)
        return None if bias_1V is None else bias_1V[0].to(device=device, dtype=self.base.dtype)

    def _log_probs(self, rows_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, asked_U: Tensor) -> Tensor:
        logits_NV = wide_logits(rows_ND, weight_VD, bias_V, self._cap)
        return logits_NV.index_select(1, asked_U) - logits_NV.logsumexp(1, keepdim=True)


def head_for(base: Base, num_outputs: int, kind: HeadKind = "sequence", tokens: tuple[int, ...] = ()) -> HeadTemplate:
    """The head of a base for a kind of task.

    Args:
        base: the base model.
        num_outputs: how many outputs it has.
        kind: of the head.
        tokens: ids whose probabilities are asked for, of a language-modelling head.
    """
    if kind == "lm":
        return LanguageHead(base=base, num_outputs=num_outputs, tokens=tokens)
    return HeadTemplate(base=base, num_outputs=num_outputs, kind=kind)
