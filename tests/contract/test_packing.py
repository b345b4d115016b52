"""Lane independence: what a trial gives does not depend on neighbours, refills, the cutting of a step, or order."""

import math
from dataclasses import replace

import pytest
import torch

from remora.engine.trial import TrialOutcome, TrialSpec
from remora.methods.lora import LoRA
from remora.methods.registry import get_method
from tests.contract.cases import DENSE_CASES, every_arch
from tests.contract.checks import largest_difference, no_global_randomness
from tests.tiny import tiny_base
from tests.trials import add_method, run, spec, toy_data, toy_examples

DATA = toy_data(toy_examples(20, high=16), validation=toy_examples(5, seed=1))
NUM_STEPS = 50


def mixed_specs(num_steps: int, arch: str = "bert") -> list[TrialSpec]:
    """Every method with its settings: different learning rates, batch sizes, lengths of training, seeds, schedules.

    Every third trial takes all the steps, the others stop early, so that lanes are replaced while others train. None
    learns faster than its method's range allows: LoRA+ at 1e-2 without clipping makes rounding grow tenfold in two
    steps.
    """
    specs: list[TrialSpec] = []
    for number, case in enumerate(case for case in DENSE_CASES if case.fits(arch)):
        steps = num_steps if number % 3 == 0 else 3 + 5 * (number % 4)
        batch_size = (1, 3, 4, 7)[number % 4]
        highest = get_method(case.name, case.settings).lr_range.high
        specs.append(
            spec(
                case.name,
                case.settings,
                id=case.id,
                lr=min((1e-3, 1e-2, 3e-3)[number % 3], highest),
                seed=number % 2,
                batch_size=batch_size,
                epochs=math.ceil(steps * batch_size / 20) + 1,
                max_steps=steps,
                schedule=("linear", "constant")[number % 2],
                base_dropout=number % 5 != 4,
                clip=(1.0, 0.0)[number % 2],
            )
        )
    return specs


def alone(base_name: str, specs: list[TrialSpec], dtype: torch.dtype) -> dict[str, TrialOutcome]:
    base = tiny_base(base_name, dtype)
    outcomes: dict[str, TrialOutcome] = {}
    for one in specs:
        outcomes |= run(base, DATA, [one], slots=1)
    return outcomes


@every_arch
def test_packed_equals_solo(arch: str) -> None:
    specs = mixed_specs(NUM_STEPS, arch)
    base = tiny_base(arch, torch.float64)
    before = base.hash()
    with no_global_randomness():
        packed = run(base, DATA, specs, slots=5, tokens_per_pass=150)
    assert base.hash() == before
    solo = alone(arch, specs, torch.float64)
    bound = 1e-7 if arch == "gemma2" else 1e-9  # its norms compute in float32 whatever comes in
    for one in specs:
        assert largest_difference(packed[one.id], solo[one.id]) < bound, one.id
    shared = [outcome for outcome in packed.values() if outcome.lanes > 1]
    assert len(shared) == len(specs) - 1, "all but full fine-tuning share their steps"


def test_packed_equals_solo_in_float32() -> None:
    """All but the biases of keys, which softmax cancels: their gradients are nothing but rounding.

    AdamW makes whole steps of those all the same; logits, which are compared too, do not depend on them.
    """
    specs = mixed_specs(10)
    packed = run(tiny_base("bert"), DATA, specs, slots=5)
    solo = alone("bert", specs, torch.float32)
    key_bias = r"\.key\.(.*/)?bias$"
    differences = {one.id: largest_difference(packed[one.id], solo[one.id], without=key_bias) for one in specs}
    assert {name: found for name, found in differences.items() if not found < 2e-3} == {}


def test_packing_check_sees_another_seed() -> None:
    one = spec("lora", id="x", seed=0)
    base = tiny_base("bert", torch.float64)
    mine, other = run(base, DATA, [one])["x"], run(base, DATA, [replace(one, seed=1)])["x"]
    assert largest_difference(mine, other) > 1e-3


@pytest.mark.parametrize("arch", ["bert", "llama", "deberta-v3"])
def test_how_a_step_is_cut_does_not_matter(arch: str) -> None:
    specs = [replace(one, splits=()) for one in mixed_specs(4, arch)[::2]]
    base = tiny_base(arch, torch.float64)
    whole = run(base, DATA, specs, tokens_per_pass=5000)
    for tokens in (1, 40):
        cut = run(base, DATA, specs, tokens_per_pass=tokens)
        assert max(largest_difference(whole[name], cut[name]) for name in whole) < 1e-9


def test_order_of_lanes_does_not_matter() -> None:
    specs = mixed_specs(8)
    base = tiny_base("bert", torch.float64)
    one, other = run(base, DATA, specs, slots=4), run(base, DATA, specs[::-1], slots=7)
    assert max(largest_difference(one[name], other[name]) for name in one) < 1e-9


def test_same_plan_gives_same_bits() -> None:
    specs = mixed_specs(5)
    one, other = (run(tiny_base("bert"), DATA, specs, slots=4) for _ in range(2))
    assert max(largest_difference(one[name], other[name]) for name in one) == 0


class Explodes(LoRA):
    """Writes NaN into its weights after the third step."""

    def after_step(self, adapter, step):
        if step == 2:
            for value in adapter.trained().values():
                value.fill_(math.nan)


class BadGradient(LoRA):
    """A finite loss with an infinite gradient."""

    def after_backward(self, adapter, step):
        if step == 2:
            next(iter(adapter.trained().values())).grad.fill_(math.inf)


class Calm(LoRA):
    """The same, without harm."""


@pytest.mark.parametrize("cls", [Explodes, BadGradient])
@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_a_diverging_lane_changes_no_other(arch: str, cls: type[LoRA], monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [replace(one, max_steps=8) for one in mixed_specs(8) if one.method != "full"]
    base = tiny_base(arch, torch.float64)
    for toy in (cls, Calm):
        add_method(monkeypatch, toy)
    outcomes = {}
    for name in (cls.name, Calm.name):
        middle = spec(name, id="middle", max_steps=8, batch_size=3)
        outcomes[name] = run(base, DATA, [*specs[:4], middle, *specs[4:]], slots=6)
    harmed, calm = outcomes[cls.name], outcomes[Calm.name]
    assert harmed["middle"].status == "diverged"
    assert harmed["middle"].error == f"the {'loss' if cls is Explodes else 'gradient'} was not finite at step " + (
        "4 of 8" if cls is Explodes else "3 of 8"
    )
    assert harmed["middle"].logits == {}
    assert calm["middle"].status == "done"
    for one in specs:
        # Not to the bit: where the lane is gone others take its place, and products of other sizes round otherwise.
        assert largest_difference(harmed[one.id], calm[one.id]) < 1e-10, one.id


def test_divergence_keeps_the_last_good_state(monkeypatch: pytest.MonkeyPatch) -> None:
    add_method(monkeypatch, BadGradient)
    (outcome,) = run(tiny_base("bert"), DATA, [spec("badgradient", epochs=4)]).values()
    assert outcome.step == 2
    assert all(bool(torch.isfinite(value).all()) for value in outcome.adapter.values())
