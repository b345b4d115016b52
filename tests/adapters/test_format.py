"""Adapter folders: what is in them, that they appear whole, and that nothing wrong is read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import remora
from remora.adapters import format as adapter_format
from remora.adapters.format import AdapterInfo, save_adapter
from remora.adapters.record import read_record
from remora.engine.trial import TrialOutcome
from remora.errors import AdapterError, ResourceError
from remora.models.base import Base
from remora.models.files import file_sha256
from remora.predict import load_adapter
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

INFO = AdapterInfo(
    label="LoRA r=4",
    task="classification",
    label_names=("NA", "007", 'ja, "so"'),
    num_texts=2,
    text_columns=("question", "answer"),
    data_name="toy",
    data_hash="abc",
    metric="macro_f1",
    metrics={"test": {"macro_f1": 0.5, "accuracy": 0.75}},
    max_length=48,
    hyperparameters={"lr": 1e-3},
    seed=3,
    stream="s",
    trial="t1",
)
DATA = toy_data(toy_examples(9, num_outputs=3), num_outputs=3)


def train(arch: str, method: str, settings: dict[str, Any]) -> tuple[Base, TrialOutcome]:
    base = tiny_base(arch)
    return base, run(base, DATA, [spec(method, settings, seed=3)]).popitem()[1]


@pytest.fixture
def lora(tmp_path: Path) -> tuple[Base, Path]:
    base, outcome = train("bert", "lora", {"rank": 4})
    save_adapter(tmp_path / "adapter", base, outcome, INFO)
    return base, tmp_path / "adapter"


def test_peft_files_are_as_peft_writes_them(lora: tuple[Base, Path]) -> None:
    base, folder = lora
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["task_type"] == "SEQ_CLS"
    assert config["base_model_name_or_path"] == base.name
    assert config["target_modules"] == ["query", "value"]
    assert config["modules_to_save"] == ["classifier"]
    assert (config["r"], config["lora_alpha"], config["bias"], config["use_dora"]) == (4, 16.0, "none", False)
    assert config["fan_in_fan_out"] is False
    assert config["inference_mode"] is True
    names = set(load_file(folder / "adapter_model.safetensors"))
    prefix = "base_model.model."
    site = prefix + "bert.encoder.layer.0.attention.self.query"
    assert {f"{site}.lora_A.weight", f"{site}.lora_B.weight", f"{prefix}classifier.weight"} <= names
    assert len(names) == 2 * 2 * 2 + 2
    with (folder / "adapter_model.safetensors").open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    assert header["__metadata__"] == {"format": "pt"}


def test_peft_knows_every_key_of_the_settings(tmp_path: Path) -> None:
    from peft import PeftConfig

    for method, settings in (
        ("lora", {}),
        ("dora", {}),
        ("vera", {}),
        ("ia3", {}),
        ("bitfit", {}),
        ("prompt-tuning", {}),
    ):
        base, outcome = train("bert", method, settings)
        save_adapter(tmp_path / method, base, outcome, INFO)
        config = PeftConfig.from_pretrained(str(tmp_path / method))  # an unknown key would be a warning, hence an error
        written = json.loads((tmp_path / method / "adapter_config.json").read_text())
        assert set(written) <= set(config.to_dict())


def test_blocks_of_a_fused_projection_become_one_adapter_of_summed_rank(tmp_path: Path) -> None:
    base, outcome = train("gpt2", "lora", {"rank": 4, "alpha": 8, "targets": ("attention.q", "attention.v", "ffn.up")})
    save_adapter(tmp_path / "a", base, outcome, INFO)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert config["fan_in_fan_out"] is True
    assert set(config["target_modules"]) == {"c_attn", "c_fc"}
    name = "transformer.h.0.attn.c_attn"
    A, B = (tensors[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    assert (A.shape, B.shape) == ((8, 32), (96, 8))
    assert not B[:32, 4:].any()
    assert not B[32:64].any()
    assert not B[64:, :4].any()
    ranks = {**dict.fromkeys([name], config["r"]), **config["rank_pattern"]}
    alphas = {**dict.fromkeys([name], config["lora_alpha"]), **config["alpha_pattern"]}
    for key, rank in ranks.items():
        assert alphas[key] / rank == 2.0
        assert tensors[f"base_model.model.{key}.lora_A.weight"].shape[0] == rank


def test_record_and_card(lora: tuple[Base, Path]) -> None:
    base, folder = lora
    record = read_record(folder)
    assert record.label_names == INFO.label_names
    assert (record.method, record.settings["rank"], record.settings["alpha"]) == ("lora", 4, 16.0)
    assert (record.seed, record.stream, record.trial, record.data_hash) == (3, "s", "t1", "abc")
    assert record.base.sha256 == base.sha256
    assert record.base.dtype == "float32"
    assert record.remora == remora.__version__
    card = (folder / "README.md").read_text()
    for line in ('library_name: "peft"', "LoRA r=4 on toy", "PeftModel.from_pretrained(model", "| test | 50.00 |"):
        assert line in card
    blocks = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")


@pytest.mark.parametrize(("method", "words"), [("head", "no form"), ("full", "AutoModel"), ("bitfit", "whole norms")])
def test_cards_of_other_kinds(method: str, words: str, tmp_path: Path) -> None:
    base, outcome = train("bert", method, {})
    save_adapter(tmp_path / "a", base, outcome, INFO)
    assert words in (tmp_path / "a" / "README.md").read_text()


def test_card_says_what_was_added(tmp_path: Path) -> None:
    base, outcome = train("llama", "bitfit", {})
    save_adapter(tmp_path / "a", base, outcome, INFO)
    assert "zero biases added to 14 of 14" in (tmp_path / "a" / "README.md").read_text()


def test_a_folder_appears_whole_or_not_at_all(
    lora: tuple[Base, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, folder = lora
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    _, other = train("bert", "lora", {"rank": 2})

    def fail(*args: object) -> str:
        raise OSError("no room")

    monkeypatch.setattr(adapter_format, "model_card", fail)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(ResourceError, match="cannot be written"):
            save_adapter(target, base, other, INFO)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_writing_again_replaces_the_folder(lora: tuple[Base, Path]) -> None:
    base, folder = lora
    (folder / "stray").write_text("old")
    _, other = train("bert", "lora", {"rank": 2})
    size = save_adapter(folder, base, other, INFO)
    assert size == (folder / "adapter_model.safetensors").stat().st_size
    assert not (folder / "stray").exists()
    assert read_record(folder).settings["rank"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def rewrite(folder: Path, change: Any) -> None:
    """Change the tensors and the recorded hash, as someone who edits an adapter by hand would."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    record = json.loads((folder / "remora.json").read_text())
    record["files"][path.name] = file_sha256(path)
    (folder / "remora.json").write_text(json.dumps(record))


KEY = "base_model.model.bert.encoder.layer.1.attention.self.value.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(KEY), "1 tensors are missing, such as"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "1 tensors are unknown, such as extra"),
        (lambda t: t.update({KEY: torch.zeros(3, 4)}), r"has shape \(3, 4\), expected \(32, 4\)"),
        (lambda t: t[KEY].fill_(torch.nan), "not finite"),
        (lambda t: t.pop("base_model.model.classifier.bias"), "classifier.bias"),
    ],
)
def test_wrong_tensors_are_refused(lora: tuple[Base, Path], change: Any, words: str) -> None:
    base, folder = lora
    rewrite(folder, change)
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, base)


def test_unchanged_tensors_pass_the_same_way(lora: tuple[Base, Path]) -> None:
    base, folder = lora
    rewrite(folder, lambda tensors: None)
    load_adapter(folder, base)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone", "text"])
def test_damaged_files_are_refused(lora: tuple[Base, Path], damage: str) -> None:
    base, folder = lora
    path = folder / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    new = {"flip": bytes(data), "cut": bytes(data[:-100]), "empty": b"", "text": b"x" * 1000}
    path.unlink() if damage == "gone" else path.write_bytes(new[damage])
    words = {"flip": "was changed", "gone": "is missing"}.get(damage, "cannot be read")
    with pytest.raises(AdapterError, match=words):
        load_adapter(folder, base)


def test_another_base_is_refused(lora: tuple[Base, Path]) -> None:
    _, folder = lora
    with pytest.raises(AdapterError, match="another model") as caught:
        load_adapter(folder, tiny_base("bert", seed=1))
    assert "tiny-bert" in caught.value.hint
    with pytest.raises(AdapterError, match="another model"):
        load_adapter(folder, tiny_base("bert", torch.bfloat16))


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 2}', "not json"])
def test_a_damaged_record_is_refused(lora: tuple[Base, Path], text: str) -> None:
    base, folder = lora
    (folder / "remora.json").write_text(text)
    with pytest.raises(AdapterError, match=r"remora\.json"):
        load_adapter(folder, base)


def test_folders_that_are_no_adapters_of_ours(lora: tuple[Base, Path], tmp_path: Path) -> None:
    base, folder = lora
    assert load_adapter(folder, base).record.num_texts == 2
    (folder / "remora.json").unlink()
    assert load_adapter(folder, base).record.num_texts is None  # read as one of peft's
    with pytest.raises(AdapterError, match="not an adapter"):
        load_adapter(tmp_path / "nowhere", base)


def test_a_record_that_names_no_file_is_refused(lora: tuple[Base, Path]) -> None:
    base, folder = lora
    record = json.loads((folder / "remora.json").read_text())
    record["files"] = {}
    (folder / "remora.json").write_text(json.dumps(record))
    with pytest.raises(AdapterError, match="names no adapter_model"):
        load_adapter(folder, base)


@pytest.mark.parametrize("method", ["bitfit", "head", "vera"])
def test_own_files_are_checked_too(method: str, tmp_path: Path) -> None:
    base, outcome = train("bert" if method != "vera" else "gpt2", method, {})
    folder = tmp_path / "a"
    save_adapter(folder, base, outcome, INFO)
    path = folder / "remora.safetensors"
    assert read_record(folder).storage == "remora"
    other = replace(outcome, head={name: value + 1 for name, value in outcome.head.items()})
    save_adapter(tmp_path / "b", base, other, INFO)
    shutil.copy(tmp_path / "b" / path.name, path)
    with pytest.raises(AdapterError, match="was changed"):
        load_adapter(folder, base)
