"""One token behind each row: values and gradients of plain autograd in float64, and no logits kept for the backward."""

from typing import Any

import pytest
import torch
from torch import Tensor

from remora.models import next_token
from remora.models.next_token import next_log_probs

ROWS, WIDTH, TOKENS = 23, 8, 50


def made(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, head, tokens, and what the result is multiplied by."""
    generator = torch.Generator().manual_seed(3)
    rows = 2 * torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    tokens = torch.randint(TOKENS, (ROWS,), generator=generator)
    factors = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    return rows.to(dtype), weight.to(dtype), tokens, factors


def plain(rows: Tensor, weight: Tensor, tokens: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    logits = rows @ weight.T if bias is None else rows @ weight.T + bias
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return torch.log_softmax(logits, 1)[torch.arange(len(tokens)), tokens]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("trains_head", [False, True])
def test_values_and_gradients_are_those_of_plain_autograd(
    trains_head: bool, cap: float | None, biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(next_token, "ROWS", 7)  # the last part is smaller
    rows, weight, tokens, factors = made()
    bias = torch.linspace(-2, 2, TOKENS, dtype=torch.float64) if biased else None
    found: list[list[Tensor]] = []
    for compute in (next_log_probs, plain):
        own = rows.clone().requires_grad_(), weight.clone().requires_grad_(trains_head)
        out = compute(*own, tokens, bias, cap)
        (out * factors).sum().backward()
        found.append([out.detach(), *(value.grad for value in own if value.grad is not None)])
    assert len(found[0]) == len(found[1]) == 2 + trains_head
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        assert float(other.abs().max()) > 0.1


def test_half_precision_has_a_float32_softmax_and_gradients_near_the_exact_ones() -> None:
    rows, weight, tokens, factors = made(torch.bfloat16)
    exact = rows.double().requires_grad_()
    (plain(exact, weight.double(), tokens, None, None) * factors).sum().backward()
    own = rows.clone().requires_grad_()
    out = next_log_probs(own, weight, tokens)
    assert out.dtype == torch.float32
    (out * factors.float()).sum().backward()
    assert own.grad is not None
    assert exact.grad is not None
    assert own.grad.dtype == torch.bfloat16
    assert float((own.grad.double() - exact.grad).abs().max()) < 0.03 * float(exact.grad.abs().max())


def test_a_frozen_head_keeps_as_much_as_the_rows_take_and_nothing_without_gradients() -> None:
    rows, weight, tokens, _ = made()
    sizes: list[int] = []

    def packed(value: Tensor) -> Any:
        sizes.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda value: value):
        next_log_probs(rows.requires_grad_(), weight, tokens)
    assert sizes == [rows.numel()]
    with torch.no_grad():
        assert not next_log_probs(rows, weight, tokens).requires_grad
    assert not next_log_probs(rows.detach(), weight, tokens).requires_grad
