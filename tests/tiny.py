"""Tiny random models of every supported architecture, with weights that give tests teeth.

Biases, norms and position tables are random and non-zero, query and key weights enlarged so that attention is far from
uniform, windows short, soft-capping low. Nothing touches the global random state.
"""

import hashlib
import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from remora.models.base import Base
from remora.models.files import ModelFiles
from remora.models.load import make_base
from remora.models.quantised import dense_tensors, quantised
from remora.models.quiet import quiet_transformers

VOCAB = 100
MAX_POSITIONS = 64
WINDOW = 4

_GQA = {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITIONS,
}
_DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_buckets": 8,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}

# name -> (model type, settings beside _SIZES)
_TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {}),
    "roberta": ("roberta", {"max_position_embeddings": MAX_POSITIONS + 2, "pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": (
        "xlm-roberta",
        {"max_position_embeddings": MAX_POSITIONS + 4, "pad_token_id": 3, "type_vocab_size": 1},
    ),
    "electra": ("electra", {"embedding_size": 16}),
    "distilbert": ("distilbert", {}),
    "albert": ("albert", {"embedding_size": 16, "num_hidden_layers": 3, "hidden_dropout_prob": 0.1}),
    "modernbert": (
        "modernbert",
        {
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 2,
            "local_attention": 2 * WINDOW,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "llama": ("llama", _GQA),
    "mistral": ("mistral", {**_GQA, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", _GQA),
    "qwen3": ("qwen3", {**_GQA, "head_dim": 8}),
    "gemma2": (
        "gemma2",
        {
            **_GQA,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **_GQA,
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt2": ("gpt2", {"n_inner": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "opt": ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "phi3": ("phi3", {**_GQA, "sliding_window": WINDOW}),
    "gpt_neox": ("gpt_neox", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "mpnet": ("mpnet", {"max_position_embeddings": MAX_POSITIONS + 2, "pad_token_id": 1}),
    "deberta-v2": ("deberta-v2", {**_DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v3": ("deberta-v2", _DEBERTA),
}
# transformers' own names of the sizes where they differ
_RENAMED = {
    "distilbert": {
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    "opt": {"intermediate_size": "ffn_dim"},
}

ALL = tuple(_TINY)
PADDED = ("mpnet", "deberta-v2", "deberta-v3")
PACKED = tuple(name for name in ALL if name not in PADDED)
CAUSAL = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "gpt2", "opt", "phi3", "gpt_neox")


def tiny_config(name: str, num_labels: int = 2, **overrides: Any) -> Any:
    """The configuration of a tiny model; overrides are settings of its transformers configuration."""
    model_type, settings = _TINY[name]
    renamed = _RENAMED.get(name, {})
    sizes = {renamed.get(key, key): value for key, value in _SIZES.items()}
    with quiet_transformers():
        return AutoConfig.for_model(
            model_type, **{**sizes, **settings, "num_labels": num_labels, "attn_implementation": "eager", **overrides}
        )


def tiny_hf(
    name: str,
    num_labels: int = 2,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    auto: Any = AutoModelForSequenceClassification,
    **overrides: Any,
) -> nn.Module:
    """transformers' model of a class in ``eval()``; it has the backbone weights of the same ``tiny_base``."""
    config = tiny_config(name, num_labels, **overrides)
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model = auto.from_config(config)
    centre = 0.0 if name in ("gemma2", "gemma3") else 1.0  # Gemma's norms multiply by 1 + weight
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(random_values(key, parameter, seed, centre))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval()


def tiny_base(
    name: str, dtype: torch.dtype = torch.float32, seed: int = 0, *, pooler: bool = True, **overrides: Any
) -> Base:
    """A tiny random base.

    Args:
        name: one of ``ALL``.
        dtype: type of its weights.
        seed: other weights for another seed.
        pooler: whether the imagined checkpoint has BERT's and ALBERT's pooler and ModernBERT's head.
        overrides: settings of its transformers configuration.
    """
    model = tiny_hf(name, 2, dtype, seed, **overrides)
    prefix = str(model.base_model_prefix) + "."
    missing = {key for key, _ in model.named_parameters() if not key.startswith(prefix)}
    if name == "modernbert" and pooler:
        missing -= {key for key in missing if key.startswith("head.")}
    if not pooler:
        missing |= {key for key, _ in model.named_parameters() if ".pooler." in key}
    files = ModelFiles(name=f"tiny-{name}", source="test")
    return make_base(model, tokenizer=None, files=files, missing=missing, dtype=dtype)


def tiny_quantised(name: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Base:
    """`tiny_base` with its linear layers held in NF4."""
    return quantised(tiny_base(name, dtype, **overrides))


def give_weights(model: nn.Module, base: Base, prefix: str = "") -> None:
    """Let a dense model have the very weights that a base computes with."""
    for name, value in dense_tensors(base):
        model.get_parameter(prefix + name).data = value.detach().clone(memory_format=torch.contiguous_format)


def dense_twin(base: Base, name: str, **overrides: Any) -> Base:
    """The dense base made of the weights that the quantised base of a tiny model computes with."""
    twin = tiny_base(name, base.dtype, **overrides)
    give_weights(twin.model, base)
    return twin


def random_values(key: str, parameter: torch.Tensor, seed: int, centre: float) -> torch.Tensor:
    """Values that depend on the parameter's name and shape and on the seed only."""
    words = f"{seed}|{key}|{tuple(parameter.shape)}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "little"))
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
    if key.endswith(".bias"):
        return 0.2 * noise
    if parameter.dim() == 1:
        return centre + 0.2 * noise
    if "embed" in key or ".wte." in key or ".wpe." in key or "relative_attention_bias" in key:
        return 0.5 * noise
    scale = 2.0 if any(part in key for part in ("query", "key", ".q", ".k_", "c_attn", "Wqkv", "qkv_proj")) else 1.0
    return noise * scale / math.sqrt(parameter.numel() / parameter.shape[0])
