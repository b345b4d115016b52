"""Contracts of what is stored: bit-equal back, loaded by peft with the same logits, merged into plain weights."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from remora.adapters.format import AdapterInfo, save_adapter
from remora.adapters.merge import merged_tensors
from remora.adapters.record import PEFT_CONFIG, TENSOR_FILE
from remora.engine.trial import TrialOutcome
from remora.errors import AdapterError
from remora.models.base import Base, Quantization
from remora.predict import Predictor, load_adapter
from tests.contract.cases import CASES, DENSE_CASES, Case, every_cell
from tests.tiny import tiny_base, tiny_hf, tiny_quantised
from tests.trials import padded, run, spec, toy_data, toy_examples

# What peft does inside transformers, and what it says of LLaMA's layers, which have no biases; all else is an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # of every norm it tunes
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
]

EXAMPLES = toy_examples(8)
INFO = AdapterInfo(
    label="toy",
    task="classification",
    label_names=("no", "yes"),
    num_texts=1,
    data_name="toy",
    data_hash="0",
    metric="accuracy",
    max_length=32,
)
WHOLE = {"full", "head"}
"""Not adapters: an ordinary checkpoint, or the base itself with a head."""


@cache
def trained(arch: str, quantization: Quantization = "none") -> tuple[Base, dict[str, TrialOutcome]]:
    """Every method trained on its base of one architecture, in packs; shared by all tests of this process."""
    base = (tiny_base if quantization == "none" else tiny_quantised)(arch)
    cases = [case for case in CASES if case.fits(arch) and case.quantization == quantization]
    specs = [spec(case.name, case.settings, id=case.id, lr=0.02) for case in cases]
    return base, run(base, toy_data(EXAMPLES), specs)


def saved(arch: str, case: Case, folder: Path) -> tuple[Base, TrialOutcome, Predictor]:
    base, outcomes = trained(arch, case.quantization)
    save_adapter(folder, base, outcomes[case.id], INFO)
    return base, outcomes[case.id], load_adapter(folder, base)


def transformers_logits(model: torch.nn.Module, base: Base) -> np.ndarray:
    batch = padded(EXAMPLES, range(len(EXAMPLES)), int(base.config.pad_token_id or 0))
    if not base.takes_type_ids:
        batch.pop("token_type_ids")
    with torch.no_grad():
        return model(**batch).logits.numpy()


@every_cell
def test_stored_and_read_back_bit_for_bit(arch: str, case: Case, tmp_path: Path) -> None:
    _, outcome, predictor = saved(arch, case, tmp_path / "adapter")
    loaded = predictor.loaded
    assert all(torch.equal(value, outcome.adapter[name]) for name, value in loaded.adapter.trained().items())
    assert set(loaded.adapter.trained()) == set(outcome.adapter)
    assert all(torch.equal(value, outcome.head[name]) for name, value in loaded.head_params.items())
    assert np.array_equal(predictor.logits_of(EXAMPLES), outcome.logits["validation"])


@every_cell
def test_peft_loads_it_and_agrees(arch: str, case: Case, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = tmp_path / "adapter"
    base, outcome, _ = saved(arch, case, folder)
    has_form = (folder / PEFT_CONFIG).is_file()
    # peft's BEFT takes no Conv1D, which is what GPT-2 is made of; its prefixes want every layer's own, ALBERT has one.
    without = arch == "gpt2" if case.name == "bitfit" else arch == "albert" and "kv" in case.method().site_kinds
    assert has_form == (case.method().peft_type is not None and not without)
    if not has_form:
        return
    model = case.hf(arch)
    model.config.pad_token_id = int(base.config.pad_token_id or 0)
    loaded = PeftModel.from_pretrained(model, str(folder)).eval()  # its warnings are errors here
    # peft's head would read a virtual token, and its DistilBERT takes no prefix; both are compared elsewhere.
    method = case.method()
    reads_virtual = method.num_virtual_tokens > method.num_prefix_tokens
    if not reads_virtual and not (method.num_prefix_tokens and arch == "distilbert"):
        np.testing.assert_allclose(transformers_logits(loaded, base), outcome.logits["validation"], rtol=0, atol=5e-6)


@every_cell
def test_merged_equals_unmerged(arch: str, case: Case, tmp_path: Path) -> None:
    base, outcome, predictor = saved(arch, case, tmp_path / "adapter")
    lacks_biases = case.id in ("bitfit-0", "bitfit-1", "combine-0") and arch in ("llama", "gemma2")
    if lacks_biases or not (case.method().mergeable or case.name in WHOLE):
        with pytest.raises(AdapterError, match="cannot be merged"):
            merged_tensors(base, predictor.loaded)
        return
    before = base.hash()
    model = tiny_hf(arch)
    report = model.load_state_dict(merged_tensors(base, predictor.loaded), strict=False)
    assert report.missing_keys == []
    assert report.unexpected_keys == []
    np.testing.assert_allclose(transformers_logits(model, base), outcome.logits["validation"], rtol=0, atol=5e-6)
    assert base.hash() == before


def test_the_comparison_with_peft_can_fail(tmp_path: Path) -> None:
    """Training moves the logits by far more than the tolerance."""
    base, outcomes = trained("bert")
    plain = transformers_logits(tiny_hf("bert"), base)
    for case in DENSE_CASES:
        assert np.abs(outcomes[case.id].logits["validation"] - plain).max() > 1e-3, case.id


@pytest.mark.parametrize("arch", ["bert", "roberta", "distilbert", "electra", "llama", "gpt2", "deberta-v3"])
@pytest.mark.parametrize("case_id", ["prompt-tuning-1", "p-tuning-0", "p-tuning-1"])
def test_hidden_states_of_prompts_agree_with_peft(arch: str, case_id: str, tmp_path: Path) -> None:
    """peft's classification models read a virtual token, so the backbone's hidden states are compared."""
    from peft import PeftModel

    case = next(case for case in CASES if case.id == case_id)
    base, outcome, predictor = saved(arch, case, tmp_path / "adapter")
    assert predictor.record.storage == ("peft" if case.name == "prompt-tuning" else "remora")
    hf = tiny_hf(arch)
    num = case.method().num_virtual_tokens
    peft = PeftModel.from_pretrained(hf, str(tmp_path / "adapter")).eval()
    batch = padded(EXAMPLES, range(len(EXAMPLES)), int(base.config.pad_token_id or 0))
    prompt = peft.get_prompt(batch_size=len(EXAMPLES))
    backbone = hf.get_submodule(base.arch.prefix)
    inputs = {
        "inputs_embeds": torch.cat([prompt, backbone.get_input_embeddings()(batch["input_ids"])], 1),
        "attention_mask": F.pad(batch["attention_mask"], (num, 0), value=1),
    }
    if base.takes_type_ids:
        inputs["token_type_ids"] = F.pad(batch["token_type_ids"], (num, 0))
    with torch.no_grad():
        hidden = backbone(**inputs).last_hidden_state
        last = num + batch["attention_mask"].sum(1) - 1
        rows = hidden[torch.arange(len(EXAMPLES)), last] if base.pooling == "last" else hidden[:, num]
        logits = predictor.loaded.head.forward(predictor.loaded.head_params, rows).numpy()
    np.testing.assert_allclose(logits, outcome.logits["validation"], rtol=0, atol=5e-6)


def test_files_of_every_kind_of_storage(tmp_path: Path) -> None:
    names = {"lora-0": "peft", "bitfit-0": "remora", "head-0": "remora", "full-0": "checkpoint", "vera-0": "peft"}
    for number, (case_id, storage) in enumerate(names.items()):
        case = next(case for case in CASES if case.id == case_id)
        _, _, predictor = saved("bert", case, tmp_path / str(number))
        files = {path.name for path in (tmp_path / str(number)).iterdir()}
        assert predictor.record.storage == storage
        assert {"README.md", "remora.json", TENSOR_FILE[predictor.record.storage]} <= files


def agrees_with_peft(base: Base, arch: str, case: Case, folder: Path) -> None:
    from peft import PeftModel

    outcome = run(base, toy_data(EXAMPLES), [spec(case.name, case.settings, lr=0.02)]).popitem()[1]
    save_adapter(folder, base, outcome, INFO)
    assert np.array_equal(load_adapter(folder, base).logits_of(EXAMPLES), outcome.logits["validation"])
    model = tiny_hf(arch)
    model.config.pad_token_id = int(base.config.pad_token_id or 0)
    loaded = PeftModel.from_pretrained(model, str(folder)).eval()
    np.testing.assert_allclose(transformers_logits(loaded, base), outcome.logits["validation"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["gpt_neox", "phi3", "modernbert", "albert"])
@pytest.mark.parametrize("case_id", ["lora-0", "dora-0", "rslora-0", "ia3-0", "vera-0"])
def test_interleaved_fused_and_repeated_layers_in_peft(arch: str, case_id: str, tmp_path: Path) -> None:
    """GPT-NeoX alternates q, k, v head by head, Phi-3 and ModernBERT fuse them, ALBERT runs one layer three times."""
    case = next(case for case in CASES if case.id == case_id)
    agrees_with_peft(tiny_base(arch), arch, case, tmp_path / "a")


@pytest.mark.parametrize("arch", ["bert", "albert", "modernbert"])
def test_a_pooler_that_the_checkpoint_lacks_is_trained_and_saved(arch: str, tmp_path: Path) -> None:
    """peft alone would leave it frozen at random and out of the file."""
    base = tiny_base(arch, pooler=False)
    assert base.pooler == {}
    case = next(case for case in CASES if case.id == "lora-0")
    agrees_with_peft(base, arch, case, tmp_path / "a")
