"""MAM, UniPELT and AutoPEFT follow their papers' equations over 20 steps of plain torch, as `test_trajectories.py`."""

from dataclasses import replace

import pytest
import torch
from scipy.optimize import brentq

from remora.engine.driver import Driver
from remora.engine.lanes import Lane
from remora.methods.autopeft import shifted
from tests.methods.test_trajectories import Side, agree, follow, train
from tests.tiny import tiny_base
from tests.trials import spec, toy_data, toy_examples

PREFIX = {"num_virtual_tokens": 3, "encoder_hidden": 6}


@pytest.mark.parametrize("reparameterize", [True, False])
def test_mam(reparameterize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**PREFIX, "reparameterize": reparameterize, "bottleneck": 5, "scale": 3.0}
    method, steps, outcome = train("mam", settings, 1e-2, monkeypatch)
    agree(follow(method, steps, 1e-2), outcome, steps)


@pytest.mark.parametrize("reparameterize", [True, False])
def test_unipelt(reparameterize: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**PREFIX, "reparameterize": reparameterize, "rank": 3, "bottleneck": 5}
    method, steps, outcome = train("unipelt", settings, 1e-2, monkeypatch)
    agree(follow(method, steps, 1e-2), outcome, steps)
    moved = {name: (value - steps[0].adapter[name]).abs().max() for name, value in outcome.adapter.items()}
    assert all(move > 1e-3 for name, move in moved.items() if "gate" in name), "gates learn too"


PARTS = [
    {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ["attention.q", "attention.v"]}},
    {"bitfit": {"targets": ["attention.q", "ffn.up", "norm.ffn"]}},
    {"adapter-pfeiffer": {"bottleneck": 2}},
]


def test_autopeft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps of search with the gates held at the budget; then the best that fit, with gates of 1."""
    settings = {"of": PARTS, "budget": 0.45, "search": 0.4, "structure_ratio": 1.0}
    method, steps, outcome = train("autopeft", settings, 1e-2, monkeypatch)

    def sizes(side: Side) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, value in side.values.items():
            site, _, short = name.rpartition(".")
            if "/" in short and not short.startswith("structure/"):
                key = f"{site}.structure/{short.partition('/')[0]}"
                found[key] = found.get(key, 0) + value.numel()
        return found

    def after(side: Side, step: int) -> None:
        if step > 7:
            return
        numbers = sizes(side)
        total = sum(numbers.values())

        def too_many(shift: float) -> float:
            gates = {name: torch.sigmoid(side.values[name].detach() - shift) for name in numbers}
            return float(sum(gates[name] * numbers[name] for name in numbers)) - 0.45 * total

        shift = brentq(too_many, -50, 50, xtol=1e-14)
        for name in numbers:
            side.values[name] -= shift
        if step < 7:
            return
        left = 0.45 * total
        for name in sorted(numbers, key=lambda name: float(side.values[name]), reverse=True):
            site, _, key = name.rpartition(".structure/")
            own = [other for other in side.values if other.startswith(f"{site}.{key}/")]
            if numbers[name] <= left:
                left -= numbers[name]
                own = []
            for other in (name, *own):
                side.values[other] = torch.empty(0, dtype=torch.float64)

    side = follow(method, steps, 1e-2, after=after)
    for name, value in outcome.adapter.items():
        assert side.values[name].shape == value.shape, name
    kept = {name: value for name, value in outcome.adapter.items() if value.numel()}
    agree(side, replace(outcome, adapter=kept), steps)
    before = sum(value.numel() for name, value in steps[0].adapter.items() if "structure/" not in name)
    assert 0 < outcome.num_params["adapter"] <= 0.45 * before
    assert not any("structure/" in name for name in kept)
    seen = [torch.stack([v for n, v in step.adapter.items() if "structure/" in n and v.numel()]) for step in steps[:8]]
    assert float((seen[7] - seen[7].mean()).abs().max()) > 1e-3, "gates part ways"


def test_the_best_checkpoint_is_one_of_the_model_that_is_kept() -> None:
    with Driver(tiny_base("bert")) as driver:
        lane = Lane(spec("autopeft", {"of": PARTS}), driver, toy_data(toy_examples(4)))
        values = lane.adapter.states[lane.adapter.sites[0].id].trained
        name = next(iter(values))
        with torch.no_grad():
            values[name].fill_(1.0)
            lane.remember_best(0.9)
            other = next(other for other in values if other != name)
            values[other] = torch.empty(0)
            values[name].fill_(2.0)
            lane.remember_best(0.1)
            values[name].fill_(3.0)
            lane.remember_best(0.05)
            lane.restore_best()
    assert float(values[name].detach().flatten()[0]) == 2.0


@pytest.mark.parametrize("budget", [0.01, 0.3, 0.97])
def test_the_shift_meets_the_budget(budget: float) -> None:
    rng = torch.Generator().manual_seed(0)
    structure = torch.randn(9, generator=rng) * 8
    sizes = torch.tensor([1, 5, 1000, 3, 3, 40, 7, 500, 2])
    moved = shifted(structure, sizes, budget)
    gated = float((torch.sigmoid(moved.double()) * sizes).sum() / sizes.sum())
    assert gated == pytest.approx(budget, rel=1e-5)
    torch.testing.assert_close(moved - moved[0], structure - structure[0], rtol=0, atol=1e-5)
