"""Adapters of encoder-decoders: what peft computes with files written here, and what is computed with files of peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from remora.adapters.classes import auto_class, class_name, peft_task
from remora.adapters.peft_form import peft_form
from remora.adapters.peft_import import import_changes
from remora.engine.driver import Driver
from remora.engine.layout import LaneBatch
from remora.errors import AdapterError
from remora.methods.base import AdapterTensors
from remora.methods.registry import get_method
from remora.models.base import Base
from tests.contract.checks import fresh_adapter
from tests.seq2seq import WritingHead, seq2seq_base, seq2seq_examples, seq2seq_hf, seq2seq_inputs
from tests.tiny import VOCAB

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term"),
]

EXAMPLES = seq2seq_examples(5)
QV = ("attention.q", "attention.v", "cross.q", "cross.v")


def head_of(base: Base) -> WritingHead:
    return WritingHead(base=base, num_outputs=VOCAB, kind="lm")


def ours(base: Base, adapter: AdapterTensors) -> Tensor:
    """Logits of the tokens to be written, one text after the other."""
    batch = LaneBatch(
        ids=EXAMPLES.ids,
        type_ids=EXAMPLES.type_ids,
        index=range(5),
        places=EXAMPLES.places,
        decoder_ids=EXAMPLES.decoder_ids,
        num_virtual=adapter.method.num_virtual_tokens,
    )
    with torch.no_grad(), Driver(base) as driver:
        rows, _ = driver.read(driver.lay_out([batch], training=False), [adapter])
        return head_of(base).forward({}, rows)


def theirs(model: Any, base: Base) -> Tensor:
    """The same by a model of peft or transformers."""
    inputs = seq2seq_inputs(EXAMPLES, range(5), int(base.config.pad_token_id))
    labels = inputs.pop("labels")
    with torch.no_grad():
        return model(**inputs).logits[labels >= 0]


@pytest.mark.parametrize(
    ("method", "settings", "kind"),
    [
        ("lora", {"targets": QV, "rank": 2}, "LORA"),
        ("lora", {"targets": ("attention.q", "ffn.down")}, "LORA"),
        ("dora", {"targets": QV, "rank": 2}, "LORA"),
        ("ia3", {"targets": ("attention.k", "cross.v", "ffn.down")}, "IA3"),
        ("bitfit", {"targets": ("linear",)}, "BEFT"),
        ("prompt-tuning", {"num_virtual_tokens": 3, "init": "normal"}, "PROMPT_TUNING"),
    ],
)
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_peft_computes_the_same(name: str, method: str, settings: dict[str, Any], kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    base, model = (make(name, torch.float32) for make in (seq2seq_base, seq2seq_hf))
    bare = theirs(model, base)
    with Driver(base) as driver:
        adapter = fresh_adapter(get_method(method, settings), driver)
    for state in adapter.states.values():
        for key, value in state.trained.items():
            noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(len(key)))
            state.trained[key] = value + 0.2 * noise
    form = peft_form(adapter, head_of(base), {})
    assert form is not None
    assert (form.config["task_type"], form.config["peft_type"]) == ("SEQ_2_SEQ_LM", kind)
    assert form.config["modules_to_save"] == []
    (tmp_path / "adapter_config.json").write_text(json.dumps(form.config))
    tensors = {key: value.contiguous() for key, value in form.tensors.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    loaded = PeftModel.from_pretrained(model, str(tmp_path)).eval()
    found = ours(base, adapter)
    torch.testing.assert_close(found, theirs(loaded, base), rtol=0, atol=2e-4)
    assert float((found - bare).abs().max()) > 0.02
    again = import_changes(tmp_path, head_of(base))
    torch.testing.assert_close(ours(base, again), found, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "targets"), [("bart", ["q_proj", "v_proj"]), ("t5", ["q", "v"]), ("flan-t5", None)])
def test_what_peft_wrote_is_read_in_both_stacks_and_between_them(
    name: str, targets: list[str] | None, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    base = seq2seq_base(name, torch.float32)
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=3, lora_alpha=7, target_modules=targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(seq2seq_hf(name, torch.float32), config).eval()
    bare = theirs(seq2seq_hf(name, torch.float32), base)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.3 * torch.randn(value.shape, generator=rng))
    model.save_pretrained(str(tmp_path))
    adapter = import_changes(tmp_path, head_of(base))
    assert {site.name for site in adapter.sites} == set(QV)
    assert len(adapter.sites) == 2 * 2 + 3 * 4
    found = ours(base, adapter)
    torch.testing.assert_close(found, theirs(model, base), rtol=0, atol=2e-4)
    assert float((found - bare).abs().max()) > 0.1


def test_files_for_another_task_or_with_whole_modules_are_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    head = head_of(seq2seq_base("bart", torch.float32))
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, modules_to_save=["encoder.layernorm_embedding"])
    with torch.random.fork_rng(devices=[]):
        get_peft_model(seq2seq_hf("bart", torch.float32), config).save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=r"layernorm_embedding\.bias whole"):
        import_changes(tmp_path, head)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_type": "CAUSAL_LM"}))
    with pytest.raises(AdapterError, match="is for CAUSAL_LM, not for SEQ_2_SEQ_LM"):
        import_changes(tmp_path, head)


def test_the_class_is_that_for_conditional_generation() -> None:
    for name, cls in (("bart", "Bart"), ("t5", "T5"), ("mt5", "MT5"), ("mbart", "MBart")):
        arch = seq2seq_base(name, torch.float32).arch
        assert class_name(arch, "lm") == f"{cls}ForConditionalGeneration"
        assert auto_class(arch, "lm") == "AutoModelForSeq2SeqLM"
        assert peft_task(arch, "lm") == "SEQ_2_SEQ_LM"
