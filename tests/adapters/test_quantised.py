"""Adapters trained on a base in NF4: what their files say, what they are loaded on, and what peft makes of them."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from remora.adapters.card import peft_lines
from remora.adapters.format import save_adapter
from remora.adapters.merge import save_merged
from remora.adapters.record import read_record
from remora.engine.trial import TrialOutcome
from remora.errors import AdapterError
from remora.models.base import Base
from remora.models.frozen_linear import NF4Linear
from remora.models.load import load_base
from remora.models.nf4 import bitsandbytes_installed
from remora.predict import load_adapter
from tests.contract.test_storage import INFO as TOY_INFO
from tests.models.test_load import save_model
from tests.trials import padded, run, spec, toy_data, toy_examples

EXAMPLES = toy_examples(8)
INFO = replace(TOY_INFO, label="QLoRA")


def train(folder: Path, arch: str, method: str) -> tuple[Base, TrialOutcome]:
    """An adapter in ``folder / "a"``; rows of weights are whole blocks, as bitsandbytes needs them on a CPU."""
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    base = load_base(str(save_model(folder / "model", arch, **sizes)), quantization="nf4")
    (outcome,) = run(base, toy_data(EXAMPLES), [spec(method, lr=0.02)]).values()
    save_adapter(folder / "a", base, outcome, INFO)
    return base, outcome


@pytest.mark.parametrize(("arch", "method"), [("bert", "qlora"), ("llama", "qlora"), ("bert", "dora")])
def test_it_is_read_back_onto_a_base_quantised_anew(arch: str, method: str, tmp_path: Path) -> None:
    base, outcome = train(tmp_path, arch, method)
    record = read_record(tmp_path / "a")
    assert (record.base.quantization, record.base.sha256) == ("nf4", base.sha256)
    predictor = load_adapter(tmp_path / "a")
    assert predictor.base.quantization == "nf4"
    assert np.array_equal(predictor.logits_of(EXAMPLES), outcome.logits["validation"])
    card = (tmp_path / "a" / "README.md").read_text()
    for words in ("held in 4-bit NormalFloat", "linear layers quantised to NF4", "BitsAndBytesConfig("):
        assert words in card


def test_it_is_refused_on_the_dense_base_and_a_dense_one_here(tmp_path: Path) -> None:
    base, _ = train(tmp_path, "bert", "qlora")
    dense = load_base(str(tmp_path / "model"))
    assert dense.sha256 == base.sha256
    with pytest.raises(AdapterError, match="trained on a base that is quantised to nf4, this one is dense"):
        load_adapter(tmp_path / "a", dense)
    (outcome,) = run(dense, toy_data(EXAMPLES), [spec("lora")]).values()
    save_adapter(tmp_path / "dense", dense, outcome, INFO)
    with pytest.raises(AdapterError, match="trained on a base that is dense, this one is quantised to nf4"):
        load_adapter(tmp_path / "dense", base)


def test_a_record_from_before_there_was_quantisation_is_of_a_dense_base(tmp_path: Path) -> None:
    train(tmp_path, "bert", "qlora")
    path = tmp_path / "a" / "remora.json"
    content = json.loads(path.read_text())
    del content["base"]["quantization"]
    path.write_text(json.dumps(content))
    assert read_record(tmp_path / "a").base.quantization == "none"


def test_merged_it_is_a_dense_model_that_computes_the_same(tmp_path: Path) -> None:
    base, outcome = train(tmp_path, "bert", "qlora")
    save_merged(tmp_path / "merged", base, load_adapter(tmp_path / "a", base).loaded)
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        logits = model(**padded(EXAMPLES, range(len(EXAMPLES)), 0)).logits.numpy()
    np.testing.assert_allclose(logits, outcome.logits["validation"], rtol=0, atol=5e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_lines_of_its_card_give_the_same_base_and_logits_with_bitsandbytes_and_peft(tmp_path: Path) -> None:
    if not bitsandbytes_installed():
        pytest.skip("bitsandbytes is not installed (extra quant)")
    base, outcome = train(tmp_path, "bert", "qlora")
    lines = peft_lines(read_record(tmp_path / "a"), base).replace("path/to/this/folder", str(tmp_path / "a"))
    scope: dict[str, object] = {}
    logging.disable(logging.WARNING)
    try:
        exec(lines.partition("\ninputs = ")[0], scope)
    finally:
        logging.disable(logging.NOTSET)
    model = scope["model"]
    assert isinstance(model, torch.nn.Module)
    theirs = {
        name.removeprefix("base_model.model.bert.").removesuffix(".base_layer"): module.weight.data.view(-1)
        for name, module in model.named_modules()
        if type(module).__name__ == "Linear4bit" and not name.endswith("lora_A")
    }
    ours = {name: layer.codes for name, layer in base.model.named_modules() if isinstance(layer, NF4Linear)}
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    with torch.no_grad():
        logits = model(**padded(EXAMPLES, range(len(EXAMPLES)), 0)).logits.float().numpy()
    # Where the processor has bfloat16 products, bitsandbytes uses them for answers whatever the compute type is.
    np.testing.assert_allclose(logits, outcome.logits["validation"], rtol=0, atol=0.01)
    assert np.abs(outcome.logits["validation"]).max() > 0.1
