"""Low-rank terms of many lanes computed together against the same terms lane by lane, in float64, with gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine import linear
from remora.engine.layout import LaneBatch, Layout, build_layout
from remora.engine.linear import LaneChange, changed_linear
from remora.engine.low_rank import lane_rows
from remora.methods.base import LinearChange
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

D, O, R = 6, 5, 2  # noqa: E741
LENGTHS = {"equal": (4, 4, 4, 4, 4), "unequal": (4, 7, 1, 5, 3)}


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(linear, "grouped", lambda x: True)
    return monkeypatch


def layout(lengths: tuple[int, ...], training: bool) -> Layout:
    lanes = [
        LaneBatch(ids=[np.ones(n, np.int64)], type_ids=[np.zeros(n, np.int64)], index=[0], dropout_key=k)
        for k, n in enumerate(lengths)
    ]
    device = torch.device("cpu")
    return build_layout(lanes, kind="packed", position_offset=0, pad_id=0, training=training, device=device)


def drawn(*shape: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()


def change(lane: int, **settings: object) -> LinearChange:
    A, B = drawn(R, D, seed=lane), drawn(O, R, seed=100 + lane)
    return LinearChange(A=A, B=B, **settings)  # type: ignore[arg-type]


CASES: dict[str, list[LinearChange | None]] = {
    "all alike": [change(k, scale=2.0) for k in range(5)],
    "scales differ": [change(k, scale=1.0 + k) for k in range(5)],
    "a gap": [change(0), change(1), None, change(3), change(4)],
    "dropout": [change(k, scale=1.5, dropout=0.4) for k in range(5)],
    "two rates": [change(k, dropout=0.4 if k % 2 else 0.0) for k in range(5)],
    "frozen A": [replace(change(k), A=drawn(R, D, seed=k).detach()) for k in range(4)] + [change(4)],
    "another rank": [change(0), change(1), LinearChange(A=drawn(3, D, seed=7), B=drawn(O, 3, seed=8)), change(3), None],
    "with scales and biases": [
        change(0, out_scale=drawn(O, seed=20)),
        change(1, in_scale=drawn(D, seed=21), bias=drawn(O, seed=22)),
        LinearChange(out_scale=drawn(O, seed=23)),
        change(3, out_scale=drawn(O, seed=24), bias=drawn(O, seed=25)),
        change(4),
    ],
}


def evaluated(changes: list[LinearChange | None], lengths: tuple[int, ...], x: Tensor) -> list[Tensor | None]:
    pass_ = layout(lengths, training=True)
    lanes = [
        LaneChange(rows=rows, change=given, dropout_site=11)
        for rows, given in zip(pass_.lane_rows, changes, strict=True)
        if given is not None
    ]
    y = changed_linear(x, drawn(O, D, seed=50).detach(), drawn(O, seed=51).detach(), lanes, pass_)
    names = ("A", "B", "in_scale", "out_scale", "bias")
    tensors = [getattr(given, name) for given in changes if given is not None for name in names]
    leaves = [x, *(value for value in tensors if value is not None and value.requires_grad)]
    pull = drawn(*y.shape, seed=52).detach()
    return [y, *torch.autograd.grad((y * pull).nan_to_num().sum(), leaves)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_lanes_one_by_one(
    case: str, lengths: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = drawn(sum(LENGTHS[lengths]), D, seed=60)
    apart = evaluated(CASES[case], LENGTHS[lengths], x)
    used: list[int] = []
    plain = linear.LowRankGroup.forward
    monkeypatch.setattr(linear, "grouped", lambda x: True)
    monkeypatch.setattr(linear.LowRankGroup, "forward", lambda self, *a, **k: used.append(1) or plain(self, *a, **k))
    joined = evaluated(CASES[case], LENGTHS[lengths], x)
    assert used
    for one, other in zip(apart, joined, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("where", ["rows", "A", "B"])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.usefixtures("together")
def test_a_lane_full_of_nan_stays_alone(lengths: str, where: str) -> None:
    given = LENGTHS[lengths]
    clean = [change(k, scale=1.0 + k, dropout=0.2) for k in range(5)]
    x = drawn(sum(given), D, seed=61)
    expected = evaluated(clean, given, x)
    poisoned, rows = list(clean), layout(given, True).lane_rows[2]
    x_bad = x.detach().clone()
    if where == "rows":
        x_bad[rows] = torch.nan
    else:
        bad = torch.full_like(getattr(clean[2], where), torch.nan).requires_grad_()
        poisoned[2] = replace(clean[2], **{where: bad})
    found = evaluated(poisoned, given, x_bad.requires_grad_())
    others = torch.ones(sum(given), dtype=torch.bool)
    others[rows] = False
    for number, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one is not None
        assert other is not None
        if number < 2:
            assert torch.equal(one[others], other[others])
        elif number not in (6, 7):  # A and B of the third lane
            assert torch.equal(one, other)
    assert found[0][rows].isnan().any()  # type: ignore[index]


@pytest.mark.usefixtures("together")
def test_the_scale_of_a_neighbour_costs_no_digits() -> None:
    """In bfloat16 a scale of 4/3 must act as it does among equal scales."""
    x = drawn(20, D, seed=62).detach().bfloat16()
    pass_ = layout(LENGTHS["equal"], training=False)
    results: list[Tensor] = []
    for last in (4 / 3, 1.0):
        scales = [4 / 3] * 4 + [last]
        lanes = [
            LaneChange(rows=rows, change=change(k, scale=scale))
            for k, (rows, scale) in enumerate(zip(pass_.lane_rows, scales, strict=True))
        ]
        results.append(changed_linear(x, drawn(O, D, seed=50).detach().bfloat16(), None, lanes, pass_))
    assert torch.equal(results[0][:16], results[1][:16])
    assert not torch.equal(results[0][16:], results[1][16:])


def test_padding_repeats_a_lanes_own_row() -> None:
    rows = lane_rows(((0, 3), (5, 6)), torch.device("cpu"))
    assert rows.rows_NL.tolist() == [[0, 1, 2], [5, 5, 5]]
    assert rows.whole is None
    assert lane_rows(((2, 4), (4, 6)), torch.device("cpu")).whole == slice(2, 6)
    assert lane_rows(((2, 4), (5, 7)), torch.device("cpu")).whole is None


@pytest.mark.parametrize("arch", ["bert", "gpt2", "deberta-v2"])
def test_whole_packs_train_to_the_same_weights(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, data = tiny_base(arch, torch.float64), toy_data(toy_examples(13, high=20))
    specs = [spec("lora", {"alpha": alpha}, id=f"lora {alpha}", seed=int(alpha)) for alpha in (8.0, 16.0, 32.0)]
    specs += [spec(method, id=method) for method in ("dora", "lora-fa", "vera", "ia3")]
    apart = run(base, data, specs)
    monkeypatch.setattr(linear, "grouped", lambda x: True)
    for key, outcome in run(base, data, specs).items():
        assert largest_difference(outcome, apart[key]) < 1e-9
