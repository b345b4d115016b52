"""Steps that are read late give the same bits as steps read at once, and a step needs nothing from the device."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import adam, optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from remora.engine import features, hashing, layout, loop, low_rank, transfer
from remora.engine.driver import Driver
from remora.engine.features import FeatureCache
from remora.engine.lanes import Lane
from remora.engine.optim import FlatAdamW, ParamRule
from remora.engine.trial import NoEvents, TrialOutcome, TrialSpec
from remora.methods.base import AdapterTensors, weights_at
from remora.methods.lora import LoRA
from remora.models.base import placed
from tests.contract.checks import largest_difference
from tests.tiny import tiny_base
from tests.trials import add_method, run, spec, toy_data, toy_examples

DATA = toy_data(toy_examples(13, high=20))


class Watch(NoEvents):
    """Notes every step told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float]] = []

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        self.told.append((spec.id, step, loss))


def outcomes(specs: list[TrialSpec], read_every: int, watch: Watch) -> dict[str, TrialOutcome]:
    with Driver(tiny_base("bert", torch.float64)) as driver:
        found = loop.run_pack(driver, DATA, specs, slots=8, read_every=read_every, events=watch)
        return {outcome.spec.id: outcome for outcome in found}


def assert_same(one: TrialOutcome, other: TrialOutcome) -> None:
    assert (one.status, one.error, one.step, one.curve) == (other.status, other.error, other.step, other.curve)
    assert one.grad_norm == other.grad_norm
    for group in ("adapter", "head", "base_weights"):
        for name, value in getattr(one, group).items():
            assert torch.equal(value, getattr(other, group)[name]), name
    for split, logits in one.logits.items():
        assert np.array_equal(logits, other.logits[split])


@pytest.mark.parametrize("read_every", [3, 16])
def test_reading_late_changes_no_bit(read_every: int) -> None:
    specs = [spec("lora", {"rank": rank}, id=f"lora {rank}", epochs=3, curve=True) for rank in (2, 4)]
    specs += [spec("dora", id="dora", epochs=2), spec("ia3", id="best", epochs=3, select="best-validation")]
    at_once, late = Watch(), Watch()
    expected, found = outcomes(specs, 1, at_once), outcomes(specs, read_every, late)
    for key, outcome in expected.items():
        assert_same(outcome, found[key])
    assert sorted(at_once.told) == sorted(late.told)
    assert at_once.told != late.told, "nothing was read late"


def test_a_lane_that_diverged_is_found_late_and_ends_where_it_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbours may differ in the last bit: it takes part in passes for longer."""

    class Poisoned(Lane):
        """One of them gets a gradient that is not finite in its fifth step, and finite ones after that."""

        def update(self, loss: Tensor) -> None:
            if self.spec.id == "bad" and self.step == 4:
                self.optimizer.grad[0] = torch.inf
            super().update(loss)

    monkeypatch.setattr(loop, "Lane", Poisoned)
    specs = [spec("dora", id="bad", epochs=3), spec("lora", id="good", epochs=3)]
    at_once, late = Watch(), Watch()
    expected, found = outcomes(specs, 1, at_once), outcomes(specs, 4, late)
    assert expected["bad"].error == "the gradient was not finite at step 5 of 12"
    assert (expected["bad"].status, expected["bad"].step) == ("diverged", 4)
    assert_same(expected["bad"], found["bad"])
    assert largest_difference(expected["good"], found["good"]) < 1e-9
    assert [step[:2] for step in sorted(at_once.told)] == [step[:2] for step in sorted(late.told)]


def test_a_stopped_lane_keeps_its_values_whatever_comes_after() -> None:
    given = {"A": torch.ones(3, 4), "b": torch.ones(5)}
    flat = FlatAdamW(given, lambda name, value: ParamRule(decay=value.ndim > 1), weight_decay=0.1)
    flat.grad.fill_(0.5)
    flat.step(0.1, 1.0, torch.tensor(1.0))
    before = flat.snapshot()
    assert not torch.equal(before[:12], torch.ones(12))
    for loss, gradient in ((torch.nan, 0.5), (1.0, 0.5), (1.0, torch.nan), (1.0, 0.25)):
        flat.grad.fill_(gradient)
        flat.step(0.1, 1.0, torch.tensor(loss))
        assert torch.equal(flat.snapshot(), before)


def test_the_switch_does_not_change_a_bit_of_torchs_adamw() -> None:
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(40, 50, generator=rng)
    flat = FlatAdamW({"A": start}, lambda name, value: ParamRule(), weight_decay=0.1)
    value = start.reshape(-1).clone().requires_grad_()
    plain = torch.optim.AdamW([value], lr=0.0, weight_decay=0.1, fused=True)
    for step in range(8):
        grad = torch.randn(2000, generator=rng) * (0.001 if step % 2 else 1.0)
        flat.grad[:2000] = grad
        norm = float(torch.linalg.vector_norm(flat.grad))
        value.grad = grad * (1.0 / (norm + 1e-6)) if norm > 1.0 else grad.clone()
        plain.param_groups[0]["lr"] = 0.01
        plain.step()
        assert float(flat.step(0.01, 1.0)) == norm
        assert torch.equal(flat.flat[:2000], value.detach())


def test_what_a_method_does_after_the_step_that_diverged_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shrinking(LoRA):
        def after_step(self, adapter: AdapterTensors, step: int) -> None:
            for value in adapter.trained().values():
                value.mul_(0.5)

        def after_backward(self, adapter: AdapterTensors, step: int) -> None:
            if step == 2:
                for value in adapter.trained().values():
                    assert value.grad is not None
                    value.grad.fill_(torch.nan)

    add_method(monkeypatch, Shrinking)
    method, base = Shrinking.name, tiny_base("bert")
    whole = run(base, DATA, [spec(method, id="x", epochs=2, batch_size=4)])["x"]
    shorter = run(base, DATA, [spec(method, id="x", epochs=2, batch_size=4, max_steps=2, schedule="constant")])["x"]
    constant = run(base, DATA, [spec(method, id="x", epochs=2, batch_size=4, schedule="constant", warmup=0.0)])["x"]
    assert (whole.status, whole.step, constant.step) == ("diverged", 2, 2)
    two = run(base, DATA, [spec(method, id="x", epochs=2, batch_size=4, max_steps=2, schedule="constant", warmup=0.0)])
    assert shorter.status == two["x"].status == "done"
    for name, value in two["x"].adapter.items():
        assert torch.equal(value, constant.adapter[name])


# --- a step on the meta device, whose tensors have no values: whatever asks for one raises


class OnlyByTransfer(TorchDispatchMode):
    """Fails where a tensor reaches the device in another way than `to_device`, or leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor) and x.ndim]
        devices = {x.device.type for x in tensors} | (
            {out.device.type} if isinstance(out, Tensor) and tensors else set()
        )
        assert self.inside or len(devices) < 2, f"{func} moves between {devices}"
        return out


@pytest.fixture
def device_without_values(monkeypatch: pytest.MonkeyPatch) -> OnlyByTransfer:
    watch = OnlyByTransfer()
    plain = transfer.to_device

    def counted(values: np.ndarray, device: torch.device) -> Tensor:
        watch.inside += 1
        try:
            return plain(values, device)
        finally:
            watch.inside -= 1

    for module in (features, hashing, layout, loop, low_rank):
        monkeypatch.setattr(module, "to_device", counted)
    fused = optimizer._get_fused_kernels_supported_devices
    for module in (adam, optimizer):
        monkeypatch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [*fused(), "meta"], raising=False)
    return watch


ARCHITECTURES = ("bert", "roberta", "distilbert", "albert", "modernbert", "electra", "gpt2", "llama", "mistral", "opt")


@pytest.mark.parametrize("arch", [*ARCHITECTURES, "gemma2", "qwen3"])
def test_a_step_reads_nothing_from_the_device(arch: str, device_without_values: OnlyByTransfer) -> None:
    base = placed(tiny_base(arch, torch.bfloat16), torch.device("meta"))
    chosen = [("lora", {}), ("lora", {"rank": 4, "dropout": 0.0}), ("lora", {}), ("vera", {}), ("dora", {})]
    chosen += [("prompt-tuning", {"num_virtual_tokens": 3}), ("bitfit", {}), ("ia3", {}), ("head", {})]
    assert step_on_meta(
        base, [spec(method, settings, id=f"{i}") for i, (method, settings) in enumerate(chosen)], device_without_values
    )
    assert step_on_meta(base, [spec("full", id="full")], device_without_values)


def step_on_meta(base: Any, specs: list[TrialSpec], watch: OnlyByTransfer) -> bool:
    with Driver(base) as driver:
        with (
            pytest.MonkeyPatch.context() as patch,
            Driver(tiny_base(base.name.removeprefix("tiny-"), base.dtype)) as twin,
        ):
            patch.setattr(
                Driver, "site_weights", lambda self, site: weights_at(twin.base, site)
            )  # some inits read them
            lanes = [Lane(each, driver, DATA) for each in specs]
        features = FeatureCache(driver, DATA)
        features._rows["train"] = torch.empty(13, base.hidden_size, dtype=base.dtype, device="meta")
        warm = loop._gradients(driver, DATA, lanes, features, 1600, loop._Crew(1))  # constants reach the device once
        assert all(loss.device.type == "meta" for loss in warm)
        with watch:
            for _ in range(2):
                for lane, loss in zip(
                    lanes, loop._gradients(driver, DATA, lanes, features, 1600, loop._Crew(1)), strict=True
                ):
                    lane.update(loss)
    return all(lane.step == 2 and len(lane.unread) == 2 for lane in lanes)


def test_the_check_sees_a_number_being_read_and_a_tensor_being_moved(device_without_values: OnlyByTransfer) -> None:
    x = torch.empty(3, device="meta")
    with device_without_values:
        with pytest.raises(RuntimeError, match="meta"):
            float(x.sum())
        with pytest.raises(AssertionError, match="moves between"):
            torch.ones(3).to("meta")
        with pytest.raises((RuntimeError, NotImplementedError)):
            x.nonzero()
