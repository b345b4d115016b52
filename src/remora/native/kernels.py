"""The C kernels as functions on tensors. Ask `usable(x)` first; without a library everything runs in torch operations.

``REMORA_NATIVE=0`` switches them off. Kernels are single-threaded: parallel work is parallel trials.

T rows of a pass, H heads, K key-value heads, F head features, D and O features of a linear layer, R rank.
"""

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from remora.native.build import NotBuiltError, library_path

_TYPES = {torch.float32: "float", torch.bfloat16: "bf16"}
_HALF_VEC = 8
ACTIVATIONS = ("gelu", "gelu_tanh", "silu")

_p, _i64, _i32, _f = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float


class _Dropout(ctypes.Structure):
    _fields_ = (("keys", _p), ("counters", _p), ("exempt", _p), ("site", _i32), ("level", _i32), ("scale", _f))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _p) for name in ("q", "k", "v")),
        *((name, _i64) for name in ("q_row", "q_head", "k_row", "k_head", "v_row", "v_head")),
        *((name, _i64) for name in ("heads", "kv_heads", "features")),
        ("starts", _p),
        ("lengths", _p),
        ("sequences", _i64),
        ("scaling", _f),
        ("softcap", _f),
        ("window", _i64),
        ("causal", _i32),
        ("half", _i32),
        ("dropout", _Dropout),
    )


class _LowRank(ctypes.Structure):
    _fields_ = (
        *((name, _p) for name in ("x", "A", "B")),
        *((name, _i64) for name in ("rows", "D", "O", "R")),
        ("scaling", _f),
        ("dropout", _Dropout),
    )


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(ACTIVATIONS, (_p, _p, _i64)),
    **{f"{name}_back": (_p, _p, _p, _i64) for name in ACTIVATIONS},
    "drop": (_p, _p, _i64, _i64, _p, _i32, _p, _p, _i32, _f),
    "dequantise": (_p, _p, _p, _i64, _i64, _p),
    "attend": (_p, _p, _p),
    "attend_back": (_p, _p, _p, _p, _p, _p),
    "low_rank": (_p, _p, _p),
    "low_rank_back": (_p, _p, _p, _p, _p, _p),
}


_Kernel = Callable[..., int | None]


@cache
def _library() -> tuple[dict[str, _Kernel] | None, str]:
    """The functions of the library by name, or None and why not."""
    if os.environ.get("REMORA_NATIVE", "1") == "0":
        return None, "switched off by REMORA_NATIVE=0"
    try:
        path = library_path()
        library = ctypes.CDLL(str(path))
    except (NotBuiltError, OSError) as error:
        return None, str(error)
    functions: dict[str, _Kernel] = {}
    for name, arguments in _SIGNATURES.items():
        for type_name in _TYPES.values():
            function = library[f"{name}_{type_name}"]
            function.argtypes = arguments
            function.restype = None if name.removesuffix("_back") in ACTIVATIONS else ctypes.c_int
            functions[f"{name}_{type_name}"] = function
    return functions, path.name


def status() -> tuple[bool, str]:
    """Whether there is a library, and its file name or the reason why not."""
    functions, text = _library()
    return functions is not None, text


def usable(x: Tensor) -> bool:
    """Whether kernels take this tensor: on CPU, float32 or bfloat16, and there is a library."""
    return x.device.type == "cpu" and usable_type(x.dtype)


def usable_type(dtype: torch.dtype) -> bool:
    """Whether kernels take tensors of this type that are on the CPU."""
    return dtype in _TYPES and _library()[0] is not None


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    functions, _ = _library()
    assert functions is not None
    if functions[f"{name}_{_TYPES[dtype]}"](*arguments):
        raise RuntimeError(f"not enough memory for {name}")


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A dropout of rows, as in `remora.engine.dropout.keep_mask`.

    Args:
        keys_T: (T,) int32 row keys, not yet mixed with the site.
        site: constant of the call.
        counters: int32 numbers of pairs of elements, see `random_bits`.
        level: an element is kept when its 15 bits are at least this; 0 for no dropout.
        scale: of kept elements.
        exempt_T: (T,) bool rows left alone, or None.
    """

    keys_T: Tensor
    site: int
    counters: Tensor
    level: int
    scale: float
    exempt_T: Tensor | None = None

    def structure(self) -> ctypes.Structure:
        """As the kernels take it."""
        return _Dropout(
            keys=self.keys_T.data_ptr(),
            counters=self.counters.data_ptr(),
            exempt=None if self.exempt_T is None else self.exempt_T.data_ptr(),
            site=self.site,
            level=self.level,
            scale=self.scale,
        )


def activation(name: str, x: Tensor) -> Tensor:
    """``gelu``, ``gelu_tanh`` or ``silu`` of a contiguous tensor."""
    y = torch.empty_like(x)
    _call(name, x.dtype, x.data_ptr(), y.data_ptr(), x.numel())
    return y


def activation_back(name: str, x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of `activation` for contiguous `x` and `grad`."""
    out = torch.empty_like(x)
    _call(f"{name}_back", x.dtype, x.data_ptr(), grad.data_ptr(), out.data_ptr(), x.numel())
    return out


def drop_rows(x_TD: Tensor, drop: Drop) -> Tensor:
    """Dropout of contiguous rows; its own gradient, as the elements dropped depend on keys alone."""
    y = torch.empty_like(x_TD)
    exempt = None if drop.exempt_T is None else drop.exempt_T.data_ptr()
    _call(
        "drop",
        x_TD.dtype,
        x_TD.data_ptr(),
        y.data_ptr(),
        x_TD.shape[0],
        x_TD.shape[1],
        drop.keys_T.data_ptr(),
        drop.site,
        drop.counters.data_ptr(),
        exempt,
        drop.level,
        drop.scale,
    )
    return y


def dequantise(codes: Tensor, scales: Tensor, levels: Tensor, num: int, block: int, dtype: torch.dtype) -> Tensor:
    """(num,) numbers from their 4-bit codes.

    Args:
        codes: (num / 2,) uint8, two per byte, the first in the high bits.
        scales: (num / block,) float32.
        levels: (16,) float32.
        num: how many.
        block: numbers that share a scale, an even number.
        dtype: of the result.
    """
    y = torch.empty(num, dtype=dtype)
    _call("dequantise", dtype, codes.data_ptr(), scales.data_ptr(), levels.data_ptr(), num, block, y.data_ptr())
    return y


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """Attention within sequences.

    Args:
        q_THF, k_TKF, v_TKF: features contiguous.
        starts_S, lengths_S: int64, first row and number of rows of each sequence.
        scaling, softcap, window, causal: see `remora.engine.attention.AttentionRule`.
        drop: of the probabilities; `counters` are (H, half), two key positions each, for
            a length rounded up to 16. None for no dropout.
    """

    q_THF: Tensor
    k_TKF: Tensor
    v_TKF: Tensor
    starts_S: Tensor
    lengths_S: Tensor
    scaling: float
    softcap: float | None
    window: int | None
    causal: bool
    drop: Drop | None

    def structure(self) -> ctypes.Structure:
        """As the kernels take it."""
        q, k, v = self.q_THF, self.k_TKF, self.v_TKF
        return _Attention(
            q=q.data_ptr(),
            k=k.data_ptr(),
            v=v.data_ptr(),
            q_row=q.stride(0),
            q_head=q.stride(1),
            k_row=k.stride(0),
            k_head=k.stride(1),
            v_row=v.stride(0),
            v_head=v.stride(1),
            heads=q.shape[1],
            kv_heads=k.shape[1],
            features=q.shape[2],
            starts=self.starts_S.data_ptr(),
            lengths=self.lengths_S.data_ptr(),
            sequences=self.starts_S.shape[0],
            scaling=self.scaling,
            softcap=self.softcap or 0.0,
            window=self.window or 0,
            causal=int(self.causal),
            half=0 if self.drop is None else self.drop.counters.shape[-1],
            dropout=_Dropout() if self.drop is None else self.drop.structure(),
        )

    def forward(self, out_THF: Tensor, stats_TH2: Tensor) -> None:
        """Write the rows of the call's sequences into `out_THF`, and what `backward` needs into `stats_TH2`."""
        _call("attend", out_THF.dtype, ctypes.byref(self.structure()), out_THF.data_ptr(), stats_TH2.data_ptr())

    def backward(
        self, stats_TH2: Tensor, grad_THF: Tensor, dq: Tensor | None, dk: Tensor | None, dv: Tensor | None
    ) -> None:
        """Write the gradients of the call's rows into those tensors that are given, all contiguous."""
        out = (None if each is None else each.data_ptr() for each in (dq, dk, dv))
        structure = ctypes.byref(self.structure())
        _call("attend_back", grad_THF.dtype, structure, stats_TH2.data_ptr(), grad_THF.data_ptr(), *out)


@dataclass(frozen=True, kw_only=True)
class LowRankCall:
    """``s B A drop(x)`` for rows of one lane.

    Args:
        x_TD: contiguous rows; None in a backward pass that does not train A.
        A_RD, B_OR: float32, contiguous.
        scaling: s.
        drop: or None.
    """

    x_TD: Tensor | None
    A_RD: Tensor
    B_OR: Tensor
    scaling: float
    drop: Drop | None

    def structure(self, num_rows: int) -> ctypes.Structure:
        """As the kernels take it, for so many rows."""
        rank, features = self.A_RD.shape
        return _LowRank(
            x=None if self.x_TD is None else self.x_TD.data_ptr(),
            A=self.A_RD.data_ptr(),
            B=self.B_OR.data_ptr(),
            rows=num_rows,
            D=features,
            O=self.B_OR.shape[0],
            R=rank,
            scaling=self.scaling,
            dropout=_Dropout() if self.drop is None else self.drop.structure(),
        )

    def forward(self, y_TO: Tensor) -> Tensor:
        """Add the term to contiguous `y_TO`; returns (T, R rounded up) float32, which `backward` needs."""
        assert self.x_TD is not None
        num_rows, rank = y_TO.shape[0], self.A_RD.shape[0]
        hidden = torch.empty(num_rows, -(-rank // _HALF_VEC) * _HALF_VEC, dtype=torch.float32)
        _call("low_rank", y_TO.dtype, ctypes.byref(self.structure(num_rows)), y_TO.data_ptr(), hidden.data_ptr())
        return hidden

    def backward(
        self, hidden: Tensor, grad_TO: Tensor, trains: tuple[bool, bool], dx_TD: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of A and B where `trains` says so; the input's is added to `dx_TD`. All tensors contiguous."""
        dA = torch.empty_like(self.A_RD) if trains[0] else None
        dB = torch.empty_like(self.B_OR) if trains[1] else None
        out = (None if each is None else each.data_ptr() for each in (dA, dB, dx_TD))
        structure = ctypes.byref(self.structure(grad_TO.shape[0]))
        _call("low_rank_back", grad_TO.dtype, structure, hidden.data_ptr(), grad_TO.data_ptr(), *out)
        return dA, dB
