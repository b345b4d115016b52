"""Products of lanes' rows with frozen matrices that several layers have in common, computed once in a pass.

T rows of the pass or of a lane, D in_features, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Memory = tuple[int, torch.Size, tuple[int, ...], torch.dtype]


class _Products(Function):
    """``x_k A_k^T`` for every lane k; the gradients of all lanes go into one tensor."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, rows: Sequence[slice], *matrices: Tensor) -> tuple[Tensor, ...]:
        cast = [A_RD.to(x_TD.dtype) for A_RD in matrices]
        ctx.save_for_backward(*cast)
        ctx.rows, ctx.like = rows, (x_TD.shape, x_TD.dtype, x_TD.device)
        return tuple(x_TD[own] @ A_RD.T for own, A_RD in zip(rows, cast, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        shape, dtype, device = ctx.like
        grad_x = torch.zeros(shape, dtype=dtype, device=device)
        for own, A_RD, grad_TR in zip(ctx.rows, ctx.saved_tensors, grads, strict=True):
            grad_x[own] = grad_TR @ A_RD
        return (grad_x, None, *(None for _ in grads))


def frozen_products(x_TD: Tensor, rows: Sequence[slice], matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The products themselves, (T, R) for each lane, in the type of the input."""
    return _Products.apply(x_TD, tuple(rows), *matrices)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Products, and what they are of; all of it is held, so that its memory becomes nobody else's meanwhile."""

    x_TD: Tensor
    version: int
    matrices: tuple[Tensor, ...]
    what: tuple[object, ...]
    low: tuple[Tensor, ...]


class SharedProducts:
    """The last products of a pass: layers with a common input follow one another."""

    def __init__(self) -> None:
        self._last: _Known | None = None

    def of(self, x_TD: Tensor, rows: Sequence[slice], matrices: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """``x_k A_k^T`` (T, R) for lanes k, through which gradients go to the input; the matrices have none.

        Args:
            x_TD: all rows of the pass.
            rows: of the lanes, disjoint.
            matrices: A_k (R, D) of each, in any type.
        """
        spans = tuple((own.start, own.stop) for own in rows)
        graph = x_TD.requires_grad, torch.is_grad_enabled()
        what = (_memory(x_TD), graph, spans, tuple(_memory(A_RD) for A_RD in matrices))
        version: int = x_TD._version  # pyright: ignore[reportPrivateUsage]
        known = self._last
        if known is None or known.what != what or known.version != version:
            low = frozen_products(x_TD, rows, matrices)
            known = _Known(x_TD=x_TD, version=version, matrices=tuple(matrices), what=what, low=low)
            self._last = known
        return known.low


def _memory(value: Tensor) -> Memory:
    return value.data_ptr(), value.shape, value.stride(), value.dtype
