"""Encoder-decoders as bases: loaded, mapped and hashed with their heads; their sites; what is refused, and how."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from remora.errors import ConfigError, ModelError
from remora.methods.registry import get_method
from remora.models import load
from remora.models.base import LM_HEAD, Base
from remora.models.frozen_linear import NF4Linear
from remora.models.heads import HeadTemplate
from remora.models.load import load_base
from remora.models.sites import all_sites, find_sites
from tests.models.test_load import save_tokenizer
from tests.seq2seq import ALL, CROSS, UNTIED, seq2seq_base, seq2seq_hf
from tests.tiny import MAX_POSITIONS, VOCAB


def write_model(folder: Path, name: str, **overrides: Any) -> Path:
    seq2seq_hf(name, torch.float32, **overrides).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("name", ALL)
def test_a_folder_gives_back_the_weights_mapped_or_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(write_model(tmp_path, name))
    if name in UNTIED:  # as transformers' own files of T5 1.1 say it
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": False}))
    before = torch.random.get_rng_state()
    base = load_base(folder, language_head=True)
    assert torch.equal(before, torch.random.get_rng_state())
    expected = seq2seq_base(name, torch.float32)
    assert base.hash() == expected.hash()
    assert list(base.pooler) == list(expected.pooler)
    assert not base.model.training
    assert base.config is base.model.config
    assert base.config.tie_word_embeddings == (name not in UNTIED) == (LM_HEAD not in base.pooler)
    assert base.arch.lm_scale(base.config) == (32**-0.5 if name == "t5" else 1.0)
    monkeypatch.setattr(load, "_from_files", None)  # the second load must find everything in the cache
    again = load_base(folder, language_head=True)
    assert again.hash() == base.hash()
    assert again.config.tie_word_embeddings == base.config.tie_word_embeddings
    assert set(again.pooler) == set(base.pooler)
    weights = {module.weight for key, module in again.model.named_modules() if key.endswith(("shared", "embed_tokens"))}
    assert len(weights) == 1, "the stacks no longer share their embedding"


def test_the_backbone_is_what_transformers_has_below_the_head() -> None:
    for name in ALL:
        base, model = seq2seq_base(name), seq2seq_hf(name)
        assert type(base.model).__name__ == type(model).__name__.replace("ForConditionalGeneration", "Model")
        assert not any(value.is_meta for value in [*base.model.parameters(), *base.model.buffers()])
        assert base.num_params == sum(p.numel() for p in model.parameters()) + (VOCAB if "bart" in name else 0)
        assert base.hidden_size == 32
        assert base.max_positions == (MAX_POSITIONS if "bart" in name else 512)


def test_a_bias_on_logits_that_says_nothing_is_left_out() -> None:
    assert list(seq2seq_base("bart").pooler) == ["final_logits_bias"]
    model = seq2seq_hf("bart")
    model.final_logits_bias.zero_()
    files = load.ModelFiles(name="bart", source="test")
    assert not load.make_base(model, tokenizer=None, files=files, missing=(), dtype=torch.float64).pooler


@pytest.mark.parametrize("name", ALL)
def test_names_of_sites_are_those_of_transformers_modules(name: str) -> None:
    base, model = seq2seq_base(name), seq2seq_hf(name)
    sites = all_sites(base)
    for site in sites:
        ours, theirs = base.model.get_submodule(site.module), model.get_submodule(site.hf_name)
        assert type(ours) is type(theirs)
        pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    linear = {path for path, module in base.model.named_modules() if isinstance(module, nn.Linear)}
    assert {site.module for site in find_sites(base, ["linear"])} == linear
    norms = {path for path, module in base.model.named_modules() if "Norm" in type(module).__name__}
    assert {site.module for site in find_sites(base, ["norm"])} == norms


@pytest.mark.parametrize("name", ALL)
def test_both_stacks_have_the_same_names_and_layers_are_counted_through(name: str) -> None:
    base = seq2seq_base(name)
    for target in ("attention.q", "attention.k", "attention.v", "attention.o", "ffn.up", "ffn.down", "norm.ffn"):
        sites = find_sites(base, [target])
        assert [site.layer for site in sites] == [0, 1, 2, 3, 4], target
        assert [site.module.split(".")[0] for site in sites] == ["encoder"] * 2 + ["decoder"] * 3
    for target in (*CROSS, "norm.cross"):
        sites = find_sites(base, [target])
        assert [site.layer for site in sites] == [2, 3, 4]
        assert all(site.source == (target in ("cross.k", "cross.v")) for site in sites)
    assert [site.module for site in find_sites(base, ["embedding"])] == ["encoder.embed_tokens"]
    assert [site.module for site in find_sites(base, ["embedding.decoder"])] == ["decoder.embed_tokens"]
    assert [site.layer for site in find_sites(base, ["block"])] == [0, 1]
    gated = name in ("flan-t5", "mt5")
    assert any(site.name == "ffn.gate" for site in all_sites(base)) == gated


def test_gate_and_up_are_told_apart() -> None:
    base = seq2seq_base("flan-t5")
    gate, up, down = (find_sites(base, [name])[0].module for name in ("ffn.gate", "ffn.up", "ffn.down"))
    layer = base.model.get_submodule(gate.rpartition(".")[0])
    x = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gated, upper = (base.model.get_submodule(path)(x) for path in (gate, up))
        inside = torch.nn.functional.gelu(gated, approximate="tanh") * upper
        torch.testing.assert_close(base.model.get_submodule(down)(inside), layer(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["encoder_layerdrop", "decoder_layerdrop"])
def test_layers_that_are_skipped_at_random_are_refused(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, "bart", **{name: 0.1})
    with pytest.raises(ModelError, match=rf"{name} 0\.1"):
        load_base(str(folder), language_head=True)


def test_what_an_encoder_decoder_cannot_do_is_said_before_anything_is_read(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path, "t5"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="is an encoder-decoder, which writes text") as caught:
        load_base(folder)
    assert "minilm" in caught.value.hint
    with pytest.raises(ModelError, match="cannot be held in 4 bits"):
        load_base(folder, language_head=True, quantization="nf4")


@pytest.mark.parametrize("method", ["prefix-tuning", "p-tuning-v2", "mam", "unipelt"])
def test_keys_from_outside_are_refused(method: str) -> None:
    with pytest.raises(ConfigError, match="extra keys and values"):
        get_method(method, {}).sites(seq2seq_base("bart"))


def test_heads_for_classes_are_refused() -> None:
    base: Base = seq2seq_base("bart")
    for kind in ("sequence", "choice", "token", "coreference"):
        with pytest.raises(ModelError, match="it has no head for classes"):
            _ = HeadTemplate(base=base, num_outputs=2, kind=kind).steps


def test_bart_is_held_in_4_bits(tmp_path: Path) -> None:
    folder = str(write_model(tmp_path, "bart", d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64))
    base = load_base(folder, language_head=True, quantization="nf4")
    assert sum(isinstance(module, NF4Linear) for module in base.model.modules()) == 2 * 6 + 3 * 10
    assert load_base(folder, language_head=True, quantization="nf4").hash() == base.hash()
    assert base.sha256 == load_base(folder, language_head=True).hash()
