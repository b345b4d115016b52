"""Adapters that peft made and wrote: on a padded batch Remora answers what peft answers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from remora.adapters.format import AdapterInfo, save_adapter
from remora.adapters.merge import merged_tensors
from remora.errors import AdapterError, ConfigError, DataError
from remora.predict import load_adapter
from tests.adapters.test_format import INFO
from tests.peft_made import EXAMPLES, NUM_LABELS, logits, made
from tests.tiny import tiny_base, tiny_hf
from tests.trials import padded, run, spec, toy_data

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:Specified to not (save|load) vera_A:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning"),
]

QV = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"], "gpt2": ["c_attn", "mlp.c_proj"]}
MLP = {"bert": ["query", "output.dense"], "llama": ["up_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}
NORMS = {"bert": ["LayerNorm"], "llama": ["input_layernorm", "norm"], "gpt2": ["ln_1", "ln_f"]}


def config(kind: str, arch: str) -> Any:
    import peft

    task: dict[str, Any] = {"task_type": "SEQ_CLS"}
    conv: dict[str, Any] = {"fan_in_fan_out": True} if arch == "gpt2" else {}
    lora: dict[str, Any] = {**task, **conv, "target_modules": QV[arch], "r": 4, "lora_alpha": 6, "lora_dropout": 0.2}
    first = {"bert": "layer.0", "llama": "layers.0", "gpt2": "h.0"}[arch]
    match kind:
        case "lora":
            return peft.LoraConfig(**lora)
        case "five keys":
            return peft.LoraConfig(**task, **conv, r=4, lora_alpha=8, target_modules=MLP[arch])
        case "patterns":
            ranks = {QV[arch][0]: 2, rf"{first}.*{QV[arch][1]}": 5}
            return peft.LoraConfig(**lora, rank_pattern=ranks, alpha_pattern={QV[arch][1]: 3})
        case "rslora patterns":
            return peft.LoraConfig(**lora, use_rslora=True, rank_pattern={QV[arch][1]: 9})
        case "one layer":
            return peft.LoraConfig(**lora, layers_to_transform=[1])
        case "regex":
            return peft.LoraConfig(**{**lora, "target_modules": rf".*{first}\..*({'|'.join(QV[arch])})"})
        case "gaussian":
            return peft.LoraConfig(**lora, init_lora_weights="gaussian")
        case "pissa":
            return peft.LoraConfig(**lora, init_lora_weights="pissa")
        case "all-linear":
            return peft.LoraConfig(**{**lora, "target_modules": "all-linear"})
        case "rslora":
            return peft.LoraConfig(**lora, use_rslora=True)
        case "dora":
            return peft.LoraConfig(**lora, use_dora=True)
        case "dora rslora":
            return peft.LoraConfig(**lora, use_dora=True, use_rslora=True, rank_pattern={QV[arch][0]: 3})
        case "vera":
            return peft.VeraConfig(**task, **conv, target_modules=QV[arch], r=8, projection_prng_key=3)
        case "vera drawn":
            return peft.VeraConfig(**task, **conv, target_modules=MLP[arch], r=8, save_projection=False)
        case "ia3":
            return peft.IA3Config(**task, **conv, target_modules=MLP[arch], feedforward_modules=MLP[arch][1:])
        case "ln":
            return peft.LNTuningConfig(**task, target_modules=NORMS[arch])
        case "loha":
            return peft.LoHaConfig(**task, target_modules=QV[arch], r=3, alpha=5)
        case "beft":
            return peft.BeftConfig(**task, target_modules=QV[arch])
        case "prefix":
            return peft.PrefixTuningConfig(**task, num_virtual_tokens=3)
        case "prefix projected":
            return peft.PrefixTuningConfig(**task, num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=6)
        case _:
            raise AssertionError(kind)


METHODS = {
    "lora": "lora",
    "five keys": "lora",
    "patterns": "lora",
    "one layer": "lora",
    "regex": "lora",
    "gaussian": "lora",
    "pissa": "pissa",
    "rslora": "rslora",
    "rslora patterns": "rslora",
    "dora": "dora",
    "dora rslora": "dora",
    "vera": "vera",
    "vera drawn": "vera",
    "ia3": "ia3",
    "ln": "ln-tuning",
    "loha": "loha",
    "beft": "bitfit",
    "prefix": "prefix-tuning",
    "prefix projected": "prefix-tuning",
}
GPT2 = ("lora", "patterns", "dora", "vera", "ia3", "ln", "prefix")
CELLS = [(arch, kind) for arch in ("bert", "llama") for kind in METHODS] + [("gpt2", kind) for kind in GPT2]


@pytest.mark.parametrize(("arch", "kind"), CELLS)
def test_answers_are_peft_s(arch: str, kind: str, tmp_path: Path) -> None:
    base = tiny_base(arch)
    model = made(arch, config(kind, arch), tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    expected = logits(model, base)
    assert predictor.record.method == METHODS[kind]
    assert np.abs(expected - expected.mean(0)).max() > 0.05, "all answers alike would hide a mistake"
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), expected, rtol=0, atol=1e-5)
    if predictor.loaded.adapter.method.mergeable:
        if kind == "beft" and arch == "llama":
            return  # there is no bias that could hold the trained one
        merged = tiny_hf(arch, NUM_LABELS)
        merged.config.pad_token_id = int(merged.config.pad_token_id or 0)
        merged.load_state_dict(merged_tensors(base, predictor.loaded))
        np.testing.assert_allclose(logits(merged, base), expected, rtol=0, atol=1e-5)


def test_layers_of_the_pooler_become_weights(tmp_path: Path) -> None:
    """``all-linear`` on BERT takes the pooler along, where Remora has no site."""
    base = tiny_base("bert")
    model = made("bert", config("all-linear", "bert"), tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), logits(model, base), rtol=0, atol=1e-5)
    assert set(predictor.loaded.base_params) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    merged = tiny_hf("bert", NUM_LABELS)
    merged.load_state_dict(merged_tensors(base, predictor.loaded))
    np.testing.assert_allclose(logits(merged, base), logits(model, base), rtol=0, atol=1e-5)


@pytest.mark.parametrize("saved", ["pooler", "layer.1.output.LayerNorm", "word_embeddings"])
def test_modules_held_whole(saved: str, tmp_path: Path) -> None:
    from peft import LoraConfig

    given = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], modules_to_save=[saved])
    base = tiny_base("bert")
    model = made("bert", given, tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    assert all(saved in name for name in predictor.loaded.base_params)
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), logits(model, base), rtol=0, atol=1e-5)
    merged = tiny_hf("bert", NUM_LABELS)
    merged.load_state_dict(merged_tensors(base, predictor.loaded))
    np.testing.assert_allclose(logits(merged, base), logits(model, base), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["roberta", "distilbert", "modernbert", "gpt_neox", "albert", "deberta-v3"])
def test_other_heads_and_layers(arch: str, tmp_path: Path) -> None:
    from peft import LoraConfig

    targets = {"roberta": "dense", "distilbert": "q_lin", "modernbert": "Wqkv", "gpt_neox": "query_key_value"}
    saved = {"deberta-v3": ["pooler"]}.get(arch)
    target = {**targets, "albert": "query", "deberta-v3": "query_proj"}[arch]
    base = tiny_base(arch)
    given = LoraConfig(task_type="SEQ_CLS", target_modules=[target], modules_to_save=saved)
    model = made(arch, given, tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), logits(model, base), rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("encoder", [False, True])
def test_prompts_give_peft_s_hidden_states(arch: str, encoder: bool, tmp_path: Path) -> None:
    """peft's classification models read a virtual token, so the backbone's hidden states are compared."""
    from peft import PromptEncoderConfig, PromptTuningConfig

    given: dict[str, Any] = {"task_type": "SEQ_CLS", "num_virtual_tokens": 3}
    base = tiny_base(arch)
    made_of = PromptEncoderConfig(**given, encoder_hidden_size=8) if encoder else PromptTuningConfig(**given)
    model = made(arch, made_of, tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    assert (predictor.record.method, predictor.record.remark is None) == ("prompt-tuning", base.pooling == "last")
    hf: Any = model.get_submodule("base_model")
    backbone = hf.get_submodule(base.arch.prefix)
    batch = padded(EXAMPLES, range(len(EXAMPLES)), int(base.config.pad_token_id or 0))
    with torch.no_grad():
        prompt = cast(Any, model).get_prompt(batch_size=len(EXAMPLES))
        inputs = {
            "inputs_embeds": torch.cat([prompt, backbone.get_input_embeddings()(batch["input_ids"])], 1),
            "attention_mask": F.pad(batch["attention_mask"], (3, 0), value=1),
        }
        if base.takes_type_ids:
            inputs["token_type_ids"] = F.pad(batch["token_type_ids"], (3, 0))
        hidden = backbone(**inputs).last_hidden_state
        last = 3 + batch["attention_mask"].sum(1) - 1
        rows = hidden[torch.arange(len(EXAMPLES)), last] if base.pooling == "last" else hidden[:, 3]
        expected = predictor.loaded.head.forward(predictor.loaded.head_params, rows).numpy()
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_prompts_of_decoders_answer_as_peft_without_padding(arch: str, tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    base = tiny_base(arch)
    model = made(arch, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3), tmp_path / "a")
    predictor = load_adapter(tmp_path / "a", base)
    for number in range(len(EXAMPLES)):
        one = replace(EXAMPLES, ids=[EXAMPLES.ids[number]], type_ids=[EXAMPLES.type_ids[number]])
        np.testing.assert_allclose(predictor.logits_of(one), logits(model, base, one), rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "vera", "ia3", "ln-tuning", "bitfit", "sora", "pissa"])
@pytest.mark.parametrize("arch", ["bert", "gpt2"])
def test_peft_folders_of_remora_without_its_record(arch: str, method: str, tmp_path: Path) -> None:
    """What Remora wrote for peft reads as an adapter of peft's, and answers the same."""
    base = tiny_base(arch)
    (outcome,) = run(base, toy_data(EXAMPLES, num_outputs=NUM_LABELS), [spec(method, lr=0.05)]).values()
    names = ("a", "b", "c")
    info = AdapterInfo(**{**vars(INFO), "label_names": names})
    save_adapter(tmp_path / "a", base, outcome, info)
    if not (tmp_path / "a" / "adapter_config.json").is_file():
        assert (method, arch) == ("bitfit", "gpt2")
        return
    with pytest.raises(ConfigError, match="labels of its own: a, b, c"):
        load_adapter(tmp_path / "a", base, labels=names)
    (tmp_path / "a" / "remora.json").unlink()
    predictor = load_adapter(tmp_path / "a", base, labels=names)
    assert predictor.record.label_names == names
    np.testing.assert_allclose(predictor.logits_of(EXAMPLES), outcome.logits["validation"], rtol=0, atol=1e-5)


def test_labels_and_number_of_texts(tmp_path: Path) -> None:
    made("bert", config("lora", "bert"), tmp_path / "a")
    plain = load_adapter(tmp_path / "a", tiny_base("bert"))
    assert plain.record.label_names == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert (plain.record.task, plain.record.num_texts, plain.text_columns) == ("classification", None, ("text",))
    named = tiny_base("bert")
    named.config.id2label = {0: "no", 1: "yes", 2: "maybe"}
    assert load_adapter(tmp_path / "a", named).record.label_names == ("no", "yes", "maybe")
    assert load_adapter(tmp_path / "a", named, labels=("x", "y", "z")).record.label_names == ("x", "y", "z")
    with pytest.raises(AdapterError, match="3 outputs, 2 labels"):
        load_adapter(tmp_path / "a", named, labels=("x", "y"))
    with pytest.raises(DataError, match="a string or a pair of strings"):
        plain.predict([("a", "b", "c")])  # type: ignore[list-item]
    with pytest.raises(DataError, match="some texts are pairs"):
        plain.predict(["a", ("a", "b")])


def test_half_precision_files_are_read_in_full(tmp_path: Path) -> None:
    base = tiny_base("bert")
    made("bert", config("lora", "bert"), tmp_path / "a")
    path = tmp_path / "a" / "adapter_model.safetensors"
    halves = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(halves, path, metadata={"format": "pt"})
    loaded = load_adapter(tmp_path / "a", base).loaded
    assert {value.dtype for value in (*loaded.adapter.trained().values(), *loaded.head_params.values())} == {
        torch.float32
    }
