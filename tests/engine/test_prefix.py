"""Keys and values that lanes bring to attention, against attention written out per sequence, in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine.attention import AttentionRule, attend, attend_with_prefixes
from remora.engine.layout import LaneBatch, Layout, build_layout

LANES = ((4, 1, 9), (6,), (3, 3))
NUM_PREFIX = (3, 0, 5)
HEADS, KV_HEADS, FEATURES = 4, 2, 4


def lane(number: int, *, prefix: bool = True) -> LaneBatch:
    lengths = LANES[number]
    return LaneBatch(
        ids=[np.full(length, 7, np.int64) for length in lengths],
        type_ids=[np.zeros(length, np.int64) for length in lengths],
        index=range(len(lengths)),
        num_prefix=NUM_PREFIX[number] if prefix else 0,
        dropout_key=number,
    )


def layout_of(*lanes: LaneBatch, training: bool = False, offset: int = 0, kind: str = "packed") -> Layout:
    return build_layout(
        lanes,
        kind=kind,  # type: ignore[arg-type]
        position_offset=offset,
        pad_id=0,
        training=training,
        device=torch.device("cpu"),
    )


def drawn(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).mul_(2).requires_grad_()


def rows(num_rows: int) -> list[Tensor]:
    return [drawn(num_rows, heads, FEATURES, seed=seed) for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS))]


def prefixes() -> dict[int, tuple[Tensor, Tensor]]:
    """The same for all sequences of the first lane, one per sequence in the last."""
    shapes = {0: (NUM_PREFIX[0], KV_HEADS, FEATURES), 2: (len(LANES[2]), NUM_PREFIX[2], KV_HEADS, FEATURES)}
    return {
        number: (drawn(*shape, seed=7 + number), drawn(*shape, seed=17 + number)) for number, shape in shapes.items()
    }


def explicit(q: Tensor, k: Tensor, v: Tensor, given: dict[int, tuple[Tensor, Tensor]], rule: AttentionRule) -> Tensor:
    out: list[Tensor] = []
    start = 0
    for number, lengths in enumerate(LANES):
        for sequence, length in enumerate(lengths):
            own = slice(start, start + length)
            keys, values, n = k[own], v[own], NUM_PREFIX[number]
            if n:
                extra = [part if part.ndim == 3 else part[sequence] for part in given[number]]
                keys, values = torch.cat([extra[0], keys]), torch.cat([extra[1], values])
            heads: list[Tensor] = []
            for head in range(HEADS):
                scores = q[own, head] @ keys[:, head // (HEADS // KV_HEADS)].T * rule.scaling
                if rule.softcap is not None:
                    scores = rule.softcap * torch.tanh(scores / rule.softcap)
                distance = n + torch.arange(length)[:, None] - torch.arange(n + length)[None]
                hidden = torch.zeros_like(scores, dtype=torch.bool)
                if rule.causal:
                    hidden |= distance < 0
                if rule.window is not None:
                    hidden |= distance.abs() >= rule.window
                probs = scores.masked_fill(hidden, -math.inf).softmax(-1)
                heads.append(probs @ values[:, head // (HEADS // KV_HEADS)])
            out.append(torch.stack(heads, 1))
            start += length
    return torch.cat(out)


RULES = {
    "plain": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=None, causal=False),
    "causal": AttentionRule(scaling=0.5, dropout=0.0, softcap=None, window=None, causal=True),
    "everything": AttentionRule(scaling=0.7, dropout=0.0, softcap=2.0, window=5, causal=True),
}


@pytest.mark.parametrize("name", RULES)
def test_forward_and_gradients(name: str) -> None:
    layout = layout_of(*(lane(number) for number in range(3)))
    qkv, given = rows(layout.num_rows), prefixes()
    leaves = [*qkv, *given[0], *given[2]]
    weights = drawn(layout.num_rows, HEADS, FEATURES, seed=9).detach()
    results: list[list[Tensor]] = []
    for out in (
        attend_with_prefixes(*qkv, given, layout, RULES[name], "a"),
        explicit(*qkv, given, RULES[name]),
    ):
        results.append([out, *torch.autograd.grad((out * weights).sum(), leaves)])
    for mine, naive in zip(*results, strict=True):
        torch.testing.assert_close(mine, naive, rtol=1e-10, atol=1e-10)
    assert float((results[0][0] - attend(*qkv, layout, RULES[name], "a")).abs().max().detach()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lanes_keep_their_numbers_and_masks_beside_others(dtype: torch.dtype) -> None:
    """Alone or beside a lane whose prefix is not a number; float32 goes to the compiled kernel where there is one."""
    rule = AttentionRule(scaling=0.5, dropout=0.4, softcap=None, window=None, causal=False)
    together = layout_of(*(lane(number) for number in range(3)), training=True)
    qkv = [value.detach().to(dtype) for value in rows(together.num_rows)]
    given = {number: tuple(part.detach().to(dtype) for part in pair) for number, pair in prefixes().items()}
    poisoned = {**given, 0: tuple(torch.full_like(part, math.nan) for part in given[0])}
    out = attend_with_prefixes(*qkv, poisoned, together, rule, "a")
    assert bool(out[together.lane_rows[0]].isnan().all())
    for number in (1, 2):
        part = together.lane_rows[number]
        alone = layout_of(lane(number), training=True)
        mine = {0: given[number]} if number in given else {}
        same = attend_with_prefixes(*(value[part] for value in qkv), mine, alone, rule, "a")
        torch.testing.assert_close(out[part], same, rtol=1e-5, atol=1e-6)


def test_positions_start_after_the_prefix() -> None:
    layout = layout_of(lane(0), lane(1), offset=2)
    assert layout.position_ids.tolist() == [[5, 6, 7, 8, 5, *range(5, 14), *range(2, 8)]]
    assert layout.num_rows == sum(LANES[0]) + sum(LANES[1])
    assert layout.virtual_T is None


def test_a_lane_that_gives_nothing_at_a_layer_is_an_error() -> None:
    layout = layout_of(lane(0), lane(1))
    qkv = rows(layout.num_rows)
    with pytest.raises(AssertionError, match="every lane with a prefix"):
        attend_with_prefixes(*qkv, {}, layout, RULES["plain"], "a")
    plain = layout_of(lane(0, prefix=False), lane(1))
    with pytest.raises(AssertionError, match="no room"):
        attend_with_prefixes(*qkv, {0: prefixes()[0]}, plain, RULES["plain"], "a")


def test_the_padded_layout_takes_none() -> None:
    with pytest.raises(AssertionError, match="padded layout"):
        layout_of(lane(0), kind="padded")
