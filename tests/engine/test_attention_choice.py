"""Which computation answers an attention call, and that all of them compute the same."""

import itertools
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from remora.cli.checks import check_attention
from remora.engine import attention, attention_choice
from remora.engine.attention import attend
from remora.engine.attention_choice import Choice, Computation, Flash, choose, flash_here
from tests.engine.test_attention import LENGTHS, RULES, explicit, layout_of, tensors

BOTH, NONE = Flash(varlen=True, package=True), Flash(varlen=False, package=False)
CALL: dict[str, Any] = {
    "device_type": "cuda",
    "dtype": torch.bfloat16,
    "features": (64, 64),
    "longest": 64,
    "softcap": False,
    "dropping": False,
    "native": False,
    "flash": BOTH,
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "varlen"),
        ({"dtype": torch.float16, "longest": 5000}, "varlen"),
        ({"softcap": True}, "flash-attn"),
        ({"flash": Flash(varlen=False, package=True)}, "flash-attn"),
        ({"flash": NONE}, "buckets"),
        ({"dtype": torch.float32}, "buckets"),
        ({"features": (64, 32)}, "buckets"),
        ({"features": (20, 20)}, "buckets"),
        ({"features": (512, 512)}, "buckets"),
        ({"softcap": True, "flash": Flash(varlen=True, package=False)}, "products"),
        ({"softcap": True, "dtype": torch.float32}, "products"),
        ({"dropping": True}, "products"),
        ({"device_type": "cpu", "native": True}, "kernel"),
        ({"device_type": "cpu", "native": True, "dropping": True, "softcap": True}, "kernel"),
        ({"device_type": "cpu", "native": True, "longest": 129}, "products"),
        ({"device_type": "cpu", "native": True, "features": (64, 32)}, "products"),
        ({"device_type": "cpu"}, "products"),
    ],
)
def test_the_choice(changed: dict[str, Any], expected: Computation) -> None:
    choice = choose(**{**CALL, **changed})
    assert choice.computation == expected
    assert choice.reason


def test_flash_attention_needs_a_device_of_capability_8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flash_here(torch.device("cpu")) == NONE
    capability = {0: (7, 5), 1: (8, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[device.index])
    monkeypatch.setattr(attention_choice.importlib.util, "find_spec", lambda name: object())
    flash_here.cache_clear()
    assert flash_here(torch.device("cuda", 0)) == NONE
    assert flash_here(torch.device("cuda", 1)) == BOTH
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, is_causal: None)
    flash_here.cache_clear()
    assert not flash_here(torch.device("cuda", 1)).varlen, "an older one that knows no windows"
    flash_here.cache_clear()


def naive_sequences(
    q: Tensor, k: Tensor, v: Tensor, scale: float, window: tuple[int, int], softcap: float, joints: Tensor
) -> Tensor:
    """Attention by the documented meaning of flash attention's arguments."""
    groups = q.shape[1] // k.shape[1]
    out: list[Tensor] = []
    bounds = joints.tolist()
    for start, stop in itertools.pairwise(bounds):
        keys, values = (x[start:stop].repeat_interleave(groups, 1) for x in (k, v))
        scores = torch.einsum("ihf,jhf->hij", q[start:stop], keys) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        i = torch.arange(stop - start)
        ahead = i[None, :] - i[:, None]
        allowed = (ahead <= (window[1] if window[1] >= 0 else stop)) & (
            -ahead <= (window[0] if window[0] >= 0 else stop)
        )
        out.append(torch.einsum("hij,jhf->ihf", scores.masked_fill(~allowed, -torch.inf).softmax(-1), values))
    return torch.cat(out)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two implementations that need a GPU, written out."""

    def varlen_attn(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, most: int, other: int, **given: Any):
        assert begin.dtype == torch.int32
        assert begin is end
        assert most == other == max(LENGTHS)
        assert given["enable_gqa"] == (q.shape[1] != k.shape[1])
        return naive_sequences(q, k, v, given["scale"], given["window_size"], 0.0, begin)

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, *longest: int, **given: Any
    ):
        assert longest == (max(LENGTHS), max(LENGTHS))
        assert given["causal"] == (given["window_size"][1] == 0)
        return naive_sequences(q, k, v, given["softmax_scale"], given["window_size"], given["softcap"], begin)

    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)
    package = SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func)
    monkeypatch.setitem(sys.modules, "flash_attn", package)  # type: ignore[arg-type]


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(("num_heads", "num_kv"), [(4, 4), (4, 2)])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("computation", ["varlen", "flash-attn", "buckets"])
def test_fused_computations_are_the_written_out_one(
    computation: Computation, name: str, num_heads: int, num_kv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = RULES[name]
    if rule.softcap is not None and computation != "flash-attn":
        pytest.skip("never chosen where scores are capped")
    monkeypatch.setattr(attention, "choose", lambda **_: Choice(computation, "wanted here"))
    given = tensors(num_heads, num_kv)
    pull = torch.randn(sum(LENGTHS), num_heads, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results: list[tuple[Tensor, ...]] = []
    for function in (lambda q, k, v: attend(q, k, v, layout_of(LENGTHS), rule, "a"), lambda *x: explicit(*x, rule)):
        out = function(*given)
        results.append((out, *torch.autograd.grad((out * pull).sum(), given)))
    for mine, naive in zip(*results, strict=True):
        torch.testing.assert_close(mine, naive, rtol=1e-10, atol=1e-10)


def test_a_sequence_full_of_nan_stays_alone_in_its_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "choose", lambda **_: Choice("buckets", "wanted here"))
    clean = tensors(2, 2)
    bad = [value.detach().clone() for value in clean]
    rows = slice(1, 8)  # the second sequence, which shares a bucket with the third
    for value in bad:
        value[rows] = torch.nan
    others = torch.ones(sum(LENGTHS), dtype=torch.bool)
    others[rows] = False
    results: list[tuple[Tensor, ...]] = []
    for given in (clean, [value.requires_grad_() for value in bad]):
        out = attend(*given, layout_of(LENGTHS), RULES["plain"], "a")
        results.append((out, *torch.autograd.grad(out.nan_to_num().sum(), given)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one[others], other[others])


def test_the_doctor_says_how_attention_is_computed() -> None:
    check = check_attention()
    assert check.verdict == "ok"
    assert check.found.split(" (")[0] in ("kernel", "products", "varlen", "flash-attn", "buckets")
