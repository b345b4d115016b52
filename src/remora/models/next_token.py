"""How likely one given token is behind each row, with memory for the gradient of the rows and no more.

For o = log softmax(W x)_t the gradient is do/dx = W_t - softmax(W x) W; under a soft cap c, logits c tanh(z / c) have
the further factor 1 - tanh(z / c)^2. Where W is frozen that is all the backward pass needs, so it is computed along
with the forward pass, some rows at a time, in place of keeping logits over the whole vocabulary for every row.
"""

# N rows, D features, V tokens of the vocabulary
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

ROWS = 256
"""Rows at a time, so that logits over the vocabulary take little room."""


def wide_logits(rows_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, cap: float | None) -> Tensor:
    """Logits over the vocabulary, float32 at least, with the bias and after the soft cap if there is one."""
    logits_NV = F.linear(rows_ND, weight_VD, bias_V)
    if logits_NV.dtype in (torch.bfloat16, torch.float16):
        logits_NV = logits_NV.float()
    return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap


def next_log_probs(
    rows_ND: Tensor, weight_VD: Tensor, next_N: Tensor, bias_V: Tensor | None = None, cap: float | None = None
) -> Tensor:
    """Logarithms of the probabilities of one token behind each row.

    Args:
        rows_ND: last hidden states.
        weight_VD: of the language-modelling head, in the type of the rows. If it is trained, logits of all rows are
            kept for its gradient.
        next_N: ids of the tokens.
        bias_V: on the logits, in the type of the rows; frozen.
        cap: of Gemma 2's soft cap on logits.

    Returns:
        (N,), float32 at least.
    """
    if weight_VD.requires_grad and torch.is_grad_enabled():
        logits_NV = wide_logits(rows_ND, weight_VD, bias_V, cap)
        return logits_NV.gather(1, next_N[:, None])[:, 0] - logits_NV.logsumexp(1)
    return _NextLogProbs.apply(rows_ND, weight_VD, next_N, bias_V, cap)  # pyright: ignore[reportReturnType]


class _NextLogProbs(Function):
    @staticmethod
    def forward(
        ctx: Any, rows_ND: Tensor, weight_VD: Tensor, next_N: Tensor, bias_V: Tensor | None, cap: float | None
    ) -> Tensor:
        out_N = rows_ND.new_empty(len(rows_ND), dtype=torch.promote_types(rows_ND.dtype, torch.float32))
        grads_ND = torch.empty_like(rows_ND) if ctx.needs_input_grad[0] else None
        for start in range(0, len(rows_ND), ROWS):
            part = slice(start, start + ROWS)
            logits_NV, token_N1 = wide_logits(rows_ND[part], weight_VD, bias_V, cap), next_N[part, None]
            log_probs_NV = logits_NV - logits_NV.logsumexp(1, keepdim=True)
            out_N[part] = log_probs_NV.gather(1, token_N1)[:, 0]
            if grads_ND is not None:
                back_NV = log_probs_NV.exp_().neg_()
                back_NV.scatter_add_(1, token_N1, torch.ones_like(token_N1, dtype=back_NV.dtype))
                if cap is not None:
                    back_NV.mul_(1 - (logits_NV / cap).square())
                grads_ND[part] = back_NV.to(rows_ND.dtype) @ weight_VD
        if grads_ND is not None:
            ctx.save_for_backward(grads_ND)
        return out_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grads_ND,) = ctx.saved_tensors
        return grads_ND * grads[0][:, None].to(grads_ND.dtype), None, None, None, None
