"""A frozen linear layer held in NF4, which stands in a model for a dense one; and the one way to any layer's weight.

Dettmers et al. 2023, "QLoRA", arXiv:2305.14314, equations 5 and 6: y = dequantise(W) x + b. Only codes and scales stay;
the dense weight is made once per call for the rows of all lanes, again in the backward pass, and let go of each time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from transformers.pytorch_utils import Conv1D

from remora.models.nf4 import NF4Weight

NF4_TENSORS = ("codes", "scale_codes", "scale_scales", "scale_offset")


class _Product(Function):
    """``x W^T + b`` whose backward pass makes the dense weight anew instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "NF4Linear") -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.dense(), layer.bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (grad,) = grads
        return (grad @ ctx.layer.dense() if ctx.needs_input_grad[0] else None), None


class NF4Linear(nn.Module):
    """A frozen linear layer (O, D) held in NF4.

    Args:
        weight: (O, D), quantised.
        bias: (O,) frozen, or None.
        dtype: in which it computes.
        transposed: the layer it stands for keeps its weight as (D, O), as GPT-2's Conv1D does. Blocks of codes run
            along (O, D) all the same, as in transformers' own quantised models.
    """

    codes: Tensor
    scale_codes: Tensor
    scale_scales: Tensor
    scale_offset: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: NF4Weight, bias: Tensor | None, *, dtype: torch.dtype, transposed: bool = False) -> None:
        super().__init__()
        for name in NF4_TENSORS:
            self.register_buffer(name, getattr(weight, name))
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))
        out_features, in_features = weight.shape
        self.out_features, self.in_features = out_features, in_features
        self.dtype = dtype
        self.transposed = transposed

    def dense(self) -> Tensor:
        """(O, D) the weight in the compute type, made for the moment."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in NF4_TENSORS}
        return NF4Weight(**tensors, shape=(self.out_features, self.in_features)).dense(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` for x (..., D)."""
        return _Product.apply(x, self)


def linear_weight(module: nn.Module) -> Tensor:
    """(O, D) the frozen weight of a linear layer: a view of it, or made dense for the moment."""
    if isinstance(module, NF4Linear):
        return module.dense()
    weight = module.get_parameter("weight")
    return weight.t() if isinstance(module, Conv1D) else weight


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a backbone keeps of its checkpoint: parameters, and the codes and scales of quantised layers."""
    codes = {
        f"{path}.{name}": getattr(module, name)
        for path, module in model.named_modules()
        if isinstance(module, NF4Linear)
        for name in NF4_TENSORS
    }
    return {**dict(model.named_parameters()), **codes}


def num_values(model: nn.Module) -> int:
    """Numbers in a backbone, whatever they are held in; tied tensors count once."""
    quantised = (m.out_features * m.in_features for m in model.modules() if isinstance(m, NF4Linear))
    return sum(parameter.numel() for parameter in model.parameters()) + sum(quantised)
