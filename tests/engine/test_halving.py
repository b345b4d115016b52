"""Successive halving in the loop: the same survive however lanes are shared, each the trial it would have been."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from remora.engine import loop
from remora.engine.driver import Driver
from remora.engine.rungs import Halving, Rung
from remora.engine.trial import TrialOutcome, TrialSpec
from remora.models.base import Base
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import spec, toy_data, toy_examples

DATA = toy_data(toy_examples(12), validation=toy_examples(30, seed=3))
RATES = (1e-4, 1e-3, 1e-2, 5e-2)
STEPS, RUNGS = 12, (3, 6)  # 3 steps per epoch
TOO_HIGH = 1e30


def row(method: str, rates: Sequence[float] = RATES, **fields: object) -> list[TrialSpec]:
    """The tuning trials of one row."""
    return [spec(method, id=f"{method} {n}", lr=lr, epochs=4, **fields) for n, lr in enumerate(rates)]


def train(
    base: Base,
    specs: Sequence[TrialSpec],
    *,
    slots: int,
    halve: bool = True,
    finished: Mapping[str, Sequence[Rung]] | None = None,
    folder: Path | None = None,
) -> dict[str, TrialOutcome]:
    """Outcomes by id; with halving, trials of one method are rivals."""
    rows: dict[str, list[str]] = {}
    for name in sorted([*(one.id for one in specs), *(finished or {})]):
        rows.setdefault(name.split()[0], []).append(name)
    halvings = [Halving(trials, 30, finished) for trials in rows.values()] if halve else []
    with Driver(base) as driver:
        outcomes = list(loop.run_pack(driver, DATA, specs, slots=slots, halvings=halvings, folder=folder))
    return {outcome.spec.id: outcome for outcome in outcomes}


def ends(outcomes: Mapping[str, TrialOutcome]) -> dict[str, tuple[str, int]]:
    return {name: (outcome.status, outcome.step) for name, outcome in outcomes.items()}


def test_one_trial_of_four_is_trained_to_its_end() -> None:
    outcomes = train(tiny_base("bert"), row("lora"), slots=4)
    assert sorted(ends(outcomes).values()) == [
        ("done", STEPS),
        ("stopped", RUNGS[0]),
        ("stopped", RUNGS[0]),
        ("stopped", RUNGS[1]),
    ]
    (best,) = (outcome for outcome in outcomes.values() if outcome.status == "done")
    assert [rung.step for rung in best.rungs] == list(RUNGS)
    for outcome in outcomes.values():
        last = outcome.rungs[-1]
        assert (outcome.spec.id in last.went_on) is (outcome.status == "done")
        assert last.num_steps == STEPS
        if outcome.status == "stopped":
            assert (outcome.metrics, outcome.logits) == ({}, {})
    losses = {name: outcome.rungs[0].loss for name, outcome in outcomes.items()}
    assert set(best.rungs[0].went_on) == set(sorted(losses, key=lambda name: losses[name])[:2])


@pytest.mark.parametrize("arch", ["bert", "deberta-v3"])
def test_the_same_survive_whatever_the_number_of_slots(arch: str) -> None:
    base = tiny_base(arch, torch.float64)
    specs = [one for method in ("lora", "full", "head", "bitfit") for one in row(method)]
    runs = [train(base, specs if slots != 3 else specs[::-1], slots=slots) for slots in (1, 2, 3, 4, 16)]
    for other in runs[1:]:
        assert ends(other) == ends(runs[0])
        for name, outcome in other.items():
            for mine, theirs in zip(outcome.rungs, runs[0][name].rungs, strict=True):
                assert mine.went_on.keys() == theirs.went_on.keys()
                assert (mine.score, mine.loss) == pytest.approx((theirs.score, theirs.loss), abs=1e-9)
            assert largest_difference(outcome, runs[0][name]) < 1e-9


@pytest.mark.parametrize("select", ["last", "best-validation"])
@pytest.mark.parametrize("method", ["lora", "dora", "full", "head", "prompt-tuning"])
def test_a_survivor_is_the_trial_it_would_have_been_to_the_bit(method: str, select: str, tmp_path: Path) -> None:
    specs = row(method, base_dropout=True, select=select)
    halved = train(tiny_base("bert"), specs, slots=1, folder=tmp_path)
    (best,) = (outcome for outcome in halved.values() if outcome.status == "done")
    whole = train(tiny_base("bert"), specs, slots=1, halve=False)[best.spec.id]
    assert largest_difference(best, whole) == 0
    assert np.array_equal(best.logits["validation"], whole.logits["validation"])
    assert (best.metrics, best.losses, best.curve) == (whole.metrics, whole.losses, whole.curve)
    assert (best.grad_norm, best.examples) == (whole.grad_norm, whole.examples)
    assert list(tmp_path.iterdir()) == []


def test_a_survivor_in_a_pack_is_the_trial_it_would_have_been() -> None:
    """With neighbours that leave, its rows stand in products of other sizes: equal to rounding."""
    base = tiny_base("bert", torch.float64)
    specs = [one for method in ("lora", "bitfit") for one in row(method)]
    halved, whole = train(base, specs, slots=4), train(base, specs, slots=4, halve=False)
    survivors = [name for name, outcome in halved.items() if outcome.status == "done"]
    assert len(survivors) == 2
    assert max(largest_difference(halved[name], whole[name]) for name in survivors) < 1e-9


def test_the_same_plan_gives_the_same_bits() -> None:
    specs = [one for method in ("lora", "bitfit", "full") for one in row(method)]
    one, other = (train(tiny_base("bert"), specs, slots=3) for _ in range(2))
    assert max(largest_difference(one[name], other[name]) for name in one) == 0
    assert {name: outcome.rungs for name, outcome in one.items()} == {
        name: outcome.rungs for name, outcome in other.items()
    }


def test_rows_have_the_same_trials_and_rungs_and_do_not_compete() -> None:
    methods = ("lora", "vera", "bitfit", "full")
    outcomes = train(tiny_base("bert"), [one for method in methods for one in row(method)], slots=4)
    for method in methods:
        mine = {name: outcome for name, outcome in outcomes.items() if name.startswith(method)}
        assert sorted(step for _, step in ends(mine).values()) == [3, 3, 6, 12]
        assert all(set(rung.went_on) <= set(mine) for outcome in mine.values() for rung in outcome.rungs)


def test_a_trial_that_diverges_counts_as_the_worst() -> None:
    outcomes = train(tiny_base("bert"), row("lora", (TOO_HIGH, *RATES[1:])), slots=4)
    assert outcomes["lora 0"].status == "diverged"
    assert outcomes["lora 0"].rungs == ()
    assert sorted(step for name, (_, step) in ends(outcomes).items() if name != "lora 0") == [3, 6, 12]


@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_row_in_which_all_diverge_ends(method: str, slots: int) -> None:
    outcomes = train(tiny_base("bert"), [*row(method, (TOO_HIGH,) * 4), *row("bitfit")], slots=slots)
    assert {outcome.status for name, outcome in outcomes.items() if name.startswith(method)} == {"diverged"}
    assert sum(outcome.status == "done" for outcome in outcomes.values()) == 1


@pytest.mark.parametrize("written", [("lora 0",), ("lora 1", "lora 3"), ("lora 0", "lora 1", "lora 2")])
def test_trained_again_after_an_interruption_they_end_as_before(written: tuple[str, ...]) -> None:
    whole = train(tiny_base("bert"), row("lora"), slots=1)
    left = [one for one in row("lora") if one.id not in written]
    again = train(tiny_base("bert"), left, slots=1, finished={name: whole[name].rungs for name in written})
    assert ends(again) == {one.id: ends(whole)[one.id] for one in left}
    for name, outcome in again.items():
        assert outcome.rungs == whole[name].rungs
        assert largest_difference(outcome, whole[name]) == 0


@pytest.mark.parametrize(("curve", "expected"), [(True, 4 + 1), (False, 2 + 1)])
def test_validation_is_not_looked_at_twice_at_one_step(
    curve: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[str, int]] = []
    evaluate = loop.evaluate

    def counting(driver: object, data: object, lane: loop.Lane, split: str, features: object) -> np.ndarray:
        looked.append((lane.spec.id, lane.step))
        return evaluate(driver, data, lane, split, features)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "evaluate", counting)
    outcomes = train(tiny_base("bert"), row("lora", curve=curve), slots=4)
    (best,) = (name for name, outcome in outcomes.items() if outcome.status == "done")
    assert len([at for at in looked if at[0] == best]) == expected


def test_a_waiting_lane_makes_room_for_the_next() -> None:
    order: list[tuple[str, int]] = []

    class Watcher:
        def started(self, spec: TrialSpec, num_steps: int) -> None:
            order.append((spec.id, 0))

        def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
            order.append((spec.id, step))

        def epoch(self, spec: TrialSpec, point: object) -> None:
            pass

    specs = row("lora", RATES[:3])
    with Driver(tiny_base("bert")) as driver:
        halvings = [Halving([one.id for one in specs], 30)]
        outcomes = list(loop.run_pack(driver, DATA, specs, slots=2, halvings=halvings, events=Watcher()))
    assert {name for name, step in order if step == 0} == {one.id for one in specs}
    assert sum(step == 0 for _, step in order) == 3, "a lane that goes on is not begun again"
    third = order.index(("lora 2", 0))
    assert {at for at in order[:third] if at[1]} == {(f"lora {n}", step) for n in (0, 1) for step in (1, 2, 3)}
    assert max(outcome.lanes for outcome in outcomes) == 2


def test_rivals_must_share_a_pack() -> None:
    specs = row("lora")
    with Driver(tiny_base("bert")) as driver, pytest.raises(AssertionError, match="share a pack"):
        list(loop.run_pack(driver, DATA, specs[:3], slots=4, halvings=[Halving([one.id for one in specs], 30)]))


def test_the_check_of_bits_sees_another_step() -> None:
    one = row("lora")[2]
    whole, shorter = (
        train(tiny_base("bert"), [replace(one, epochs=epochs)], slots=1, halve=False)[one.id] for epochs in (4, 3)
    )
    with pytest.raises(AssertionError):
        largest_difference(whole, shorter)
