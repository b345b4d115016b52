"""Activation functions of a model's own modules, by the compiled kernels where those are there."""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from transformers import activations

from remora.native import kernels

_KERNELS: dict[type[nn.Module], str] = {
    activations.GELUActivation: "gelu",
    activations.NewGELUActivation: "gelu_tanh",
    activations.GELUTanh: "gelu_tanh",
    activations.SiLUActivation: "silu",
    nn.SiLU: "silu",
}


class _Activation(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.name = name
        return kernels.activation(name, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return kernels.activation_back(ctx.name, x, grads[0].contiguous()), None


def kernel_name(module: nn.Module) -> str | None:
    """The kernel that computes what this module computes, if there is one.

    `nn.GELU` follows its own setting; classes are compared exactly, since a subclass may compute something else.
    """
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _KERNELS.get(type(module))


def activate(x: Tensor, name: str) -> Tensor:
    """Differentiable activation by a kernel, for tensors that `kernels.usable` accepts."""
    return _Activation.apply(x.contiguous(), name)
