"""A frozen linear layer with the changes of all lanes, forward and backward in one autograd node.

For every lane k with rows T_k: ``y_k = g_k * (W (l_k * x_k) + s_k B_k A_k drop(x_k) + E_k x_k) + b + beta_k`` (any part
may be absent). The base's product is one matrix product over the rows of all lanes; the lanes' own terms are added in
place, low-rank ones on a CPU one by one, on other devices those of one shape together.
No lane's rows ever enter another lane's products, so a lane full of NaN stays alone.

Where A and B are frozen and vectors are trained around them, ``v_k * (B_k (u_k * (A_k x_k)))``, the product with A is a
node of its own: layers that read the same rows through the same A (queries and values) compute it once, and one product
takes the sum of their gradients back. B gets no gradient then, which folding the vectors into it would need.

T rows, D in_features, O out_features, R rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from remora.engine.dropout import apply_mask, keep_mask, pair_counters
from remora.engine.layout import Layout
from remora.engine.low_rank import GroupKept, LowRankGroup
from remora.methods.base import LinearChange
from remora.native import kernels

NATIVE_RANK = 32
"""Low-rank terms up to this rank run in the compiled kernel; above it the products themselves are what takes time."""

_FIRST_PART = 6
"""Place of the first trained tensor among the arguments of the node."""
_PARTS = ("A", "B", "rank_scale", "term_scale", "delta", "in_scale", "out_scale", "bias")


@dataclass(frozen=True, kw_only=True)
class LaneChange:
    """A lane's change of one linear layer and the flattened rows it acts on.

    Args:
        rows: of the layer's input.
        change: what to do there.
        dropout_site: keys the masks of this call.
        shared: the input is a tensor without lane rows, in a pass of one lane.
    """

    rows: slice
    change: LinearChange
    dropout_site: int = 0
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class _Term:
    rows: slice
    parts: dict[str, int]
    scale: float
    dropout: float
    site: int
    shared: bool


@dataclass(kw_only=True)
class _Kept:
    """What the backward pass needs of one term: places in the saved tensors, or the kernel's call."""

    dropped: int | None = None
    mask: int | None = None
    hidden: int | None = None
    scaled: int | None = None
    unscaled: int | None = None
    call: kernels.LowRankCall | None = None


@dataclass(kw_only=True)
class _Group:
    """Terms that are computed together, and places in the saved tensors."""

    terms: tuple[int, ...]
    call: LowRankGroup
    trains_A: bool
    A: int
    B: int
    x: int | None = None
    mask: int | None = None
    hidden: int


class _ChangedLinear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weight_OD: Tensor,
        bias_O: Tensor | None,
        terms: Sequence[_Term],
        layout: Layout,
        again: Callable[[], Tensor] | None,
        *parts: Tensor,
    ) -> Tensor:
        dtype = x_TD.dtype
        usable = kernels.usable(x_TD) and x_TD.is_contiguous()
        native = [usable and _fits_kernel(term, parts) for term in terms]
        trains_A = [
            ctx.needs_input_grad[_FIRST_PART + term.parts["A"]] if "A" in term.parts else False for term in terms
        ]
        alike = _alike(terms, parts, ctx.needs_input_grad[_FIRST_PART:]) if grouped(x_TD) else []
        together = {number for members in alike for number in members}
        elsewhere = [fits or number in together for number, fits in enumerate(native)]
        uncast = {term.parts[name] for term, e in zip(terms, elsewhere, strict=True) if e for name in ("A", "B")}
        cast = [part if place in uncast else part.to(dtype) for place, part in enumerate(parts)]
        x_in = x_TD
        if any("in_scale" in term.parts for term in terms):
            x_in = x_TD.clone()
            for term in terms:
                if "in_scale" in term.parts:
                    x_in[term.rows] *= cast[term.parts["in_scale"]]
        bias_later = any("out_scale" in term.parts for term in terms)
        y_TO = torch.nn.functional.linear(x_in, weight_OD, None if bias_later else bias_O)
        # A frozen A (LoRA-FA, VeRA) or none at all needs no input in the backward pass: that is what these save.
        drops = [layout.training and term.dropout > 0 for term in terms]
        keeps_x = any(
            "in_scale" in term.parts or "delta" in term.parts or (trained and not dropping and not fits)
            for term, fits, trained, dropping in zip(terms, native, trains_A, drops, strict=True)
        )
        nothing = x_TD.new_empty(0)
        saved: list[Tensor] = [x_TD if keeps_x else nothing, weight_OD if again is None else nothing, *cast]
        kept: list[_Kept] = []

        def keep(value: Tensor) -> int:
            saved.append(value)
            return len(saved) - 1

        groups: list[_Group] = []
        for members in alike:
            several = [terms[number] for number in members]
            call = LowRankGroup(
                tuple((term.rows.start, term.rows.stop) for term in several),
                [term.scale for term in several],
                several[0].dropout if layout.training else 0.0,
                several[0].site,
                layout,
                dtype,
            )
            A, B = (torch.stack([parts[term.parts[name]] for term in several]).to(dtype) for name in ("A", "B"))
            done = call.forward(x_TD, A, B, y_TO, trains_A=trains_A[members[0]])
            groups.append(
                _Group(
                    terms=members,
                    call=call,
                    trains_A=trains_A[members[0]],
                    A=keep(A),
                    B=keep(B),
                    x=None if done.x_NLD is None else keep(done.x_NLD),
                    mask=None if done.mask_NLD is None else keep(done.mask_NLD),
                    hidden=keep(done.low_NLR),
                )
            )
        covered: list[slice] = []
        for number, (term, fits, trained, dropping) in enumerate(zip(terms, native, trains_A, drops, strict=True)):
            y = y_TO[term.rows]
            of = _Kept()
            kept.append(of)
            if fits:
                call = _kernel_call(term, x_TD, parts, layout if dropping else None)
                of.hidden = keep(call.forward(y))
                of.call = call if trained else replace(call, x_TD=None)
            elif "A" in term.parts and number not in together:
                x = x_TD[term.rows]
                if dropping:
                    dropout = layout.dropout
                    keys = (
                        dropout.shared_keys(term.site, x.shape[:1])
                        if term.shared
                        else dropout.keys(term.site, term.rows)
                    )
                    bits = keep_mask(keys, x.shape[1], term.dropout)
                    x = apply_mask(x, bits, term.dropout)
                    of.dropped, of.mask = keep(x) if trained else None, keep(bits)
                low = x @ cast[term.parts["A"]].T
                of.hidden = keep(low)
                y.add_(low @ cast[term.parts["B"]].T, alpha=term.scale)
            if "hidden" in term.parts:
                low = cast[term.parts["hidden"]] * cast[term.parts["rank_scale"]]
                unscaled = low @ cast[term.parts["B"]].T
                of.unscaled = keep(unscaled)
                y.addcmul_(unscaled, cast[term.parts["term_scale"]], value=term.scale)
            if "delta" in term.parts:
                y.addmm_(x_TD[term.rows], cast[term.parts["delta"]].T)
            if "out_scale" in term.parts:
                of.scaled = keep(y.clone())
                y.mul_(cast[term.parts["out_scale"]])
            if bias_later and bias_O is not None:
                y.add_(bias_O)
                covered.append(term.rows)
            if "bias" in term.parts:
                y.add_(cast[term.parts["bias"]])
        if bias_later and bias_O is not None:
            for rows in _gaps(covered, y_TO.shape[0]):
                y_TO[rows].add_(bias_O)
        ctx.save_for_backward(*saved)
        ctx.terms, ctx.kept, ctx.groups, ctx.num_parts = terms, kept, groups, len(parts)
        ctx.dtypes = [part.dtype for part in parts]
        ctx.again = again
        return y_TO

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_TO,) = grads
        saved = ctx.saved_tensors
        x_TD = saved[0]
        cast = saved[2 : 2 + ctx.num_parts]
        out: list[Tensor | None] = [None] * ctx.num_parts
        inner_TO = grad_TO
        if any("out_scale" in term.parts for term in ctx.terms):
            inner_TO = grad_TO.clone()
        low_grads: list[Tensor | None] = []
        together = {number for group in ctx.groups for number in group.terms}
        for number, (term, of) in enumerate(zip(ctx.terms, ctx.kept, strict=True)):
            grad = grad_TO[term.rows]
            if "bias" in term.parts:
                out[term.parts["bias"]] = grad.sum(0)
            if "out_scale" in term.parts:
                out[term.parts["out_scale"]] = (grad * saved[of.scaled]).sum(0)
                inner_TO[term.rows] *= cast[term.parts["out_scale"]]
                grad = inner_TO[term.rows]
            if "delta" in term.parts and ctx.needs_input_grad[_FIRST_PART + term.parts["delta"]]:
                out[term.parts["delta"]] = grad.T @ x_TD[term.rows]
            if "hidden" in term.parts:
                grad_v = grad * saved[of.unscaled]
                low_grad = (grad * cast[term.parts["term_scale"]]) @ cast[term.parts["B"]]
                grad_u = low_grad * cast[term.parts["hidden"]]
                out[term.parts["term_scale"]] = grad_v.sum(0).mul_(term.scale)
                out[term.parts["rank_scale"]] = grad_u.sum(0).mul_(term.scale)
                out[term.parts["hidden"]] = low_grad.mul_(cast[term.parts["rank_scale"]]).mul_(term.scale)
            if "A" not in term.parts or of.call is not None or number in together:
                low_grads.append(None)
                continue
            low_grad = (grad @ cast[term.parts["B"]]).mul_(term.scale)
            low_grads.append(low_grad)
            if ctx.needs_input_grad[_FIRST_PART + term.parts["A"]]:
                x = x_TD[term.rows] if of.dropped is None else saved[of.dropped]
                out[term.parts["A"]] = low_grad.T @ x
            if ctx.needs_input_grad[_FIRST_PART + term.parts["B"]]:
                out[term.parts["B"]] = (grad.T @ saved[of.hidden]).mul_(term.scale)
        grad_x = None
        scales_input = any("in_scale" in term.parts for term in ctx.terms)
        if ctx.needs_input_grad[0] or scales_input:
            grad_x = inner_TO @ (saved[1] if ctx.again is None else ctx.again())
        if grad_x is not None:
            for term, low_grad, of in zip(ctx.terms, low_grads, ctx.kept, strict=True):
                rows = grad_x[term.rows]
                if "in_scale" in term.parts:
                    out[term.parts["in_scale"]] = (rows * x_TD[term.rows]).sum(0)
                    rows.mul_(cast[term.parts["in_scale"]])
                if "delta" in term.parts:
                    rows.addmm_(inner_TO[term.rows], cast[term.parts["delta"]])
                if low_grad is not None:
                    back = low_grad @ cast[term.parts["A"]]
                    rows.add_(back if of.mask is None else apply_mask(back, saved[of.mask], term.dropout))
        for term, of in zip(ctx.terms, ctx.kept, strict=True):
            if of.call is not None:
                places = term.parts["A"], term.parts["B"]
                trains = ctx.needs_input_grad[_FIRST_PART + places[0]], ctx.needs_input_grad[_FIRST_PART + places[1]]
                into = None if grad_x is None else grad_x[term.rows]
                grad = inner_TO[term.rows].contiguous()
                out[places[0]], out[places[1]] = of.call.backward(saved[of.hidden], grad, trains, into)
        for group in ctx.groups:
            x, mask = (None if place is None else saved[place] for place in (group.x, group.mask))
            back = GroupKept(x_NLD=x, mask_NLD=mask, low_NLR=saved[group.hidden])
            stacked = group.call.backward(
                back, x_TD, saved[group.A], saved[group.B], inner_TO, grad_x, trains_A=group.trains_A
            )
            for name, grads_N in zip(("A", "B"), stacked, strict=True):
                places = [ctx.terms[number].parts[name] for number in group.terms]
                if grads_N is not None and ctx.needs_input_grad[_FIRST_PART + places[0]]:
                    for place, grad in zip(places, grads_N.to(ctx.dtypes[places[0]]), strict=True):
                        out[place] = grad
        given = (None if grad is None else grad.to(dtype) for grad, dtype in zip(out, ctx.dtypes, strict=True))
        return (grad_x, None, None, None, None, None, *given)


def grouped(x_TD: Tensor) -> bool:
    """Whether terms of one shape are computed together: a CPU has kernels for each, a GPU waits for launches."""
    return x_TD.device.type != "cpu"


def _alike(terms: Sequence[_Term], parts: Sequence[Tensor], trained: Sequence[bool]) -> list[tuple[int, ...]]:
    """Terms that can be stacked, as their numbers, in groups of two or more; `trained` says it of every part."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, term in enumerate(terms):
        if "A" in term.parts and not term.shared:
            A, B = term.parts["A"], term.parts["B"]
            shape = parts[A].shape, parts[A].dtype, parts[B].dtype, trained[A], trained[B], term.dropout, term.site
            groups.setdefault(shape, []).append(number)
    return [tuple(members) for members in groups.values() if len(members) > 1]


def _fits_kernel(term: _Term, parts: Sequence[Tensor]) -> bool:
    if "A" not in term.parts or term.shared:
        return False
    A, B = parts[term.parts["A"]], parts[term.parts["B"]]
    return A.shape[0] <= NATIVE_RANK and A.dtype == B.dtype == torch.float32


def _kernel_call(term: _Term, x_TD: Tensor, parts: Sequence[Tensor], layout: Layout | None) -> kernels.LowRankCall:
    """The term as a call of the compiled kernel; `layout` only where its dropout is on."""
    drop = None
    if layout is not None:
        counters = pair_counters(x_TD.shape[1], x_TD.device)
        drop = layout.dropout.draw(term.site, term.dropout, counters, term.rows)
    return kernels.LowRankCall(
        x_TD=x_TD[term.rows],
        A_RD=parts[term.parts["A"]].detach().contiguous(),
        B_OR=parts[term.parts["B"]].detach().contiguous(),
        scaling=term.scale,
        drop=drop,
    )


def _gaps(covered: Sequence[slice], num_rows: int) -> list[slice]:
    gaps: list[slice] = []
    at = 0
    for rows in sorted(covered, key=lambda part: part.start):
        if rows.start > at:
            gaps.append(slice(at, rows.start))
        at = rows.stop
    if at < num_rows:
        gaps.append(slice(at, num_rows))
    return gaps


def changed_linear(
    x_TD: Tensor,
    weight_OD: Tensor,
    bias_O: Tensor | None,
    changes: Sequence[LaneChange],
    layout: Layout,
    again: Callable[[], Tensor] | None = None,
) -> Tensor:
    """A frozen linear layer with the changes of some lanes.

    Args:
        x_TD: (T, D) rows of all lanes.
        weight_OD: (O, D) frozen.
        bias_O: (O,) frozen, or None.
        changes: at most one per lane, rows disjoint.
        layout: the pass.
        again: makes the weight anew for the backward pass, where it must not be kept until then.

    Returns:
        (T, O).
    """
    terms: list[_Term] = []
    parts: list[Tensor] = []
    hidden = _products_apart(x_TD, changes, layout)
    for number, lane in enumerate(changes):
        index: dict[str, int] = {}
        change = lane.change if number in hidden else lane.change.folded()
        values = {name: getattr(change, name) for name in _PARTS}
        if number in hidden:
            del values["A"]
            values["hidden"] = hidden[number]
        for name, value in values.items():
            if value is not None:
                index[name] = len(parts)
                parts.append(value)
        terms.append(
            _Term(
                rows=lane.rows,
                parts=index,
                scale=change.scale,
                dropout=change.dropout,
                site=lane.dropout_site,
                shared=lane.shared,
            )
        )
    return _ChangedLinear.apply(x_TD, weight_OD, bias_O, terms, layout, again, *parts)


def _products_apart(x_TD: Tensor, changes: Sequence[LaneChange], layout: Layout) -> dict[int, Tensor]:
    """Products with the frozen A of lanes whose vectors stay outside of their matrices, by the lanes' places.

    Not where a product is cheap beside its launch, in ranks of the compiled kernel, and under masks of its own.
    """
    apart: dict[int, Tensor] = {}
    for number, lane in enumerate(changes):
        change = lane.change
        if change.rank_scale is None or change.A is None or lane.shared or grouped(x_TD):
            continue
        if change.A.shape[0] > NATIVE_RANK and not (layout.training and change.dropout > 0):
            apart[number] = change.A
    if not apart:
        return {}
    low = layout.products.of(x_TD, [changes[number].rows for number in apart], list(apart.values()))
    return dict(zip(apart, low, strict=True))


def widen(change: LinearChange, columns: Tensor, out_features: int) -> LinearChange:
    """A change of some output columns of a fused projection, as a change of the whole.

    Args:
        change: of the block.
        columns: (O_block,) which output features the block holds.
        out_features: of the whole projection.
    """
    assert change.in_scale is None, "a block of a fused projection cannot scale the input of the others"
    change = change.folded()

    def spread(value: Tensor | None, fill: float) -> Tensor | None:
        if value is None:
            return None
        whole = value.new_full((out_features, *value.shape[1:]), fill)
        return whole.index_copy(0, columns, value)

    return replace(
        change,
        B=spread(change.B, 0.0),
        delta=spread(change.delta, 0.0),
        out_scale=spread(change.out_scale, 1.0),
        bias=spread(change.bias, 0.0),
    )
