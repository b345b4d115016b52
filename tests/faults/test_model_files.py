"""The loading gate on folders made by a stranger: no file outside is named, no code runs, nothing ends in a crash."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from remora.errors import ModelError
from remora.models.files import resolve
from remora.models.load import load_base
from tests.moods import write_model
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_unchanged_it_loads(model: Path) -> None:
    base = load_base(str(model))
    assert base.tokenizer("fine day")["input_ids"] != base.tokenizer("bad day")["input_ids"]


OUTSIDE = (
    "../outside.safetensors",
    "/outside.safetensors",
    "sub/inside.safetensors",
    "..\\outside.safetensors",
    "C:\\outside.safetensors",
    "a\0.safetensors",
    "%2e%2e%2foutside.safetensors",
    "\u2025\u2215outside.safetensors",
    "..",
    "",
    "pytorch_model-1.bin",
    "model.safetensors.pkl",
    5,
    None,
    ["model.safetensors"],
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_cannot_name_other_files(model: Path, tmp_path: Path, name: Any) -> None:
    shutil.copy(model / "model.safetensors", tmp_path / "outside.safetensors")
    (model / "model.safetensors").rename(model / "here.safetensors")
    keys = list(load_file(model / "here.safetensors"))
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, "here.safetensors")}))
    load_base(str(model))
    index.write_text(json.dumps({"metadata": {}, "weight_map": {**dict.fromkeys(keys, "here.safetensors"), "x": name}}))
    with pytest.raises(ModelError, match=r"points to|is missing"):
        load_base(str(model))


@pytest.mark.parametrize("content", ['{"weight_map": [1]}', '{"weight_map": "a"}', '{"weight_map": null}', "[]", "{"])
def test_an_index_of_another_shape(model: Path, content: str) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError):
        load_base(str(model))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("place", ["top", "nested", "in a list"])
def test_code_is_refused_wherever_it_is_named(model: Path, tmp_path: Path, file: str, place: str) -> None:
    marker = tmp_path / "marker"
    (model / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Evil: pass\n")
    code = {"auto_map": {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}}
    changes = {"top": code, "nested": {"text_config": code}, "in a list": {"parts": [1, [code]]}}[place]
    edit(model / file, **changes)
    with pytest.raises(ModelError, match=rf"{file} has auto_map"):
        load_base(str(model))
    assert not marker.exists()


def test_templates_are_never_rendered(model: Path, tmp_path: Path) -> None:
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    edit(model / "tokenizer_config.json", chat_template=template)
    (model / "chat_template.jinja").write_text(template)
    assert load_base(str(model)).tokenizer.chat_template is None


def test_a_tokenizer_cannot_take_its_words_from_elsewhere(model: Path, tmp_path: Path) -> None:
    before = load_base(str(model)).tokenizer.get_vocab()
    other = tmp_path / "tokenizer.4.0.0.json"
    content = json.loads((model / "tokenizer.json").read_text())
    content["model"]["vocab"] = {word[::-1]: index for word, index in content["model"]["vocab"].items()}
    other.write_text(json.dumps(content))
    # Paths of whoever saved the tokenizer are left in many real files; they mean nothing.
    edit(model / "tokenizer_config.json", tokenizer_file=str(other), vocab_file=str(other), name_or_path=str(tmp_path))
    assert load_base(str(model)).tokenizer.get_vocab() == before
    for names in ([f"../{other.name}"], [str(other)], ["tokenizer.json", None], f"../{other.name}"):
        edit(model / "tokenizer_config.json", fast_tokenizer_files=names)
        with pytest.raises(ModelError, match="fast_tokenizer_files"):
            load_base(str(model))
    edit(model / "tokenizer_config.json", fast_tokenizer_files=["tokenizer.json"])
    assert load_base(str(model)).tokenizer.get_vocab() == before


STRANGE: list[Any] = [None, True, -1, 0, 10**30, 1.5, "x", "", [], {}, [[]], {"a": 1}]
FIELDS = (
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "hidden_act",
    "max_position_embeddings",
    "model_type",
    "architectures",
    "id2label",
    "torch_dtype",
    "pad_token_id",
    "hidden_dropout_prob",
    "problem_type",
)


@pytest.mark.parametrize("field", FIELDS)
def test_a_configuration_with_strange_values_loads_or_is_an_error(model: Path, field: str) -> None:
    refused = 0
    for value in STRANGE:
        edit(model / "config.json", **{field: value})
        try:
            load_base(str(model))
        except ModelError:
            refused += 1
        edit(model / "config.json", **{field: None})
    if field in ("hidden_size", "vocab_size", "hidden_act", "model_type"):
        assert refused >= len(STRANGE) // 2


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"a": 1} {"b": 2}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"model": {"type": "BPE"}}',
        b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": 5}}',
        b'{"hidden_size": ' + b"9" * 5000 + b"}",
    ],
    ids=range(12),
)
def test_damaged_json(model: Path, file: str, content: bytes) -> None:
    (model / file).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_base(str(model))
    assert len(str(caught.value)) < 2000


def test_weights_of_another_shape(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path)
    key = next(name for name in tensors if name.endswith("query.weight"))
    for wrong in (tensors[key].flatten(), tensors[key][:0], tensors[key][None]):
        save_file({**tensors, key: wrong.contiguous()}, path, metadata={"format": "pt"})
        with pytest.raises(ModelError):
            load_base(str(model))


def test_a_folder_of_hub_links_loads_and_a_link_to_nothing_is_missing(model: Path, tmp_path: Path) -> None:
    """The Hub's cache holds links to files elsewhere, so links themselves are no offence."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for path in list(model.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert load_base(str(model)).hash() == tiny_base("bert").hash()
    (blobs / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load_base(str(model))


@pytest.mark.parametrize("id", ["../../etc", "a\0b", "owner/../name", "..", "./", "~", "file:///etc", "\\\\host\\x"])
def test_names_that_are_no_model(id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(ModelError):
        resolve(id)
