"""Prefixes with copied weights against peft, which hands them to transformers as a cache: logits and gradients."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from remora.adapters.format import LoadedAdapter, save_adapter
from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.engine.pooling import pooled_rows
from remora.methods.base import AdapterTensors, SiteState
from remora.methods.registry import get_method
from remora.models.base import Base
from remora.predict import load_adapter
from tests.contract.test_storage import INFO
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, run, spec, toy_data, toy_examples

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

EXAMPLES = toy_examples(6, low=2, high=9)
TARGETS = torch.from_numpy(EXAMPLES.targets)
PEFT_TAKES = ("bert", "roberta", "xlm-roberta", "electra", "gpt2", "llama", "mistral", "qwen3", "gemma2", "opt")
PLAIN = {"reparameterize": False}
SETTINGS = {
    "prefix-tuning": {"num_virtual_tokens": 3, "head_ratio": 1.0, **PLAIN},
    "p-tuning-v2": {"num_virtual_tokens": 2, "reparameterize": True, "encoder_hidden": 5},
}


def ours(base: Base, loaded: LoadedAdapter) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Logits, and the gradients of every layer's keys and values, as if they were trained themselves."""
    adapter = loaded.adapter
    method = get_method("prefix-tuning", {"num_virtual_tokens": adapter.method.num_virtual_tokens, **PLAIN})
    states = {
        site.id: adapter.method.peft_state(adapter.at(site), site)["prefix"].detach().requires_grad_()
        for site in adapter.sites
    }
    plain = AdapterTensors(
        method=method,
        sites=adapter.sites,
        states={key: SiteState(trained={"prefix": value}) for key, value in states.items()},
        shared={},
    )
    with Driver(base) as driver:
        batch = LaneBatch(
            ids=EXAMPLES.ids, type_ids=EXAMPLES.type_ids, index=range(6), num_prefix=method.num_prefix_tokens
        )
        layout = driver.lay_out([batch], training=False)
        rows = pooled_rows(driver.forward(layout, [plain]), layout, base.pooling)[0]
    logits = loaded.head.forward(loaded.head_params, rows)
    nn.functional.cross_entropy(logits, TARGETS).backward()
    grads = [value.grad for value in states.values() if value.grad is not None]
    assert len(grads) == len(adapter.sites)
    return logits.detach().numpy(), grads


@pytest.mark.parametrize("arch", PEFT_TAKES)
@pytest.mark.parametrize("name", SETTINGS)
def test_prefixes_agree_with_peft(arch: str, name: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base = tiny_base(arch)
    (outcome,) = run(base, toy_data(EXAMPLES), [spec(name, SETTINGS[name], lr=0.02)]).values()
    save_adapter(tmp_path / "a", base, outcome, INFO)
    predictor = load_adapter(tmp_path / "a", base)
    assert predictor.record.storage == ("remora" if SETTINGS[name]["reparameterize"] else "peft")
    mine, my_grads = ours(base, predictor.loaded)
    np.testing.assert_allclose(mine, outcome.logits["validation"], rtol=0, atol=1e-6)

    hf = tiny_hf(arch)
    hf.config.pad_token_id = int(base.config.pad_token_id or 0)
    model = PeftModel.from_pretrained(hf, str(tmp_path / "a")).eval()
    given = model.prompt_encoder["default"].embedding.weight.requires_grad_()
    batch = padded(EXAMPLES, range(6), hf.config.pad_token_id)
    if not base.takes_type_ids:
        batch.pop("token_type_ids")
    logits = model(**batch).logits
    nn.functional.cross_entropy(logits, TARGETS).backward()
    np.testing.assert_allclose(mine, logits.detach().numpy(), rtol=0, atol=1e-6)
    assert given.grad is not None
    theirs = given.grad.split([grad.shape[1] for grad in my_grads], dim=1)
    for grad, same in zip(my_grads, theirs, strict=True):
        assert float(same.abs().max()) > 1e-4
        torch.testing.assert_close(grad, same, rtol=0, atol=1e-6)
