"""Dropout whose masks are keyed by (trial seed, step, site, call index, sequence, position), never by neighbours.

torch's own dropout draws from one global serial stream, so a mask would depend on what else is in the pass, and on CPU
it takes a third of a training step. Here 16 bits per element come from a hash of the row's key and the feature number.
"""

from functools import cache

import torch
from torch import Tensor
from torch.autograd import Function

from remora.engine.hashing import feature_counters, mix_torch, random_bits, signed32
from remora.native import kernels
from remora.seeds import fold

_INT_OF = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_LEVELS = 1 << 15


@cache
def _counters(num: int, device: torch.device) -> Tensor:
    return feature_counters(num, device)


def pair_counters(num_features: int, device: torch.device) -> Tensor:
    """Numbers of the pairs of features of a row."""
    return _counters((num_features + 1) // 2, device)


@cache
def site_key(name: str, call: int) -> int:
    """A signed 32-bit constant for a dropout site and the number of its call within one forward pass."""
    return signed32(fold(call, "dropout-site", name))


def keep_mask(keys: Tensor, num_features: int, rate: float, counters: Tensor | None = None) -> Tensor:
    """An int16 mask (..., num_features): -1 (all bits set) keeps, 0 drops.

    Args:
        keys: (...,) int32, one per row.
        num_features: elements per row.
        rate: probability of dropping; rounded to a multiple of 2**-15.
        counters: int32 numbers of pairs of features, broadcastable to (..., num_features / 2); default 0, 1, ...
    """
    if counters is None:
        counters = pair_counters(num_features, keys.device)
    words = random_bits(keys[..., None], counters)
    bits = words.view(torch.int16)
    bits.bitwise_and_(_LEVELS - 1).sub_(round(rate * _LEVELS)).bitwise_right_shift_(15).bitwise_not_()
    return bits if bits.shape[-1] == num_features else bits[..., :num_features].contiguous()


def apply_mask(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """``x * keep / (1 - rate)``, mask int16 of x's shape; a dropped element is exactly 0 even where x is NaN."""
    ints = _INT_OF[x.element_size()]
    kept = x.contiguous().view(ints) & (mask if ints is torch.int16 else mask.to(ints))
    return kept.view(x.dtype).mul_(1 / (1 - round(rate * _LEVELS) / _LEVELS))


class _Dropout(Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, rate: float) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(mask)
        ctx.rate = rate
        return apply_mask(x, mask, rate)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (mask,) = ctx.saved_tensors
        return apply_mask(grad, mask, ctx.rate), None, None


class _NativeDropout(Function):
    """As `_Dropout`, by the compiled kernel: the mask is drawn again in the backward pass instead of being kept."""

    @staticmethod
    def forward(ctx, x_TD: Tensor, draw: kernels.Drop) -> Tensor:  # type: ignore[override]
        ctx.draw = draw
        return kernels.drop_rows(x_TD, draw)

    @staticmethod
    def backward(ctx, grad_TD: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return kernels.drop_rows(grad_TD.contiguous(), ctx.draw), None


class DropoutKeys:
    """The row keys of one pass and the calls counted so far.

    Args:
        keys_T: (T,) int32 key per row of the pass, in the pass's row order.
        exempt_T: (T,) bool, True on rows of lanes that train without base dropout; None when no lane does.
        lane_key: of the pass's only lane, where the model also drops elements of tensors without rows.
    """

    def __init__(self, keys_T: Tensor, exempt_T: Tensor | None, lane_key: int = 0) -> None:
        self._keys_T = keys_T
        self._lane_key = signed32(lane_key)
        self._exempt_T = exempt_T
        self._calls: dict[str, int] = {}

    def narrowed(self, rows: Tensor) -> "DropoutKeys":
        """The keys of some rows; calls go on being counted together."""
        exempt = None if self._exempt_T is None else self._exempt_T[rows]
        keys = DropoutKeys(self._keys_T[rows], exempt, self._lane_key)
        keys._calls = self._calls
        return keys

    def site(self, name: str) -> int:
        """The constant for this call of a dropout site; counts the call."""
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return site_key(name, call)

    def keys(self, site: int, rows: Tensor | slice | None = None) -> Tensor:
        """Row keys mixed with a site's constant, for all rows or some."""
        keys = self._keys_T if rows is None else self._keys_T[rows]
        return mix_torch(keys ^ site)

    def draw(
        self, site: int, rate: float, counters: Tensor, rows: slice | None = None, *, exempt: bool = False
    ) -> kernels.Drop:
        """The same masks as `keys` and `keep_mask` give, as a compiled kernel draws them.

        Args:
            site: constant of the call.
            rate: probability of dropping.
            counters: numbers of pairs of elements.
            rows: of the pass; default all.
            exempt: whether lanes without base dropout are left alone.
        """
        level = round(rate * _LEVELS)
        return kernels.Drop(
            keys_T=self._keys_T if rows is None else self._keys_T[rows],
            site=site,
            counters=counters,
            level=level,
            scale=1 / (1 - level / _LEVELS),
            exempt_T=self._exempt_T if exempt else None,
        )

    def shared_keys(self, site: int, shape: torch.Size) -> Tensor:
        """Keys for a tensor that belongs to no row (DeBERTa's relative embeddings) in a pass of one lane.

        They come from the lane's key alone, so that micro-batches of one step see the same mask.
        """
        start = mix_torch(torch.full((1,), self._lane_key ^ site, dtype=torch.int32, device=self._keys_T.device))
        return mix_torch(_counters(shape.numel(), self._keys_T.device) ^ start).view(shape)

    def exempt(self, rows: Tensor | None = None) -> Tensor | None:
        """(T,) or rows' shape, True on rows of lanes without base dropout; None when every lane has it."""
        if self._exempt_T is None:
            return None
        return self._exempt_T if rows is None else self._exempt_T[rows]

    def hidden(self, x: Tensor, name: str, rate: float) -> Tensor:
        """The base's own dropout on hidden states (1, T, D) or (B, L, D)."""
        features = x.shape[-1]
        flat = x.reshape(-1, features)
        if flat.shape[0] != self._keys_T.shape[0]:
            raise AssertionError(f"dropout {name} met {flat.shape[0]} rows, the pass has {self._keys_T.shape[0]}")
        site = self.site(name)
        if kernels.usable(flat):
            drawn = self.draw(site, rate, pair_counters(features, flat.device), exempt=True)
            return _NativeDropout.apply(flat.contiguous(), drawn).view(x.shape)
        y = drop(flat, keep_mask(self.keys(site), features, rate), rate)
        if self._exempt_T is not None:
            y = torch.where(self._exempt_T[:, None], flat, y)
        return y.view(x.shape)

    def picked(self, x_ND: Tensor, name: str, rate: float, rows_N: Tensor) -> Tensor:
        """Drop elements of picked rows (a head's input) under the keys of the rows they come from."""
        mask = keep_mask(self.keys(site_key(name, 0), rows_N), x_ND.shape[-1], rate)
        return drop(x_ND, mask, rate)


def drop(x: Tensor, mask: Tensor, rate: float) -> Tensor:
    """Differentiable dropout under a given int16 mask of x's shape."""
    return _Dropout.apply(x, mask, rate)
