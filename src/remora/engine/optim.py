"""AdamW over the flat float32 storage of one lane, with its own learning rate, weight decay, clipping and schedule.

All trained tensors of a lane are views into one flat buffer, their gradients into another, so that an optimizer step is
a handful of operations however many sites a method has. The update itself is torch's fused AdamW. A step never reads a
number back from the device: what depends on one (clipping, switching a diverged lane off) is decided there.
"""

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
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
        self.stopped = torch.zeros((), dtype=torch.float32, device=device)
        """1 once a loss or gradient was not finite: nothing is updated from then on."""
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

    def step(self, lr: float, clip: float, loss: Tensor | None = None) -> Tensor:
        """Clip the whole gradient to norm `clip` and update, unless it or the loss is not finite, now or before.

        Args:
            lr: learning rate, before the tensors' own factors.
            clip: largest norm; 0 for none.
            loss: the gradient's, () on the device.

        Returns:
            The norm () before clipping.
        """
        if self._optimizer is None:
            return torch.zeros_like(self.stopped, dtype=self.grad.dtype)
        norm = torch.linalg.vector_norm(self.grad)
        bad = ~torch.isfinite(norm) if loss is None else ~(torch.isfinite(norm) & torch.isfinite(loss))
        self.stopped = torch.maximum(self.stopped, bad.float())
        # On a CPU the norm is there to be looked at, and a gradient within bounds is not gone through for nothing.
        within = self.grad.device.type == "cpu" and float(norm) <= clip
        if clip > 0 and not within:
            # In double precision, as Python's own arithmetic: the factor does not depend on where it is computed.
            wide = norm.double()
            self.grad.mul_(torch.where(wide > clip, clip / (wide + 1e-6), 1.0).to(self.grad.dtype))
        for group, multiplier in zip(self._optimizer.param_groups, self._multipliers, strict=True):
            group["lr"] = lr * multiplier
        # The name under which torch's gradient scaler tells a fused optimizer to leave everything as it is.
        self._optimizer.found_inf = self.stopped  # type: ignore[attr-defined]
        self._optimizer.step()
        return norm

    @contextmanager
    def unless_stopped(self) -> Generator[None]:
        """Take back what the body changes of the values when the lane has stopped."""
        # On a CPU it is known beforehand, and a lane that goes on is not copied for nothing.
        if self.flat.device.type == "cpu" and float(self.stopped) == 0:
            yield
            return
        before = self.flat.clone()
        yield
        self.flat.copy_(torch.where(self.stopped > 0, before, self.flat))

    def storage(self) -> list[Tensor]:
        """All that takes memory: values, gradients and the moments gathered so far."""
        moments = [] if self._optimizer is None else self._optimizer.state.values()
        return [self.flat, self.grad, *(state[name] for state in moments for name in ("exp_avg", "exp_avg_sq"))]

    def saved(self) -> dict[str, Tensor]:
        """All that a later step depends on, as it lies; the next step changes it."""
        found = {"values": self.flat, "stopped": self.stopped}
        for number, group in enumerate([] if self._optimizer is None else self._optimizer.param_groups):
            moments = self._optimizer.state.get(group["params"][0], {}) if self._optimizer is not None else {}
            found |= {f"{number}.{name}": value for name, value in moments.items()}
        return found

    def take_up(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what `saved` gave."""
        self.flat.copy_(saved["values"])
        self.stopped = saved["stopped"].to(self.stopped)
        for number, group in enumerate([] if self._optimizer is None else self._optimizer.param_groups):
            prefix = f"{number}."
            moments = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
            if moments and self._optimizer is not None:
                self._optimizer.state[group["params"][0]] = {
                    name: value.to(self.flat.device, copy=True) for name, value in moments.items()
                }

    def snapshot(self) -> Tensor:
        """A copy of all values."""
        return self.flat.clone()

    def restore(self, values: Tensor) -> None:
        """Put a snapshot back."""
        self.flat.copy_(values)
