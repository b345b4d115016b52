"""The training loop: hooks of methods, lanes that come and go, curves, the best checkpoint, what outcomes say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.engine import loop
from remora.engine.driver import Driver
from remora.engine.trial import CurvePoint, Examples, TrialOutcome, TrialSpec
from remora.methods.base import LinearChange, SiteState
from remora.methods.lora import LoRA
from remora.seeds import torch_generator
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import add_method, record_steps, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(10)
DATA = toy_data(EXAMPLES)
QUIET = {"base_dropout": False, "warmup": 0.0, "splits": ()}


class Penalized(LoRA):
    """Adds half the squared norm of A to the loss."""

    def penalty(self, adapter, step):
        return sum(0.5 * value.square().sum() for name, value in adapter.trained().items() if name.endswith("lora_A"))


def test_penalty_joins_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Penalized)
    steps = record_steps(monkeypatch)
    base = tiny_base("bert", torch.float64)
    settings = {"dropout": 0.0}
    run(base, DATA, [spec(name, settings, id=name, max_steps=1, **QUIET) for name in ("lora", "penalized")])
    plain, penalized = steps["lora"][0], steps["penalized"][0]
    added = 0.0
    for name, value in plain.adapter.items():
        extra = value if name.endswith("lora_A") else torch.zeros_like(value)
        torch.testing.assert_close(penalized.grads[name], plain.grads[name] + extra)
        added += 0.5 * float(extra.square().sum())
    assert penalized.loss - plain.loss == pytest.approx(added, rel=1e-5)


class Frozen(LoRA):
    """Takes the gradient of A away before clipping, clips B after the step, and counts in its own state."""

    def before_step(self, adapter, step, num_steps):
        adapter.extra["seen"] = torch.tensor([step, num_steps])

    def after_backward(self, adapter, step):
        for name, value in adapter.trained().items():
            if name.endswith("lora_A"):
                value.grad.zero_()

    def after_step(self, adapter, step):
        assert adapter.extra["seen"][0] == step
        for name, value in adapter.trained().items():
            if name.endswith("lora_B"):
                value.clamp_(-1e-3, 1e-3)

    def decays(self, parameter, value):
        return False


def test_before_step_after_backward_and_after_step(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Frozen)
    steps = record_steps(monkeypatch)
    one = spec("frozen", epochs=3, lr=0.1, **QUIET)
    outcome = run(tiny_base("bert"), DATA, [one])[one.id]
    for name, value in outcome.adapter.items():
        if name.endswith("lora_A"):
            assert torch.equal(value, steps[one.id][0].adapter[name])
        else:
            assert float(value.abs().max()) == pytest.approx(1e-3)


class Twice(LoRA):
    """Two forward passes per step, each with dropout of its own."""

    def num_forwards(self):
        return 2


def test_repeated_forwards_average_their_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Twice)
    steps = record_steps(monkeypatch)
    base = tiny_base("bert", torch.float64)
    for rate in (0.0, 0.4):
        specs = [spec(name, {"dropout": rate}, id=f"{name} {rate}", max_steps=2, **QUIET) for name in ("lora", "twice")]
        run(base, DATA, specs)
    same = [abs(steps["lora 0.0"][k].loss - steps["twice 0.0"][k].loss) for k in (0, 1)]
    assert max(same) < 1e-6
    grads = [steps[name][1].grads for name in ("lora 0.0", "twice 0.0")]
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name])
    assert abs(steps["lora 0.4"][1].loss - steps["twice 0.4"][1].loss) > 1e-4, "the second pass has masks of its own"


class Phased(LoRA):
    """A learned scale beside LoRA that learns twice as fast; a frozen tensor that a phase changes."""

    def init(self, site, base, shared, rng):
        drawn = super().init(site, base, shared, rng)
        return SiteState(trained={**drawn.trained, "gate": torch.ones(1)}, frozen={"open": torch.zeros(1)})

    def before_step(self, adapter, step, num_steps):
        for state in adapter.states.values():
            state.frozen["open"].fill_(float(step >= num_steps // 2))

    def change(self, state, site, base):
        change = super().change(state, site, base)
        return LinearChange(A=change.A, B=change.B * state["gate"] * state["open"], scale=change.scale)

    def lr_multiplier(self, parameter):
        return 2.0 if parameter == "gate" else 1.0


def test_phases_switch_at_the_right_step(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Phased)
    steps = record_steps(monkeypatch)
    one = spec("phased", batch_size=5, epochs=4, **QUIET)
    run(tiny_base("bert"), DATA, [one])
    sizes = [max(float(g.abs().max()) for n, g in s.grads.items() if n.endswith("lora_B")) for s in steps[one.id]]
    assert sizes[:4] == [0.0] * 4
    assert min(sizes[4:]) > 0


class Watcher:
    """Writes down what the loop tells."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []
        self.points: list[CurvePoint] = []

    def started(self, spec: TrialSpec, num_steps: int) -> None:
        self.events.append(("started", spec.id, num_steps))

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        assert math.isfinite(loss)
        self.events.append(("step", spec.id, step))

    def epoch(self, spec: TrialSpec, point: CurvePoint) -> None:
        self.events.append(("epoch", spec.id, point.step))
        self.points.append(point)


def test_a_finished_lane_is_replaced_at_once() -> None:
    base, watcher = tiny_base("bert"), Watcher()
    specs = [
        spec("lora", id=name, max_steps=n, epochs=9, batch_size=5) for name, n in zip("abcd", (1, 4, 2, 3), strict=True)
    ]
    with Driver(base) as driver:
        order = [outcome.spec.id for outcome in loop.run_pack(driver, DATA, specs, slots=2, events=watcher)]
    assert order == ["a", "c", "b", "d"]
    assert [event[1:] for event in watcher.events if event[0] == "started"] == [("a", 1), ("b", 4), ("c", 2), ("d", 3)]
    assert [event for event in watcher.events if event[:2] == ("step", "b")] == [("step", "b", n) for n in (1, 2, 3, 4)]
    third = watcher.events.index(("started", "c", 2))
    assert watcher.events.index(("step", "b", 1)) < third < watcher.events.index(("step", "b", 2))


def test_curves_and_counts() -> None:
    watcher = Watcher()
    one = spec("lora", batch_size=4, epochs=2, max_steps=5, curve=True, splits=("validation", "test"))
    with Driver(tiny_base("bert")) as driver:
        (outcome,) = loop.run_pack(driver, DATA, [one], slots=1, events=watcher)
    assert [point.step for point in outcome.curve] == [3, 5]
    assert [point.epoch for point in outcome.curve] == [1.0, pytest.approx(5 / 3)]
    assert tuple(watcher.points) == outcome.curve
    assert outcome.curve[-1].validation == outcome.metrics["validation"]
    assert outcome.curve[-1].validation_loss == pytest.approx(outcome.losses["validation"])
    assert (outcome.step, outcome.examples, outcome.lanes) == (5, 10 + 8, 1)
    assert set(outcome.metrics) == {"validation", "test"}
    assert outcome.logits["test"].shape == (10, 2)
    assert outcome.grad_norm["min"] > 0
    assert not outcome.undertrained


def test_the_best_checkpoint_is_the_best_on_validation() -> None:
    base = tiny_base("bert")
    data = toy_data(EXAMPLES, validation=toy_examples(30, seed=3))
    common = {"epochs": 6, "lr": 0.05, "curve": True, "batch_size": 5}
    last, best = spec("lora", id="last", **common), spec("lora", id="best", select="best-validation", **common)
    outcomes = run(base, data, [last, best])
    curve = [point.validation["accuracy"] for point in outcomes["best"].curve]
    assert outcomes["best"].metrics["validation"]["accuracy"] == max(curve)
    assert outcomes["last"].metrics["validation"]["accuracy"] == curve[-1]


def test_head_only_equals_the_head_on_whole_passes() -> None:
    """Its rows are computed once and reused; a lane whose adapter does nothing trains the same head the slow way."""
    base = tiny_base("bert", torch.float64)
    head = spec("head", id="head", lr=1e-2)
    slow = spec("lora", {"targets": ("attention.q",), "dropout": 0.0}, id="slow", lr=1e-2, base_dropout=False)

    class Still(loop.Lane):
        def update(self, loss: Tensor) -> None:
            for value in self.adapter.trained().values():
                value.grad.zero_()
            super().update(loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Lane", Still)
        outcomes = run(base, DATA, [head, replace(slow, weight_decay=0.0), replace(head, weight_decay=0.0, id="plain")])
    for name, value in outcomes["plain"].head.items():
        torch.testing.assert_close(value, outcomes["slow"].head[name], rtol=0, atol=1e-9)
    assert outcomes["head"].num_params["adapter"] == 0


def test_regression_and_three_classes() -> None:
    base = tiny_base("bert")
    for num_outputs in (1, 3):
        examples = toy_examples(12, num_outputs=num_outputs)
        data = toy_data(examples, num_outputs=num_outputs)
        outcome = run(base, data, [spec("lora", {"dropout": 0.0}, epochs=12, lr=0.02, base_dropout=False)]).popitem()[1]
        assert outcome.logits["validation"].shape == (12, num_outputs)
        assert outcome.curve[-1].train_loss < outcome.curve[0].train_loss


def test_stream_changes_init_and_dropout_but_not_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = record_steps(monkeypatch)
    run(tiny_base("bert"), DATA, [spec("lora", id="x"), spec("lora", id="y", stream="b"), spec("lora", id="z", seed=1)])
    for one, other, third in zip(steps["x"], steps["y"], steps["z"], strict=True):
        assert np.array_equal(one.chosen, other.chosen)
        assert not np.array_equal(one.chosen, third.chosen)
    for name, value in steps["x"][0].adapter.items():
        if name.endswith("lora_A"):
            assert not torch.equal(value, steps["y"][0].adapter[name])
    assert all(
        not torch.equal(value, steps["y"][0].head[name])
        for name, value in steps["x"][0].head.items()
        if name.endswith("weight")
    )


def test_init_of_a_site_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = record_steps(monkeypatch)
    few, many = spec("lora", {"targets": ("attention.v",)}, id="few"), spec("lora", {"targets": ("linear",)}, id="many")
    run(tiny_base("bert"), DATA, [few, many])
    for name, value in steps["few"][0].adapter.items():
        assert torch.equal(value, steps["many"][0].adapter[name])


def test_room_for_virtual_tokens_is_asked_of_the_data() -> None:
    asked: list[int] = []
    base = tiny_base("bert")

    def split(name: str, room: int) -> Examples:
        asked.append(room)
        return EXAMPLES

    run(base, replace(DATA, split=split), [spec("prompt-tuning", {"num_virtual_tokens": 3})])
    assert set(asked) == {3}


def test_bfloat16_base_trains_float32_tensors() -> None:
    base = tiny_base("bert", torch.bfloat16)
    before = base.hash()
    specs = [
        spec(name, id=name, epochs=3) for name in ("lora", "dora", "vera", "ia3", "bitfit", "prompt-tuning", "full")
    ]
    packed = run(base, DATA, specs, slots=8)
    assert base.hash() == before
    for outcome in packed.values():
        tensors: dict[str, Tensor] = {**outcome.adapter, **outcome.head, **outcome.base_weights}
        assert {value.dtype for value in tensors.values()} == {torch.float32}
        assert outcome.status == "done"
    full = run(tiny_base("bert"), DATA, [specs[0]])["lora"]
    assert abs(packed["lora"].losses["train"] - full.losses["train"]) < 0.05


def test_the_difference_between_outcomes_compares_steps_too() -> None:
    base = tiny_base("bert")
    one, other = (run(base, DATA, [spec("lora", id="x", max_steps=n)])["x"] for n in (1, 2))
    with pytest.raises(AssertionError):
        largest_difference(one, other)


def in_parts(parts: int, threads: int, dtype: torch.dtype, name: str = "bert") -> TrialOutcome:
    """A lone LoRA trial with its steps cut into parts."""
    one = spec("lora", {"dropout": 0.1}, epochs=2, lr=1e-2, batch_size=5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with Driver(tiny_base(name, dtype)) as driver:
            (outcome,) = loop.run_pack(driver, DATA, [one], slots=1, parts=parts)
    finally:
        torch.set_num_threads(before)
    assert outcome.status == "done"
    return outcome


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "opt"])
def test_cutting_a_lone_lane_changes_only_the_order_of_additions(name: str) -> None:
    whole, halves = in_parts(1, 1, torch.float64, name), in_parts(2, 2, torch.float64, name)
    assert largest_difference(whole, halves) < 1e-9


def test_parts_give_the_same_bits_on_any_number_of_threads() -> None:
    alone, together = in_parts(3, 1, torch.float32), in_parts(3, 4, torch.float32)
    assert largest_difference(alone, together) == 0


def test_parts_hold_every_sequence_once() -> None:
    with Driver(tiny_base("bert")) as driver:
        lane = loop.Lane(spec("lora", batch_size=8), driver, DATA)
        for parts in (1, 2, 3, 20):
            groups = loop._even_parts(lane, parts)
            assert len(groups) == min(parts, 8)
            assert sorted(np.concatenate(groups).tolist()) == list(range(8))
            sizes = [sum(len(lane.train.ids[lane.indices()[i]]) for i in group) for group in groups]
            assert max(sizes) - min(sizes) <= max(map(len, lane.train.ids))


class Noisy(LoRA):
    """Draws a factor for the low-rank term in every step; evaluation never sees it."""

    def before_step(self, adapter, step, num_steps):
        for site in adapter.sites:
            rng = torch_generator(adapter.seed, "noise", site.id, step)
            adapter.drawn[site.id] = {"factor": torch.rand(1, generator=rng) + 1}

    def change(self, state, site, base):
        change = super().change(state, site, base)
        if "factor" not in state:
            return change
        return LinearChange(A=change.A, B=change.B * state["factor"], scale=change.scale)

    def after_step(self, adapter, step):
        adapter.extra[f"lr{step}"] = torch.tensor(adapter.lr)


def test_what_a_step_draws_is_seen_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Noisy)
    steps = record_steps(monkeypatch)
    base = tiny_base("bert", torch.float64)
    one = spec("noisy", {"dropout": 0.0}, id="noisy", epochs=2, batch_size=5, **{**QUIET, "splits": ("validation",)})
    outcome = run(base, DATA, [one])["noisy"]
    drawn = [step.drawn for step in steps["noisy"]]
    assert len({float(value) for of in drawn for value in of.values()}) == 4 * len(drawn[0]), "every step, every site"
    still = replace(one, id="still", method="lora", lr=1e-30, max_steps=1)
    with Driver(base) as driver:
        lane = loop.Lane(still, driver, DATA)
        for name, value in {**lane.adapter.trained(), **lane.head_params}.items():
            value.data.copy_(outcome.adapter.get(name, outcome.head.get(name)))
        logits = loop.evaluate(driver, DATA, lane, "validation")
    np.testing.assert_allclose(logits, outcome.logits["validation"], rtol=0, atol=1e-6)


def test_methods_know_the_learning_rate_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, Noisy)
    with Driver(tiny_base("bert")) as driver:
        lane = loop.Lane(spec("noisy", lr=0.5, batch_size=5, epochs=2, warmup=0.0), driver, DATA)
        while not lane.finished:
            lane.optimizer.zero_grad()
            lane.update(torch.tensor(1.0))
    assert [float(value) for value in lane.adapter.extra.values()] == [0.5, 0.375, 0.25, 0.125]
