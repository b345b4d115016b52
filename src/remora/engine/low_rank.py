"""Low-rank terms of several lanes as a few batched products, for devices that wait for launches rather than for sums.

Lanes whose terms have one shape are stacked; where they have unequally many rows, the shorter ones are padded with rows
of their own. A lane's rows meet its own matrices only, so a lane full of NaN stays alone, which a joint product of
concatenated ranks with the foreign ones masked could not promise: its gradient of A sums NaN times zero.

N lanes, L most rows of a lane, T rows of the pass, D in_features, O out_features, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from remora.engine.dropout import apply_mask, keep_mask
from remora.engine.layout import Layout
from remora.engine.transfer import to_device

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class LaneRows:
    """Where the rows of some lanes lie.

    Args:
        rows_NL: row of the pass for every place; padding repeats the lane's first row.
        padding_NL: True on padding; None when there is none.
        row_T: row of the pass for every real row, and `place_T` its place in the flattened (N, L).
        whole: the rows as one slice, when lanes follow each other without padding.
    """

    rows_NL: Tensor
    padding_NL: Tensor | None
    row_T: Tensor
    place_T: Tensor
    whole: slice | None

    def gather(self, x_TD: Tensor) -> Tensor:
        """(N, L, D), a view where it can be."""
        shape = (*self.rows_NL.shape, x_TD.shape[1])
        rows = x_TD.index_select(0, self.rows_NL.view(-1)) if self.whole is None else x_TD[self.whole]
        return rows.reshape(shape)

    def gather_grad(self, grad_TO: Tensor) -> Tensor:
        """(N, L, O), zero on padding."""
        grad = self.gather(grad_TO)
        return grad if self.padding_NL is None else grad.masked_fill_(self.padding_NL[..., None], 0)

    def add_to(self, y_TO: Tensor, added_NLO: Tensor) -> None:
        """Add values to the rows they belong to."""
        if self.whole is not None:
            y_TO[self.whole].add_(added_NLO.view(-1, y_TO.shape[1]))
            return
        real = added_NLO.view(-1, y_TO.shape[1]).index_select(0, self.place_T)
        y_TO.index_copy_(0, self.row_T, y_TO.index_select(0, self.row_T).add_(real))


def lane_rows(spans: Sequence[Span], device: torch.device) -> LaneRows:
    """Rows of lanes from their first rows and the ones after their last."""
    starts, stops = np.array(spans).T
    lengths = stops - starts
    column = np.arange(lengths.max())
    real_NL = column[None, :] < lengths[:, None]
    rows_NL = starts[:, None] + np.where(real_NL, column[None, :], 0)
    joined = bool((starts[1:] == stops[:-1]).all() and real_NL.all())
    return LaneRows(
        rows_NL=to_device(rows_NL, device),
        padding_NL=None if real_NL.all() else to_device(~real_NL, device),
        row_T=to_device(rows_NL[real_NL], device),
        place_T=to_device(np.flatnonzero(real_NL), device),
        whole=slice(int(starts[0]), int(stops[-1])) if joined else None,
    )


@dataclass(kw_only=True)
class GroupKept:
    """What the backward pass needs: the input after dropout (None: the pass's own rows do), mask, hidden values."""

    x_NLD: Tensor | None
    mask_NLD: Tensor | None
    low_NLR: Tensor


class LowRankGroup:
    """Terms ``s_k B_k A_k drop(x_k)`` of lanes k with equal rank and dropout.

    Args:
        spans: rows of each lane.
        scales: s_k.
        rate: of dropout; 0 for none.
        site: keys the masks.
        layout: the pass.
        dtype: of the products.
    """

    def __init__(
        self,
        spans: tuple[Span, ...],
        scales: Sequence[float],
        rate: float,
        site: int,
        layout: Layout,
        dtype: torch.dtype,
    ) -> None:
        device = layout.input_ids.device
        if spans not in layout.groups:
            layout.groups[spans] = lane_rows(spans, device)
        self.rows: LaneRows = layout.groups[spans]
        self._rate, self._site, self._dropout = rate, site, layout.dropout
        same = len(set(scales)) == 1
        self._scale: float | Tensor = scales[0]
        if not same:
            wide = torch.promote_types(dtype, torch.float32)  # a scale such as 4/3 would lose digits in half precision
            self._scale = to_device(np.array(scales), device).to(wide)[:, None, None]

    def forward(self, x_TD: Tensor, A_NRD: Tensor, B_NOR: Tensor, y_TO: Tensor, *, trains_A: bool) -> GroupKept:
        """Add the terms to `y_TO`."""
        x, mask = self.rows.gather(x_TD), None
        if self._rate:
            mask = keep_mask(self._dropout.keys(self._site, self.rows.rows_NL), x.shape[2], self._rate)
            x = apply_mask(x, mask, self._rate)
        low = torch.bmm(x, A_NRD.transpose(1, 2))
        self.rows.add_to(y_TO, torch.bmm(low, B_NOR.transpose(1, 2)).mul_(self._scale))
        return GroupKept(x_NLD=x if trains_A and mask is not None else None, mask_NLD=mask, low_NLR=low)

    def backward(
        self,
        kept: GroupKept,
        x_TD: Tensor,
        A_NRD: Tensor,
        B_NOR: Tensor,
        grad_TO: Tensor,
        grad_x_TD: Tensor | None,
        *,
        trains_A: bool,
    ) -> tuple[Tensor | None, Tensor]:
        """Gradients of the stacked A and B; that of the input is added to `grad_x_TD`.

        Args:
            kept: what `forward` gave.
            x_TD: the input; not looked at where `kept` has it or A is frozen.
            A_NRD: as in `forward`, and B_NOR likewise.
            grad_TO: of the terms' sum.
            grad_x_TD: where the input's gradient goes; None when nobody asks for it.
            trains_A: whether A has a gradient.
        """
        grad = self.rows.gather_grad(grad_TO)
        low_grad = torch.bmm(grad, B_NOR).mul_(self._scale)
        grad_B = torch.bmm(grad.transpose(1, 2), kept.low_NLR).mul_(self._scale)
        grad_A = None
        if trains_A:
            x = self.rows.gather(x_TD) if kept.x_NLD is None else kept.x_NLD
            grad_A = torch.bmm(low_grad.transpose(1, 2), x)
        if grad_x_TD is not None:
            back = torch.bmm(low_grad, A_NRD)
            self.rows.add_to(grad_x_TD, back if kept.mask_NLD is None else apply_mask(back, kept.mask_NLD, self._rate))
        return grad_A, grad_B
