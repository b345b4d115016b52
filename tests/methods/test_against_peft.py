"""Methods that peft has: with the same weights, the same rows of the last layer and the same gradients, in float64."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.methods.base import AdapterTensors
from remora.methods.registry import get_method
from tests.contract.checks import fresh_adapter
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, toy_examples

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

EXAMPLES = toy_examples(6)
TARGETS = ["query", "value"]


def peft_model(config: Any) -> nn.Module:
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        return get_peft_model(tiny_hf("bert"), config).double().eval()


def peft_tensors(model: nn.Module, module: str) -> dict[str, Tensor]:
    """What peft trains at a module, by name without the adapter's."""
    prefix = f"base_model.model.{module}."
    return {
        name.removeprefix(prefix).replace(".default", ""): value
        for name, value in model.named_parameters()
        if name.startswith(prefix) and value.requires_grad
    }


def rows_of_peft(model: nn.Module) -> Tensor:
    batch = padded(EXAMPLES, range(len(EXAMPLES)), 0)
    return model.get_submodule("base_model.model.bert")(**batch).last_hidden_state[:, 0]


def rows_of_ours(driver: Driver, adapter: AdapterTensors) -> Tensor:
    batch = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(len(EXAMPLES)))
    return driver.read(driver.lay_out([batch], training=False), [adapter])[0]


def compare(
    method: str,
    settings: dict[str, Any],
    model: nn.Module,
    names: Mapping[str, str],
    tolerance: float = 1e-9,
    start: Callable[[AdapterTensors], None] | None = None,
) -> None:
    """Gives peft's tensors random values, copies them, and compares outputs and gradients.

    Args:
        method: id, with `settings`.
        model: of peft, fresh.
        names: our short names -> peft's below the module.
        tolerance: relative to the largest value.
        start: what else to copy before the values become random.
    """
    with Driver(tiny_base("bert", torch.float64)) as driver:
        adapter = fresh_adapter(get_method(method, settings), driver)
        if start is not None:
            start(adapter)
        rng = torch.Generator().manual_seed(0)
        pairs: list[tuple[Tensor, Tensor]] = []
        for site in adapter.sites:
            theirs = peft_tensors(model, site.hf_name)
            assert set(theirs) == set(names.values())
            state = adapter.states[site.id]
            for mine, other in names.items():
                value = theirs[other]
                with torch.no_grad():
                    value.add_(0.3 * torch.randn(value.shape, generator=rng, dtype=value.dtype))
                state.trained[mine] = value.detach().reshape(state.trained[mine].shape).clone().requires_grad_()
                pairs.append((state.trained[mine], value))
        ours, expected = rows_of_ours(driver, adapter), rows_of_peft(model)
        pull = torch.randn(ours.shape, generator=rng, dtype=ours.dtype)
        (ours * pull).sum().backward()
        (expected * pull).sum().backward()
    assert torch.allclose(ours, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))
    for mine, other in pairs:
        assert mine.grad is not None
        assert other.grad is not None
        size = float(other.grad.abs().max())
        assert size > 1e-6
        assert torch.allclose(mine.grad, other.grad.reshape(mine.shape), rtol=0, atol=tolerance * max(1.0, size))


def test_ln_tuning() -> None:
    from peft import LNTuningConfig

    model = peft_model(LNTuningConfig(target_modules=["LayerNorm"]))
    names = {name: f"ln_tuning_layers.{name}" for name in ("weight", "bias")}
    compare("ln-tuning", {}, model, names)


def test_loha() -> None:
    from peft import LoHaConfig

    names = {"A_1": "hada_w1_b", "B_1": "hada_w1_a", "A_2": "hada_w2_b", "B_2": "hada_w2_a"}
    model = peft_model(LoHaConfig(target_modules=TARGETS, r=3, alpha=6))  # a scale that float32 holds exactly
    compare("loha", {"rank": 3, "alpha": 6}, model, names)


def test_pissa() -> None:
    """peft keeps W - s B_0 A_0 in place of W. Singular vectors may differ in sign, so the start is copied."""
    from peft import LoraConfig

    config = LoraConfig(target_modules=TARGETS, r=3, lora_alpha=6, init_lora_weights="pissa")
    model = peft_model(config)

    def copy_start(adapter: AdapterTensors) -> None:
        for site in adapter.sites:
            theirs = peft_tensors(model, site.hf_name)
            state = adapter.states[site.id]
            for mine, other in (("lora_A", "lora_A.weight"), ("lora_B", "lora_B.weight")):
                start = theirs[other].detach()
                torch.testing.assert_close(state.trained[mine].abs(), start.abs(), rtol=1e-4, atol=1e-5)
                state.frozen[mine.replace("lora", "start")] = start.clone()

    names = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
    # peft subtracts in float32, before the model is widened
    compare("pissa", {"rank": 3, "alpha": 6}, model, names, tolerance=1e-6, start=copy_start)


def test_adalora() -> None:
    """peft divides by the rank plus 1e-5, which is taken away here."""
    from peft import AdaLoraConfig

    model = peft_model(AdaLoraConfig(target_modules=TARGETS, init_r=4, target_r=2, lora_alpha=8, total_step=10))
    for name, value in model.named_parameters():
        if "ranknum" in name:
            value.data.fill_(4 - 1e-5)
    settings = {"initial_rank": 4, "target_rank": 2, "alpha": 8}
    compare("adalora", settings, model, {f"lora_{x}": f"lora_{x}" for x in "ABE"})
