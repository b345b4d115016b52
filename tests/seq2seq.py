"""Tiny random encoder-decoders, examples for them, and the language-modelling head as tests put it on their rows."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from remora.data.kinds import ABSENT
from remora.engine.trial import Examples
from remora.models.base import LM_HEAD, Base
from remora.models.files import ModelFiles
from remora.models.head_steps import Step
from remora.models.heads import Dropout, HeadTemplate
from remora.models.load import make_base
from remora.models.quiet import quiet_transformers
from tests.tiny import MAX_POSITIONS, VOCAB, random_values

_BART = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "max_position_embeddings": MAX_POSITIONS,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
}
_T5 = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
# name -> (model type, settings)
_TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("bart", _BART),
    "mbart": ("mbart", {**_BART, "scale_embedding": True}),
    "t5": ("t5", _T5),
    "flan-t5": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
ALL = tuple(_TINY)
UNTIED = ("flan-t5", "mt5")
CROSS = ("cross.q", "cross.k", "cross.v", "cross.o")


def seq2seq_hf(name: str, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: Any) -> Any:
    """transformers' model for conditional generation in ``eval()``, with a bias on BART's logits."""
    model_type, settings = _TINY[name]
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        config = AutoConfig.for_model(model_type, **{**settings, "attn_implementation": "eager", **overrides})
        model: Any = AutoModelForSeq2SeqLM.from_config(config)
    if name in UNTIED:  # transformers ties what it makes anew, and not what it loads
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(random_values(key, parameter, seed, 1.0))
        for key, buffer in model.named_buffers():
            if key == "final_logits_bias":
                buffer.copy_(random_values("final_logits.bias", buffer, seed, 0.0))
    return model.to(dtype).eval()


def seq2seq_base(name: str, dtype: torch.dtype = torch.float64, seed: int = 0, **overrides: Any) -> Base:
    """A base with the weights of `seq2seq_hf`."""
    files = ModelFiles(name=f"tiny-{name}", source="test")
    return make_base(seq2seq_hf(name, dtype, seed, **overrides), tokenizer=None, files=files, missing=(), dtype=dtype)


def seq2seq_examples(num: int, *, seed: int = 0, low: int = 3, high: int = 12) -> Examples:
    """Random texts and what is to be written: two to seven tokens each, a row of the decoder for every one of them.

    `targets` are these tokens, with -100 behind the last one.
    """
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(low, high + 1, num)]
    labels = [rng.integers(5, VOCAB, int(length)) for length in rng.integers(2, 8, num)]
    targets = np.full((num, max(map(len, labels))), -100)
    for row, label in zip(targets, labels, strict=True):
        row[: len(label)] = label
    return Examples(
        ids=ids,
        type_ids=[np.zeros_like(row) for row in ids],
        targets=targets,
        decoder_ids=[np.concatenate([[2], label[:-1]]) for label in labels],
        places=[np.arange(len(label)) for label in labels],
        weights=np.array([len(label) for label in labels]),
    )


def seq2seq_inputs(examples: Examples, chosen: np.ndarray | range, pad_id: int) -> dict[str, Tensor]:
    """Examples as transformers takes them, padded on the right; `labels` are -100 where nothing is written."""
    assert examples.decoder_ids is not None

    def padded(rows: list[np.ndarray], fill: int) -> Tensor:
        out = torch.full((len(rows), max(map(len, rows))), fill)
        for row, values in zip(out, rows, strict=True):
            row[: len(values)] = torch.from_numpy(values)
        return out

    ids, written = ([part[i] for i in chosen] for part in (examples.ids, examples.decoder_ids))
    width = max(map(len, written))
    return {
        "input_ids": padded(ids, pad_id),
        "attention_mask": padded([np.ones_like(row) for row in ids], 0),
        "decoder_input_ids": padded(written, pad_id),
        "labels": torch.from_numpy(examples.targets[np.asarray(chosen), :width]),
    }


class WrittenTask:
    """Cross-entropy of the tokens to be written, summed over a text's; logits of tokens are the head's outputs."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        real = targets >= 0
        flat = F.cross_entropy(logits[real], targets[real], reduction="none")
        number = torch.arange(len(targets), device=targets.device)[:, None].expand_as(targets)[real]
        return flat.new_zeros(len(targets)).index_add(0, number, flat)

    def metrics(self, targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
        real = targets >= 0
        assert (logits[~real] == ABSENT).all()
        return {"accuracy": float((logits[real].argmax(1) == targets[real]).mean())}


class WritingHead(HeadTemplate):
    """Logits over the vocabulary, from what an architecture says of its language-modelling head."""

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return ()

    @property
    def tied(self) -> bool:
        return bool(self.base.config.tie_word_embeddings)

    @property
    def weight_name(self) -> str:
        arch = self.base.arch
        return f"{arch.hf_prefix}{arch.embedding}.weight" if self.tied else LM_HEAD

    @cached_property
    def pooler(self) -> dict[str, Tensor]:
        return {} if self.tied else {LM_HEAD: self.base.pooler[LM_HEAD]}

    @property
    def frozen_names(self) -> tuple[str, ...]:
        return (self.weight_name,)

    def forward(
        self,
        params: Mapping[str, Tensor],
        rows_ND: Tensor,
        *,
        dropout: Dropout | None = None,
        pooler_params: Mapping[str, Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        base = self.base
        weight = (pooler_params or {}).get(self.weight_name)
        if weight is None:
            weight = self.pooler.get(LM_HEAD, base.model.get_submodule(base.arch.embedding).get_parameter("weight"))
        bias = base.pooler.get(base.arch.lm_bias) if base.arch.lm_bias is not None else None
        return F.linear(rows_ND * base.arch.lm_scale(base.config), weight, bias if bias is None else bias[0])
