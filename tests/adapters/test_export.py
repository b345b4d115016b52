"""Exports: plain LoRA with equal logits in peft and in an evaluator of a few lines, merged models, what vLLM takes."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from remora.adapters import export as export_module
from remora.adapters.export import export_adapter
from remora.adapters.format import AdapterInfo, save_adapter
from remora.engine.trial import TrialOutcome
from remora.errors import AdapterError, ConfigError, ResourceError
from remora.methods.registry import get_method, list_methods
from remora.models.base import Base, Quantization
from remora.predict import Predictor, load_adapter
from tests.adapters.test_format import INFO
from tests.peft_made import EXAMPLES, NUM_LABELS, logits, made
from tests.tiny import tiny_base, tiny_hf, tiny_quantised
from tests.trials import run, spec, toy_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
]

LOW_RANK: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4},
    "rslora": {"rank": 4},
    "lora-plus": {},
    "lora-fa": {},
    "lora-drop": {"rank": 4, "survey": 0.7, "threshold": 0.4},
    "dylora": {"rank": 4, "evaluate_rank": 2},
    "sora": {"rank": 4, "sparsity": 2.0},
    "adalora": {"initial_rank": 6, "target_rank": 2, "interval": 1},
    "vera": {"rank": 20},
    "pissa": {"rank": 3},
    "delta-lora": {"rank": 3},
    "loha": {"rank": 3},
}
NATIVE = {"lora", "rslora", "lora-plus", "lora-fa", "lora-drop"}
NO_BIAS = {("bitfit", "llama"), ("combine", "llama")}
"""They train biases that layers of the base do not have."""
NAMES = ("no", "yes", "may be")


def info(label: str) -> AdapterInfo:
    return AdapterInfo(**{**vars(INFO), "label": label, "label_names": NAMES, "num_texts": 1, "text_columns": ()})


@cache
def trained(arch: str, quantization: Quantization) -> tuple[Base, dict[str, TrialOutcome]]:
    base = tiny_base(arch) if quantization == "none" else tiny_quantised(arch)
    names = [cls.name for cls in list_methods() if cls.base_quantization == base.quantization]
    specs = [spec(name, LOW_RANK.get(name, {}), id=name, lr=0.05, epochs=4) for name in names]
    return base, run(base, toy_data(EXAMPLES, num_outputs=NUM_LABELS), specs)


def saved(arch: str, method: str, folder: Path) -> tuple[Base, np.ndarray, Predictor]:
    """The base, the trial's own logits, and its adapter read from the folder it was written to."""
    base, outcomes = trained(arch, get_method(method).base_quantization)
    save_adapter(folder, base, outcomes[method], info(method))
    return base, outcomes[method].logits["validation"], load_adapter(folder, base)


def peft_logits(folder: Path, arch: str, base: Base) -> np.ndarray:
    from peft import PeftModel

    model = tiny_hf(arch, NUM_LABELS)
    model.config.pad_token_id = int(base.config.pad_token_id or 0)
    return logits(PeftModel.from_pretrained(model, str(folder)).eval(), base)  # pyright: ignore[reportArgumentType]


def plain_lora_logits(folder: Path, arch: str, base: Base) -> np.ndarray:
    """W + alpha / r B A in place of W, from nothing but the two files; one rank and one scale for all modules."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    model = tiny_hf(arch, NUM_LABELS)
    model.config.pad_token_id = int(base.config.pad_token_id or 0)
    with torch.no_grad():
        for key, value in tensors.items():
            name = key.removeprefix("base_model.model.")
            if name.endswith(".lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                assert value.shape[0] == config["r"]
                assert any(module.endswith("." + target) for target in config["target_modules"])
                delta = config["lora_alpha"] / config["r"] * tensors[key.replace("lora_A", "lora_B")] @ value
                weight = model.get_parameter(module + ".weight")
                weight += delta.T if config["fan_in_fan_out"] else delta
            elif not name.endswith(".lora_B.weight"):
                model.get_parameter(name).copy_(value)
    return logits(model, base)


@pytest.mark.parametrize("arch", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("method", LOW_RANK)
def test_low_rank_methods_are_plain_lora(arch: str, method: str, tmp_path: Path) -> None:
    base, expected, predictor = saved(arch, method, tmp_path / "a")
    if (method, arch) == ("loha", "gpt2"):
        assert predictor.record.storage == "remora"  # peft's LOHA takes no transposed layer; LoRA does
    out = tmp_path / "out"
    done = export_adapter(out, base, predictor.loaded, "lora")
    config = json.loads((out / "adapter_config.json").read_text())
    assert (done.peft_type, config["peft_type"]) == ("LORA", "LORA")
    assert done.rank == config["r"]
    assert not any(config[key] for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "lora_bias"))
    assert (config["bias"], config["init_lora_weights"]) == ("none", True)
    bare = tiny_hf(arch, NUM_LABELS)
    bare.config.pad_token_id = int(base.config.pad_token_id or 0)
    bare.load_state_dict(predictor.loaded.head_params, strict=False)
    assert np.abs(logits(bare, base) - expected).max() > 1e-3, "the adapter does nothing that could be lost"
    for found in (peft_logits(out, arch, base), plain_lora_logits(out, arch, base)):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    again = load_adapter(out, base)
    assert again.record.method in {"lora", method if method in NATIVE else "lora"}
    assert again.record.label_names == NAMES
    np.testing.assert_allclose(again.logits_of(EXAMPLES), expected, rtol=0, atol=1e-5)
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "remora.json",
    }


def test_pruned_ranks_are_left_out(tmp_path: Path) -> None:
    base, _, predictor = saved("bert", "adalora", tmp_path / "a")
    rank = export_adapter(tmp_path / "out", base, predictor.loaded, "lora").rank
    assert rank is not None
    assert rank < 6
    base, _, predictor = saved("bert", "dylora", tmp_path / "b")
    assert export_adapter(tmp_path / "out2", base, predictor.loaded, "lora").rank == 2
    base, _, predictor = saved("bert", "pissa", tmp_path / "c")
    assert export_adapter(tmp_path / "out3", base, predictor.loaded, "lora").rank == 6


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("dora", "scales features"),
        ("ia3", "scales features"),
        ("bitfit", "norms|biases"),
        ("ln-tuning", "changes norms"),
        ("prompt-tuning", "virtual tokens"),
        ("prefix-tuning", "virtual tokens"),
        ("adapter-houlsby", "layers of its own"),
        ("loreft", "layers of its own"),
        ("top-layers", "norms|more than a low-rank product"),
        ("fish-mask", "more than a low-rank product"),
        ("head", "nothing but the head"),
        ("full", "the base's own weights"),
    ],
)
@pytest.mark.parametrize("vllm", [False, True])
def test_what_is_no_lora_says_why(method: str, words: str, vllm: bool, tmp_path: Path) -> None:
    base, _, predictor = saved("bert", method, tmp_path / "a")
    with pytest.raises(AdapterError, match=words) as caught:
        export_adapter(tmp_path / "out", base, predictor.loaded, "lora", vllm=vllm)
    works = method in ("head", "full") or predictor.loaded.adapter.method.mergeable
    assert ("--format merged" in caught.value.hint) == works
    has_form = (tmp_path / "a" / "adapter_config.json").is_file()
    assert ("--format peft" in caught.value.hint) == (has_form and not vllm)
    assert ("use it with Remora" in caught.value.hint) == (not works and (vllm or not has_form))
    assert ("vLLM" in caught.value.message) == vllm
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "lora"])
@pytest.mark.parametrize(("arch", "method"), [("bert", "lora"), ("llama", "vera"), ("roberta", "rslora")])
def test_vllm_gets_what_it_takes(arch: str, method: str, form: Any, tmp_path: Path) -> None:
    base, _, predictor = saved(arch, method, tmp_path / "a")
    done = export_adapter(tmp_path / "out", base, predictor.loaded, form, vllm=True)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert set(config["modules_to_save"]) <= {"classifier", "score"}
    neutral = ("use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "use_rslora")
    assert not any(config[key] for key in neutral)
    assert (config["bias"], config["init_lora_weights"]) == ("none", True)
    assert not {"layer_replication", "target_parameters"} & set(config)
    limit = 32 if method == "vera" else 8
    assert any(f"--max-lora-rank {limit} " in note for note in done.notes)


@pytest.mark.parametrize(
    ("arch", "method", "words"),
    [
        ("gpt2", "lora", "c_attn is a fused projection"),
        ("distilbert", "lora", "also trains pre_classifier"),
        ("deberta-v3", "lora", "also trains pooler"),
    ],
)
def test_vllm_refuses_what_only_peft_takes(arch: str, method: str, words: str, tmp_path: Path) -> None:
    base = tiny_base(arch)
    (outcome,) = run(base, toy_data(EXAMPLES, num_outputs=NUM_LABELS), [spec(method)]).values()
    save_adapter(tmp_path / "a", base, outcome, info(method))
    loaded = load_adapter(tmp_path / "a", base).loaded
    with pytest.raises(AdapterError, match=words) as caught:
        export_adapter(tmp_path / "out", base, loaded, "peft", vllm=True)
    assert "--format merged" in caught.value.hint
    export_adapter(tmp_path / "out", base, loaded, "lora")


def test_vllm_has_a_largest_rank(tmp_path: Path) -> None:
    base = tiny_base("bert")
    data = toy_data(EXAMPLES, num_outputs=NUM_LABELS)
    (outcome,) = run(base, data, [spec("vera", {"rank": 513, "targets": ("attention.v",)})]).values()
    save_adapter(tmp_path / "a", base, outcome, info("VeRA"))
    with pytest.raises(AdapterError, match="513, vLLM takes at most 512"):
        export_adapter(tmp_path / "out", base, load_adapter(tmp_path / "a", base).loaded, "lora", vllm=True)


@pytest.mark.parametrize("arch", ["bert", "llama"])
@pytest.mark.parametrize("method", [cls.name for cls in list_methods()])
def test_merged_folders_answer_as_the_adapter(arch: str, method: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    base, expected, predictor = saved(arch, method, tmp_path / "a")
    out = tmp_path / "out"
    mergeable = predictor.loaded.adapter.method.mergeable and (method, arch) not in NO_BIAS
    if not mergeable and method not in ("head", "full"):
        with pytest.raises(AdapterError, match="cannot be merged"):
            export_adapter(out, base, predictor.loaded, "merged")
        assert not out.exists()
        return
    done = export_adapter(out, base, predictor.loaded, "merged")
    assert (done.form, done.peft_type, done.rank) == ("merged", None, None)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: index for index, name in enumerate(NAMES)}
    model.config.pad_token_id = int(base.config.pad_token_id or 0)
    np.testing.assert_allclose(logits(model, base), expected, rtol=0, atol=1e-5)
    card = (out / "README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "remora.load_adapter" not in card


def test_merged_decoders_know_their_padding(tmp_path: Path) -> None:
    """Without a padding token in the configuration transformers would classify one text at a time only."""
    base = tiny_base("llama", pad_token_id=None)
    (outcome,) = run(base, toy_data(EXAMPLES, num_outputs=NUM_LABELS), [spec("lora")]).values()
    save_adapter(tmp_path / "a", base, outcome, info("LoRA"))
    loaded = load_adapter(tmp_path / "a", base).loaded
    tokenizer = SimpleNamespace(pad_token_id=7, save_pretrained=lambda folder: None)
    export_adapter(tmp_path / "out", replace(base, tokenizer=tokenizer), loaded, "merged")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] == 7
    assert base.config.pad_token_id is None


@pytest.mark.parametrize("method", ["lora", "dora", "vera", "sora", "bitfit", "p-tuning", "prefix-tuning"])
def test_peft_folders(method: str, tmp_path: Path) -> None:
    """The same two files as in the trial's own folder; Remora's record goes along where it describes them."""
    base, expected, predictor = saved("bert", method, tmp_path / "a")
    out = tmp_path / "out"
    done = export_adapter(out, base, predictor.loaded, "peft")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert not (out / "remora.safetensors").exists()
    assert done.num_bytes == sum(path.stat().st_size for path in out.iterdir())
    again = load_adapter(out, base, labels=() if (out / "remora.json").is_file() else NAMES)
    ranks = json.loads((out / "adapter_config.json").read_text()).get("rank_pattern")
    described = method not in ("bitfit", "p-tuning", "prefix-tuning") and not ranks
    assert (out / "remora.json").is_file() == described
    np.testing.assert_allclose(again.logits_of(EXAMPLES), expected, rtol=0, atol=1e-5)
    assert any("virtual token" in note for note in done.notes) == (method == "p-tuning")


@pytest.mark.parametrize("method", ["head", "full", "top-layers", "adapter-pfeiffer"])
def test_what_peft_has_no_form_for(method: str, tmp_path: Path) -> None:
    base, _, predictor = saved("bert", method, tmp_path / "a")
    with pytest.raises(AdapterError, match="cannot be written for peft"):
        export_adapter(tmp_path / "out", base, predictor.loaded, "peft")


def test_adapters_from_peft_go_out_again(tmp_path: Path) -> None:
    """An rsLoRA with ranks of its own per module, written by peft, as LoRA of one rank and merged."""
    from peft import LoraConfig

    base = tiny_base("bert")
    given = LoraConfig(
        task_type="SEQ_CLS", target_modules=["query", "value"], r=4, use_rslora=True, rank_pattern={"value": 2}
    )
    expected = logits(made("bert", given, tmp_path / "a"), base)
    loaded = load_adapter(tmp_path / "a", base).loaded
    export_adapter(tmp_path / "peft", base, loaded, "peft")
    export_adapter(tmp_path / "lora", base, loaded, "lora")
    np.testing.assert_allclose(peft_logits(tmp_path / "peft", "bert", base), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(plain_lora_logits(tmp_path / "lora", "bert", base), expected, rtol=0, atol=1e-5)
    assert "trained elsewhere" in (tmp_path / "lora" / "README.md").read_text()


def test_whole_modules_beside_an_adapter_go_into_merged_models_only(tmp_path: Path) -> None:
    from peft import LoraConfig

    base = tiny_base("bert")
    given = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=["pooler"])
    made("bert", given, tmp_path / "a")
    loaded = load_adapter(tmp_path / "a", base).loaded
    with pytest.raises(AdapterError, match=r"whole modules of the base beside it, such as bert\.pooler"):
        export_adapter(tmp_path / "out", base, loaded, "peft")
    export_adapter(tmp_path / "out", base, loaded, "merged")


@pytest.mark.parametrize("form", ["peft", "lora", "merged"])
def test_nothing_is_overwritten(form: Any, tmp_path: Path) -> None:
    base, _, predictor = saved("bert", "lora", tmp_path / "a")
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        export_adapter(tmp_path / "out", base, predictor.loaded, form)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, _, predictor = saved("bert", "lora", tmp_path / "a")

    def fail(*args: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr(export_module, "model_card", fail)
    with pytest.raises(ResourceError, match="no room"):
        export_adapter(tmp_path / "out", base, predictor.loaded, "lora")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
