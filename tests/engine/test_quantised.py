"""Training over a base in NF4: the numbers of a dense base made of the same weights, and no dense weight kept."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.engine.trial import TrialSpec
from remora.errors import ConfigError
from remora.methods.registry import get_method
from remora.models.base import Base
from remora.models.frozen_linear import NF4Linear
from remora.models.sites import find_sites
from tests.contract.checks import fresh_adapter, largest_difference
from tests.tiny import dense_twin, tiny_base, tiny_quantised
from tests.trials import record_steps, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(16)
DATA = toy_data(EXAMPLES, validation=toy_examples(5, seed=1))
METHODS = {
    "qlora": {"rank": 4},
    "lora": {},
    "dora": {"targets": ("linear",)},
    "ia3": {},
    "bitfit": {},
    "prompt-tuning": {},
    "adapter-houlsby": {},
    "pissa": {"rank": 4},
    "top-layers": {"num_layers": 1},
    "weight-mask": {},
    "head": {},
}


def specs(steps: int) -> list[TrialSpec]:
    """Every method with another learning rate, seed and length of training."""
    return [
        spec(
            name,
            settings,
            lr=(1e-3, 1e-2, 3e-3)[number % 3],
            seed=number % 2,
            batch_size=(3, 4)[number % 2],
            epochs=10,
            max_steps=steps - number % 4,
        )
        for number, (name, settings) in enumerate(METHODS.items())
    ]


@pytest.mark.parametrize("arch", ["bert", "llama", "gpt2", "deberta-v3"])
def test_packed_equals_solo_equals_a_dense_base_of_the_same_weights(arch: str) -> None:
    """Losses, gradients and all that follows from them: the trained values after some steps agree."""
    base = tiny_quantised(arch, torch.float64)
    before = base.hash()
    trials = specs(6)
    packed = run(base, DATA, trials, slots=4, tokens_per_pass=150)
    dense = dense_twin(base, arch)
    for trial in trials:
        solo = run(base, DATA, [trial], slots=1)[trial.id]
        assert packed[trial.id].status == "done"
        assert largest_difference(packed[trial.id], solo) < 1e-9, trial.id
        if trial.method != "qlora":
            other = run(dense, DATA, [trial], slots=1)[trial.id]
            assert largest_difference(solo, other) < 1e-9, trial.id
    assert base.hash() == before


def test_gradients_are_those_over_the_dequantised_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_quantised("bert")
    steps = record_steps(monkeypatch)
    trial = spec("lora", {"targets": ("linear",)}, max_steps=2, splits=())
    run(base, DATA, [trial])
    (mine, _) = steps.pop(trial.id)
    run(dense_twin(base, "bert"), DATA, [trial])
    (theirs, _) = steps[trial.id]
    assert all(torch.equal(value, theirs.grads[name]) for name, value in mine.grads.items())
    assert any(float(value.abs().max()) > 0 for value in mine.grads.values())
    steps.clear()
    run(tiny_base("bert"), DATA, [trial])
    (other, _) = steps[trial.id]
    assert any(not torch.allclose(value, other.grads[name], rtol=1e-3) for name, value in mine.grads.items())


def one_pass(driver: Driver, methods: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
    """States of a pass with one lane per method, all on every linear layer, and what is trained."""
    batches = [
        LaneBatch(
            ids=[EXAMPLES.ids[lane]], type_ids=[EXAMPLES.type_ids[lane]], index=[0], dropout_key=lane, base_dropout=True
        )
        for lane in range(len(methods))
    ]
    adapters = [fresh_adapter(get_method(name, {"targets": ("linear",)}), driver) for name in methods]
    trained = [value.requires_grad_() for adapter in adapters for value in adapter.trained().values()]
    calls.clear()
    return driver.forward(driver.lay_out(batches, training=True), adapters), trained


calls: Counter[int] = Counter()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count how often each layer is made dense."""
    plain = NF4Linear.dense

    def dense(self: NF4Linear) -> Tensor:
        calls[id(self)] += 1
        return plain(self)

    monkeypatch.setattr(NF4Linear, "dense", dense)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_a_layer_is_made_dense_once_forward_and_once_backward_for_all_lanes(arch: str) -> None:
    base = tiny_quantised(arch)
    layers = {id(base.model.get_submodule(site.module)) for site in find_sites(base, ("linear",))}
    with Driver(base) as driver:
        hidden, trained = one_pass(driver, ("lora", "dora", "lora", "dora"))
        assert calls == Counter(dict.fromkeys(layers, 1))
        calls.clear()
        torch.autograd.grad(hidden.square().sum(), trained, allow_unused=True)
    assert set(calls.values()) == {1}
    assert 0 < len(calls) <= len(layers)


@pytest.mark.parametrize("arch", ["bert", "llama", "gpt2"])
def test_a_pass_keeps_no_dense_weight(arch: str) -> None:
    quantised = tiny_quantised(arch)
    kept = {name: kept_shapes(base) for name, base in (("nf4", quantised), ("none", tiny_base(arch)))}
    shapes = {(site.out_features, site.in_features) for site in find_sites(quantised, ("linear",))}
    shapes |= {shape[::-1] for shape in shapes}
    assert not kept["nf4"] & shapes
    assert kept["none"] & shapes, "the check would not see one"


def kept_shapes(base: Base) -> set[tuple[int, ...]]:
    """Shapes of what a pass keeps for its backward pass; no pass has as many rows as a layer has features."""
    shapes: set[tuple[int, ...]] = set()

    def keep(value: Tensor) -> Tensor:
        shapes.add(tuple(value.shape))
        return value

    with Driver(base) as driver, torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        one_pass(driver, ("lora", "lora"))
    return shapes


def test_full_fine_tuning_of_a_quantised_base_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="4-bit codes, which an optimizer cannot move") as caught:
        run(tiny_quantised("bert"), DATA, [spec("full")])
    assert "--no-full" in caught.value.hint


def test_qlora_on_a_dense_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="QLoRA is trained on a base quantised to nf4, and this one is dense"):
        run(tiny_base("bert"), DATA, [spec("qlora")])
