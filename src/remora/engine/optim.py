"""AdamW over the flat float32 storage of one lane, with its own learning rate, weight decay, clipping and schedule.

All trained tensors of a lane are views into one flat buffer, their gradients into another, so that an optimizer step is
a handful of operations however many sites a method has. The update itself is torch's fused AdamW.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ParamRule:
    """How one tensor is updated: factor on the learning rate, and whether weight decay applies."""

    lr_multiplier: float = 1.0
    decay: bool = True


def lr_factor(step: int, num_steps: int, warmup: float, schedule: Literal["linear", "constant"]) -> float:
    """Factor on the peak learning rate at step `step` (from 0): linear warm-up, then linear decay or constant.

    As transformers' `get_linear_schedule_with_warmup` and `get_constant_schedule_with_warmup`.
    """
    num_warmup = math.ceil(num_steps * warmup)
    if step < num_warmup:
        return step / max(1, num_warmup)
    if schedule == "constant":
        return 1.0
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))


_ALIGNMENT = 64
"""Bytes; every tensor starts on such a boundary, as torch's own do, since the bits of a matrix product depend on it."""


class FlatAdamW:
    """One lane's trained tensors and their optimizer.

    Args:
        tensors: initial values by name.
        rules: by name; tensors with equal rules lie side by side.
        weight_decay: for tensors whose rule says so.
        dtype: of the master copy (float32; float64 in proofs).
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        rules: Callable[[str, Tensor], ParamRule],
        *,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        ruled = {name: rules(name, value) for name, value in tensors.items()}
        groups: dict[tuple[float, bool], list[str]] = {}
        for name, rule in ruled.items():
            groups.setdefault((rule.lr_multiplier, rule.decay), []).append(name)
        line = _ALIGNMENT // dtype.itemsize
        total = sum(-(-value.numel() // line) * line for value in tensors.values())
        self.flat = torch.zeros(total, dtype=dtype, device=device)
        self.grad = torch.zeros(total, dtype=dtype, device=device)
        self.params: dict[str, Tensor] = {}
        segments: list[dict[str, object]] = []
        self._multipliers: list[float] = []
        at = 0
        for (multiplier, decay), names in groups.items():
            start = at
            for name in names:
                value = tensors[name]
                span = slice(at, at + value.numel())
                self.flat[span] = value.detach().reshape(-1).to(dtype)
                leaf = self.flat[span].view(value.shape).detach().requires_grad_()
                leaf.grad = self.grad[span].view(value.shape)
                self.params[name] = leaf
                at = -(-span.stop // line) * line
            segment = self.flat[start:at].detach()
            segment.grad = self.grad[start:at]
            segments.append({"params": [segment], "weight_decay": weight_decay if decay else 0.0})
            self._multipliers.append(multiplier)
        self.params = {name: self.params[name] for name in tensors}
        self._optimizer = (
            torch.optim.AdamW(segments, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True) if total else None
        )

    def zero_grad(self) -> None:
        """Set all gradients to zero, keeping their storage."""
        self.grad.zero_()

    def add_grads(self, grads: Sequence[Tensor | None]) -> None:
        """Add gradients to those gathered so far; None for a tensor that took no part."""
        for value, grad in zip(self.params.values(), grads, strict=True):
            if grad is not None:
                assert value.grad is not None
                value.grad.add_(grad)

    def step(self, lr: float, clip: float) -> float:
        """Clip the whole gradient to norm `clip` and update.

        Returns:
            The norm before clipping. When it is not finite nothing is updated.
        """
        if self._optimizer is None:
            return 0.0
        norm = float(torch.linalg.vector_norm(self.grad))
        if not math.isfinite(norm):
            return norm
        if clip > 0 and norm > clip:
            self.grad.mul_(clip / (norm + 1e-6))
        for group, multiplier in zip(self._optimizer.param_groups, self._multipliers, strict=True):
            group["lr"] = lr * multiplier
        self._optimizer.step()
        return norm

    def snapshot(self) -> Tensor:
        """A copy of all values."""
        return self.flat.clone()

    def restore(self, values: Tensor) -> None:
        """Put a snapshot back."""
        self.flat.copy_(values)
