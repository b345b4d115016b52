"""A base with the linear layers of its backbone held in NF4: how it is made, kept, and looked at as if it were dense.

Embeddings, norms, biases, convolutions and heads stay as they are, as in bitsandbytes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from remora.errors import ModelError
from remora.models.base import Base
from remora.models.frozen_linear import NF4_TENSORS, NF4Linear, linear_weight
from remora.models.nf4 import NF4Weight, quantise


def quantised(base: Base) -> Base:
    """The base with all linear layers of its backbone held in NF4.

    Args:
        base: dense, on the CPU. Its model is taken over.

    Raises:
        ModelError: a weight holds a number that is not finite.
    """
    dense_sha256 = base.hash()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a mean is taken, and its last bit depends on the number of threads
    try:
        for path, module in linear_layers(base.model):
            transposed = isinstance(module, Conv1D)
            weight_OD = linear_weight(module)
            if not bool(weight_OD.isfinite().all()):
                raise ModelError(f"{base.name}: {path}.weight holds numbers that are not finite", "it has no NF4 form")
            _replace(base.model, path, quantise(weight_OD), _bias(module), base.dtype, transposed)
    finally:
        torch.set_num_threads(threads)
    return replace(base, quantization="nf4", dense_sha256=dense_sha256)


def restore_layers(model: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Put quantised layers that were kept into a model in the place of its linear ones.

    Args:
        model: a backbone, whose own linear weights are not looked at.
        tensors: by the names that `held_tensors` gives.
        dtype: in which the layers compute.

    Raises:
        KeyError: a tensor is missing.
    """
    for path, module in linear_layers(model):
        transposed = isinstance(module, Conv1D)
        outputs, inputs = linear_weight(module).shape
        parts = {name: tensors[f"{path}.{name}"] for name in NF4_TENSORS}
        bias = None if _bias(module) is None else tensors[f"{path}.bias"]
        _replace(model, path, NF4Weight(**parts, shape=(outputs, inputs)), bias, dtype, transposed)


def linear_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every dense linear layer of a backbone by its path."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def dense_tensors(base: Base) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of the backbone as transformers lays it out, quantised weights made dense one at a time."""
    yield from base.model.named_parameters()
    for path, module in base.model.named_modules():
        if isinstance(module, NF4Linear):
            yield f"{path}.weight", module.dense().t() if module.transposed else module.dense()


def _bias(module: nn.Module) -> Tensor | None:
    return dict(module.named_parameters(recurse=False)).get("bias")


def _replace(
    model: nn.Module, path: str, weight: NF4Weight, bias: Tensor | None, dtype: torch.dtype, transposed: bool
) -> None:
    parent, _, name = path.rpartition(".")
    layer = NF4Linear(weight, None if bias is None else bias.detach(), dtype=dtype, transposed=transposed)
    model.get_submodule(parent).register_module(name, layer.eval())
