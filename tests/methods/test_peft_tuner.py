"""The bridge to peft's tuners: the same rows as peft's own model with the same tensors, and clear refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from remora.config.methods_arg import parse_methods
from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.errors import ConfigError
from remora.methods.registry import get_method
from tests.contract.checks import fresh_adapter
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, toy_examples

EXAMPLES = toy_examples(6)
TUNERS: dict[str, dict[str, Any]] = {
    "LORA": {"r": 4, "use_rslora": True},
    "ADAMSS": {"r": 4, "num_subspaces": 2},
    "BOFT": {"boft_block_size": 4},
    "BEFT": {},
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "OFT": {"oft_block_size": 8},
    "FOURIERFT": {"n_frequency": 40},
    "GLORA": {"r": 4},
    "HRA": {"r": 4},
    "MISS": {"r": 4},
    "ROAD": {"group_size": 8},
    "HIRA": {"r": 4},
    "SHIRA": {"r": 2},
    "C3A": {"block_size": 8},
    "WAVEFT": {"n_frequency": 40},
    "DELORA": {"r": 4},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "PEANUT": {"r": 4},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


def rows_of_ours(kind: str, settings: dict[str, Any], values: dict[str, Tensor]) -> Tensor:
    base = tiny_base("bert")
    method = get_method("peft", {"type": kind, **settings})
    with Driver(base) as driver:
        adapter = fresh_adapter(method, driver)
        for key, state in adapter.states.items():
            for name in state.trained:
                state.trained[name] = values[f"{key}.{name}"].float()
            for name in state.frozen:
                state.frozen[name] = values[f"{key}.{name}"]
        batch = LaneBatch(ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(len(EXAMPLES)))
        return driver.read(driver.lay_out([batch], training=False), [adapter])[0]


@pytest.mark.parametrize("kind", TUNERS)
def test_computes_what_peft_computes(kind: str) -> None:
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    configs: dict[str, Any] = {str(known.value): config for known, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    config = configs[kind](target_modules=["query", "value"], **TUNERS[kind])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        untouched = tiny_hf("bert").eval()
        model = get_peft_model(tiny_hf("bert"), config).eval()
        for value in model.parameters():
            if value.requires_grad:
                value.data.add_(0.2 * torch.randn_like(value))
    batch = padded(EXAMPLES, range(len(EXAMPLES)), 0)
    with torch.no_grad():
        theirs = model.get_submodule("base_model.model.bert")(**batch).last_hidden_state[:, 0]
        bare = untouched.get_submodule("bert")(**batch).last_hidden_state[:, 0]
        values: dict[str, Tensor] = {}
        for site in get_method("peft", {"type": kind, **TUNERS[kind]}).sites(tiny_base("bert")):
            layer = model.get_submodule(f"base_model.model.bert.{site.module}")
            for name, value in {**dict(layer.named_parameters()), **dict(layer.named_buffers())}.items():
                values[f"{site.id}.{name.replace('.default', '').replace('.', '_')}"] = value
        ours = rows_of_ours(kind, TUNERS[kind], values)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (theirs - bare).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "NOPE"}, "has no tuner 'NOPE'"),
        ({"type": "LOKR", "rank": 4}, "has no setting rank"),
        ({"type": "LOKR", "target_modules": ["x"]}, "has no setting target_modules"),
        ({"type": "LORA", "lora_dropout": 0.1}, "lora_dropout would draw"),
        ({"type": "ADALORA"}, "its schedule runs outside"),
        ({"type": "VERA"}, "shared state"),
        ({"type": "VBLORA"}, "shared state"),
        ({"type": "PREFIX_TUNING"}, "puts no layers around linear ones"),
        ({"type": "C3A", "block_size": 7}, "attention.q of tiny-bert"),
        ({"type": "LORA", "init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"type": "LOKR", "targets": ("norm",)}, "cannot attach to norm"),
    ],
)
def test_refuses_before_anything_is_trained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_method("peft", settings).sites(tiny_base("bert"))


def test_a_tuner_is_named_after_the_colon() -> None:
    (entry,) = parse_methods("peft:OFT,oft_block_size=8", ["lora", "peft"])
    assert (entry.id, entry.settings) == ("peft", {"type": "OFT", "oft_block_size": 8})
