"""Taking an encoder-decoder apart: its backbone, and what belongs to its language-modelling head.

transformers' class for conditional generation holds a backbone (BART), or has the backbone's parts itself (T5). What
the head needs besides the shared embedding goes into `Base.pooler`: the head's weight where it is not tied, and a bias
on the logits where that says anything; in the published BARTs it is zero.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from remora.models.architectures import Architecture, ModelConfigHF
from remora.models.base import LM_HEAD


def taken_apart(model: nn.Module, arch: Architecture, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
    """The backbone of a model for conditional generation, and the parts of its head.

    Args:
        model: transformers' model; taken over.
        arch: of it.
        dtype: in which the head's tensors are kept; transformers computes with the head in the model's type.

    Returns:
        the backbone, in the type the model has, and tensors by their name in the model.
    """
    held: dict[str, Tensor] = {}
    weight, shared = model.get_parameter(LM_HEAD), model.get_parameter(f"{arch.hf_prefix}{arch.embedding}.weight")
    if weight is not shared:
        held[LM_HEAD] = weight.detach().to(dtype).clone()
    if arch.lm_bias is not None:
        bias = model.get_buffer(arch.lm_bias).detach()
        if bool(bias.any()):
            held[arch.lm_bias] = bias.to(dtype).clone()
    return _saying(_backbone(model, arch), tied=weight is shared), held


def _backbone(model: nn.Module, arch: Architecture) -> nn.Module:
    if arch.prefix:
        return model.get_submodule(arch.prefix)
    with torch.device("meta"):  # nothing of it stays but its own class's forward
        backbone: nn.Module = AutoModel.from_config(model.config)
    for name, _ in list(backbone.named_children()):
        backbone.register_module(name, model.get_submodule(name))
    return backbone


def empty_backbone(config: ModelConfigHF, *, tied: bool) -> nn.Module:
    """A backbone whose parameters are to be replaced; called where nothing is initialised.

    Args:
        config: of the model.
        tied: whether the language-modelling head is tied to the embedding.
    """
    backbone: Any = AutoModel.from_config(config, attn_implementation="eager", dtype=torch.float32)
    backbone.tie_weights()  # a part of the initialisation that was left out
    return _saying(backbone, tied=tied)


def _saying(backbone: Any, *, tied: bool) -> nn.Module:
    """The backbone with a configuration that says whether the head is tied; T5's says so of every checkpoint."""
    backbone.config = copy.deepcopy(backbone.config)
    backbone.config.tie_word_embeddings = tied
    return backbone
