"""What of peft's Remora does not read, each with its reason: nothing that an adapter does is left out in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from remora.errors import AdapterError
from remora.predict import load_adapter
from tests.peft_made import made
from tests.tiny import tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TENSORS = "adapter_model.safetensors"
SITE = "base_model.model.bert.encoder.layer.1.attention.self.value"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "a"
    made("bert", LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=4), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "a"
    copy.mkdir()
    for name in ("adapter_config.json", TENSORS):
        (copy / name).write_bytes((original / name).read_bytes())
    return copy


def set_keys(folder: Path, **keys: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def refused(folder: Path, arch: str = "bert", **overrides: Any) -> str:
    with pytest.raises(AdapterError) as caught:
        load_adapter(folder, tiny_base(arch, **overrides))
    return str(caught.value)


def test_unchanged_it_is_read(folder: Path) -> None:
    load_adapter(folder, tiny_base("bert"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"layer_replication": [[0, 2], [1, 2]]}, "layers of the base are repeated"),
        ({"alora_invocation_tokens": [1, 2]}, "aLoRA"),
        ({"trainable_token_indices": [3]}, "token embedding"),
        ({"lora_bias": True}, "has a bias"),
        ({"bias": "lora_only"}, "biases of the base"),
        ({"target_parameters": ["experts.down"]}, "not a linear layer's"),
        ({"use_qalora": True}, "QALoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
        ({"kasa_config": {"beta": 1}}, "KaSA"),
        ({"monteclora_config": {"x": 1}}, "MonteCLoRA"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"megatron_config": {"x": 1}}, "Megatron"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "pissa", "rank_pattern": {"query": 4}}, "PiSSA"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "no DoRA on what PiSSA leaves"),
        ({"a_new_switch": 1}, "a_new_switch is 1"),
        ({"r": "four"}, "r is 'four'"),
        ({"r": 5}, r"shape \(4, 32\), expected \(5, 32\)"),
        ({"rank_pattern": {"value": 3}}, r"expected \(3, 32\)"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"target_modules": ["query"]}, "tensors are unknown, such as .*value.lora_A"),
        ({"target_modules": ["query", "value", "key"]}, "tensors are missing, such as .*key.lora_A"),
        ({"target_modules": ["q_proj"]}, "name nothing in tiny-bert"),
        ({"target_modules": ["query", "value", "word_embeddings"]}, "embedding"),
        ({"target_modules": None}, "names no target_modules"),
        ({"target_modules": 3}, "expected names of modules"),
        ({"layers_to_transform": [1]}, "tensors are unknown"),
        ({"layers_to_transform": ["1"]}, "expected numbers of layers"),
        ({"modules_to_save": ["classifier", "pooler"]}, "tensors are missing, such as .*pooler"),
        ({"task_type": "CAUSAL_LM"}, "for CAUSAL_LM, not for classification"),
        ({"peft_type": "OFT"}, "PEFT type OFT"),
        ({"peft_type": None}, "names no peft_type"),
    ],
)
def test_settings(folder: Path, keys: dict[str, Any], words: str) -> None:
    set_keys(folder, **keys)
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, tiny_base("bert"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(f"{SITE}.lora_B.weight"), "1 tensors are missing, such as"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "1 tensors are unknown, such as extra"),
        (lambda t: t.update({f"{SITE}.lora_A.weight": torch.zeros(4, 31)}), r"shape \(4, 31\), expected \(4, 32\)"),
        (lambda t: t[f"{SITE}.lora_A.weight"].fill_(torch.inf), "not finite"),
        (lambda t: t.pop("base_model.model.classifier.weight"), "holds no classifier.weight"),
        (lambda t: t.pop("base_model.model.classifier.bias"), "lacks classifier.bias"),
    ],
)
def test_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object], words: str) -> None:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, tiny_base("bert"))


def test_pickles(folder: Path) -> None:
    (folder / TENSORS).rename(folder / "adapter_model.bin")
    assert "save_pretrained" in refused(folder)
    (folder / "adapter_model.bin").unlink()
    assert "is missing" in refused(folder)


def test_damaged_files(folder: Path) -> None:
    (folder / TENSORS).write_bytes(b"nothing")
    assert "cannot be read" in refused(folder)
    (folder / "adapter_config.json").write_text("{")
    assert "cannot be read" in refused(folder)


def test_other_bases(folder: Path) -> None:
    assert "head of roberta" in refused(folder, "roberta")
    assert "holds no score.weight" in refused(folder, "llama")
    assert "shape" in refused(folder, hidden_size=64)
    assert "tensors are missing" in refused(folder, num_hidden_layers=3)
    assert "several labels" in refused(folder, problem_type="multi_label_classification")


def test_a_head_that_was_never_saved(folder: Path) -> None:
    """A base without a pretrained pooler: peft drew one at random, froze it and did not save it."""
    with pytest.raises(AdapterError, match="drawn at random in training and never saved"):
        load_adapter(folder, tiny_base("bert", pooler=False))


def test_a_base_that_nobody_names(folder: Path) -> None:
    set_keys(folder, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="names no base model"):
        load_adapter(folder)


def test_prompts_of_another_width(tmp_path: Path) -> None:
    made("bert", PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), tmp_path / "a")
    set_keys(tmp_path / "a", token_dim=64)
    assert "token_dim is 64, with tiny-bert it is 32" in refused(tmp_path / "a")
