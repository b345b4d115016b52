"""The engine on a real CUDA device: what its CPU tests promise must hold there too."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from remora.engine import loop
from remora.engine.attention_choice import flash_here
from remora.engine.driver import Driver
from remora.engine.features import FeatureCache
from remora.engine.inference import base_rows
from remora.engine.lanes import Lane
from remora.engine.trial import TrialOutcome, TrialSpec
from remora.models.base import Base, placed
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

DEVICE = torch.device("cuda")
EXAMPLES = toy_examples(13, high=20)
DATA = toy_data(EXAMPLES)
ARCHITECTURES = ("bert", "roberta", "distilbert", "modernbert", "gpt2", "llama", "mistral", "gemma2")
METHODS = ("lora", "dora", "ia3", "bitfit", "vera", "lora-fa", "prompt-tuning")


def on_gpu(arch: str, dtype: torch.dtype = torch.float32) -> Base:
    return placed(tiny_base(arch, dtype), DEVICE)


def specs() -> list[TrialSpec]:
    several = [spec("lora", {"rank": 8}, id=f"lora {seed}", seed=seed) for seed in range(3)]
    return several + [spec(method, id=method) for method in METHODS]


def assert_close(one: TrialOutcome, other: TrialOutcome, tolerance: float) -> None:
    assert one.status == other.status == "done"
    for split, logits in one.logits.items():
        np.testing.assert_allclose(logits, other.logits[split], rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def _full_float32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_of_the_cpu(arch: str, dtype: torch.dtype) -> None:
    """bfloat16 goes through flash attention where there is one, float32 through buckets."""
    with Driver(tiny_base(arch, dtype)) as cpu, Driver(on_gpu(arch, dtype)) as gpu:
        expected, found = base_rows(cpu, EXAMPLES), base_rows(gpu, EXAMPLES)
    assert found.device.type == "cuda"
    error = float((found.cpu().double() - expected.double()).abs().max() / expected.double().abs().max())
    assert error < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_packed_equals_solo(arch: str) -> None:
    base = on_gpu(arch)
    packed = run(base, DATA, specs(), slots=16)
    for each in specs():
        assert_close(run(base, DATA, [each], slots=1)[each.id], packed[each.id], 2e-3)


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_training_is_that_of_the_cpu(arch: str) -> None:
    cpu, gpu = run(tiny_base(arch), DATA, specs()), run(on_gpu(arch), DATA, specs())
    for key, outcome in cpu.items():
        assert_close(outcome, gpu[key], 2e-3)


def test_passes_of_any_size_give_the_same() -> None:
    base = on_gpu("bert")
    whole = run(base, DATA, specs())
    for key, outcome in run(base, DATA, specs(), tokens_per_pass=30).items():
        assert_close(outcome, whole[key], 2e-3)


@pytest.mark.parametrize("arch", ["bert", "llama"])
def test_the_base_never_changes(arch: str) -> None:
    base = on_gpu(arch, torch.bfloat16)
    before = base.hash()
    run(base, DATA, [*specs(), spec("full", id="full")])
    assert base.hash() == before == tiny_base(arch, torch.bfloat16).hash()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("base_dropout", [True, False])
def test_a_lane_full_of_nan_stays_alone(
    dtype: torch.dtype, base_dropout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Poisoned(Lane):
        def update(self, loss: torch.Tensor) -> None:
            super().update(loss)
            if self.spec.id == "bad" and self.step == 2:
                for value in self.adapter.trained().values():
                    value.data.fill_(torch.nan)

    monkeypatch.setattr(loop, "Lane", Poisoned)
    base = on_gpu("bert", dtype)
    good = [spec("lora", {"rank": 8}, id=f"{seed}", seed=seed, epochs=6, base_dropout=base_dropout) for seed in (1, 2)]
    bad = spec("lora", {"rank": 8}, id="bad", epochs=6, base_dropout=base_dropout)
    found = run(base, DATA, [good[0], bad, good[1]])
    assert found["bad"].status == "diverged"
    assert found["bad"].step == 2
    alone = run(base, DATA, good)
    for key, outcome in alone.items():
        assert_close(outcome, found[key], 2e-3 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("base_dropout", [True, False])
def test_a_step_does_not_wait_for_the_device(arch: str, base_dropout: bool) -> None:
    with Driver(on_gpu(arch, torch.bfloat16)) as driver:
        lanes = [Lane(each, driver, DATA) for each in specs()]
        for lane in lanes:
            lane.spec = TrialSpec(**{**lane.spec.__dict__, "base_dropout": base_dropout})
        features = FeatureCache(driver, DATA)

        def step() -> None:
            for lane, loss in zip(
                lanes, loop._gradients(driver, DATA, lanes, features, 1600, loop._Crew(1)), strict=True
            ):
                lane.update(loss)

        for _ in range(2):
            step()  # constants reach the device, kernels are loaded, the optimizer makes its state
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_flash_attention_is_found_on_devices_that_have_it() -> None:
    capability = torch.cuda.get_device_capability()
    assert flash_here(torch.device("cuda", torch.cuda.current_device())).varlen == (capability >= (8, 0))
