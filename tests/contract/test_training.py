"""Contracts of a method by itself: its start, what it trains, and that it computes its paper's formula."""

import numpy as np
import pytest
import torch

from remora.methods.base import LinearChange, Method, SiteState
from remora.methods.lora import LoRA
from remora.methods.registry import get_method
from tests import naive
from tests.contract.cases import Case, every_adapter_cell, every_cell
from tests.contract.checks import (
    check_gradients_flow,
    check_identity,
    check_naive,
    check_trains_only_its_own,
    no_global_randomness,
)
from tests.tiny import tiny_base, tiny_hf
from tests.trials import add_method, record_steps, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(8)


@every_adapter_cell
def test_identity_at_init(arch: str, case: Case) -> None:
    check_identity(case.method(), case.base(arch, torch.float64), EXAMPLES)


@every_adapter_cell
def test_trains_what_it_declares(arch: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    base = case.base(arch)
    before = base.hash()
    steps = record_steps(monkeypatch)
    trial = spec(case.name, case.settings, batch_size=8, warmup=0.0)
    with no_global_randomness():
        (outcome,) = run(base, toy_data(EXAMPLES), [trial]).values()
    assert outcome.status == "done"
    assert base.hash() == before
    method = case.method()
    sites = method.sites(base)
    check_trains_only_its_own(steps[trial.id], outcome)
    check_gradients_flow(method, steps[trial.id], {site.id: site.name for site in sites})
    if case.own_formula:
        numbers = naive.trained_numbers(case.name, method.config.model_dump(), sites, outcome.adapter)
        assert outcome.num_params["adapter"] == numbers
    assert outcome.num_params["base_trained"] == 0


@every_cell
def test_computes_its_formula(arch: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if not case.own_formula:
        pytest.skip("the formula of a plug-in is its author's to test")
    base = case.base(arch, torch.float64)
    steps = record_steps(monkeypatch)
    trial = spec(
        case.name, case.without_dropout(), epochs=1, batch_size=3, base_dropout=False, warmup=0.0, splits=(), lr=0.05
    )
    run(base, toy_data(EXAMPLES), [trial])
    method = get_method(case.name, case.without_dropout())
    check_naive(base, case.hf(arch, torch.float64), method, EXAMPLES, steps[trial.id])


@every_cell
def test_bfloat16_stays_near_float64(arch: str, case: Case) -> None:
    """A base in bfloat16 rounds; an adapter that lost its precision or its gradients would end far away."""
    settings = case.without_dropout()
    if "head_ratio" in settings:
        settings["head_ratio"] = 1.0  # a head that learns faster multiplies the rounding of what it reads
    trial = spec(case.name, settings, batch_size=8, warmup=0.0, lr=1e-3, base_dropout=False)
    exact, rounded = (
        run(case.base(arch, dtype), toy_data(EXAMPLES), [trial])[trial.id] for dtype in (torch.float64, torch.bfloat16)
    )
    assert rounded.status == "done"
    # A score near the threshold turns a whole weight on or off, one at the edge of the budget a whole part of a layer.
    bound = 0.15 if case.name in ("weight-mask", "autopeft") else 0.05
    for split, logits in exact.logits.items():
        assert np.abs(logits - rounded.logits[split]).max() < bound


# --- the checks can fail


class NotIdentity(LoRA):
    """B starts at random though the method says it starts as the base."""

    def init(self, site, base, shared, rng):
        drawn = super().init(site, base, shared, rng).trained
        return SiteState(trained={**drawn, "lora_B": torch.rand(drawn["lora_B"].shape, generator=rng)})


class DeadWeight(LoRA):
    """Holds a tensor that nothing uses."""

    def init(self, site, base, shared, rng):
        return SiteState(trained={**super().init(site, base, shared, rng).trained, "unused": torch.ones(3)})


class WrongScale(LoRA):
    """Twice the low-rank term."""

    def change(self, state, site, base):
        change = super().change(state, site, base)
        return LinearChange(A=change.A, B=change.B, scale=2 * change.scale, dropout=change.dropout)


class Meddler(LoRA):
    """Writes into a tensor that should be frozen, and draws from torch's global state."""

    def init(self, site, base, shared, rng):
        return SiteState(trained=super().init(site, base, shared, rng).trained, frozen={"still": torch.zeros(2)})

    def after_step(self, adapter, step):
        for state in adapter.states.values():
            state.frozen["still"] += torch.rand(2)


def trained(cls: type[Method], monkeypatch: pytest.MonkeyPatch):
    add_method(monkeypatch, cls)
    steps = record_steps(monkeypatch)
    trial = spec(cls.name, {"dropout": 0.0}, epochs=2, batch_size=8, base_dropout=False, warmup=0.0)
    base = tiny_base("bert", torch.float64)
    (outcome,) = run(base, toy_data(EXAMPLES), [trial]).values()
    return base, get_method(cls.name, {"dropout": 0.0}), steps[trial.id], outcome


def test_identity_check_sees_a_wrong_start(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, NotIdentity)
    with pytest.raises(AssertionError, match="differs by"):
        check_identity(get_method("notidentity"), tiny_base("bert", torch.float64), EXAMPLES)


def test_gradient_check_sees_a_dead_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    base, method, steps, outcome = trained(DeadWeight, monkeypatch)
    names = {site.id: site.name for site in method.sites(base)}
    with pytest.raises(AssertionError, match="unused has no gradient"):
        check_gradients_flow(method, steps, names)
    with pytest.raises(AssertionError, match="unused did not move"):
        check_trains_only_its_own(steps, outcome)


def test_formula_check_sees_a_wrong_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    base, method, steps, _ = trained(WrongScale, monkeypatch)
    monkeypatch.setitem(naive.LINEAR, "wrongscale", naive.LINEAR["lora"])
    with pytest.raises(AssertionError):
        check_naive(base, tiny_hf("bert", dtype=torch.float64), method, EXAMPLES, steps)


def test_checks_see_frozen_tensors_move_and_global_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng(devices=[]):
        _, _, steps, outcome = trained(Meddler, monkeypatch)
        first = steps[0]
        frozen = {name: torch.zeros_like(value) for name, value in first.frozen.items()}
        with pytest.raises(AssertionError, match="still moved"):
            check_trains_only_its_own([first.__class__(**{**vars(first), "frozen": frozen})], outcome)

    def draw() -> None:
        with no_global_randomness():
            torch.rand(1)

    with torch.random.fork_rng(devices=[]), pytest.raises(AssertionError, match="torch"):
        draw()
