"""A quantised base: everything linear in codes, nothing else touched, kept and mapped like a dense one, and smaller."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.pytorch_utils import Conv1D

from remora.errors import ModelError
from remora.models.frozen_linear import NF4_TENSORS, NF4Linear, linear_weight
from remora.models.load import load_base
from remora.models.nf4 import quantise
from remora.models.quantised import dense_tensors, linear_layers, quantised
from remora.models.sites import all_sites, find_sites, site_weight
from remora.study.machine import give_memory_back
from remora.study.resident import resident
from tests.models.test_load import save_model
from tests.tiny import ALL, dense_twin, tiny_base, tiny_quantised


@pytest.mark.parametrize("name", ALL)
def test_linear_layers_are_held_in_codes_and_the_rest_as_it_was(name: str) -> None:
    dense = tiny_base(name)
    held = tiny_quantised(name)
    assert linear_layers(held.model) == []
    layers = linear_layers(dense.model)
    for path, module in layers:
        layer = held.model.get_submodule(path)
        assert isinstance(layer, NF4Linear)
        assert not hasattr(layer, "weight")
        expected = quantise(linear_weight(module))
        assert all(torch.equal(getattr(layer, each), getattr(expected, each)) for each in NF4_TENSORS)
    weights = {f"{path}.weight" for path, _ in layers}
    rest = {key: value for key, value in dense.model.named_parameters() if key not in weights}
    assert {key for key, _ in held.model.named_parameters()} == set(rest)
    assert all(torch.equal(value, rest[key]) for key, value in held.model.named_parameters())
    assert not any(parameter.requires_grad for parameter in held.model.parameters())
    assert (held.num_params, held.dense_bytes) == (dense.num_params, dense.num_bytes)
    assert held.num_bytes < dense.num_bytes
    assert held.sha256 == dense.sha256
    assert held.hash() != dense.hash()
    assert [site.id for site in all_sites(held)] == [site.id for site in all_sites(dense)]
    assert all_sites(held) == all_sites(dense)


@pytest.mark.parametrize("name", ALL)
def test_dense_tensors_are_every_parameter_as_transformers_lays_it_out(name: str) -> None:
    dense, held = tiny_base(name), tiny_quantised(name)
    shapes = {key: value.shape for key, value in dense.model.named_parameters()}
    assert {key: value.shape for key, value in dense_tensors(held)} == shapes
    twin = dense_twin(held, name)
    for site in find_sites(held, ("linear",)):
        for mine, theirs in zip(site_weight(held, site), site_weight(twin, site), strict=True):
            assert mine is theirs is None or torch.equal(mine, theirs)


def test_parts_of_a_fused_projection_are_rows_of_the_whole() -> None:
    held = tiny_quantised("gpt2")
    (whole,) = [site for site in find_sites(held, ("attention.qkv",)) if site.layer == 0]
    weight, _ = site_weight(held, whole)
    for name, rows in (("q", slice(0, 32)), ("k", slice(32, 64)), ("v", slice(64, 96))):
        (part,) = [site for site in find_sites(held, (f"attention.{name}",)) if site.layer == 0]
        assert torch.equal(site_weight(held, part)[0], weight[rows])
        assert torch.equal(site_weight(held, part, weight)[0], weight[rows])


@pytest.mark.parametrize("transposed", [False, True])
def test_a_layer_computes_with_its_dense_weight_forward_and_backward(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 40, generator=generator)
    bias = torch.randn(24, generator=generator)
    held = NF4Linear(quantise(weight), bias, dtype=torch.float64, transposed=transposed)
    x = torch.randn(2, 5, 40, generator=generator, dtype=torch.float64)
    held.bias = nn.Parameter(bias.double(), requires_grad=False)
    plain = Conv1D(24, 40) if transposed else nn.Linear(40, 24)
    dense = held.dense()
    plain.weight = nn.Parameter(dense.t().contiguous() if transposed else dense, requires_grad=False)
    plain.bias = nn.Parameter(bias.double(), requires_grad=False)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = held(ours), plain(theirs)
    assert torch.allclose(y, expected, rtol=0, atol=1e-12)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-11)


def test_nothing_dense_is_kept_for_the_backward_pass() -> None:
    held = NF4Linear(quantise(torch.randn(64, 64)), None, dtype=torch.float32)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.append(value.numel()) or value, lambda value: value
    ):
        held(torch.randn(3, 64, requires_grad=True)).sum()
    assert max(kept, default=0) < 64 * 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "albert", "modernbert"])
def test_what_is_mapped_from_the_cache_is_what_was_quantised(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(save_model(tmp_path / "model", name))
    expected = quantised(load_base(folder, dtype=dtype))
    first = load_base(folder, dtype=dtype, quantization="nf4")

    def no_loading(*_: object, **__: object) -> None:
        raise AssertionError("the weights were read again")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", no_loading)
    again = load_base(folder, dtype=dtype, quantization="nf4")
    for base in (first, again):
        assert base.hash() == expected.hash()
        assert (base.sha256, base.quantization, base.dtype) == (expected.sha256, "nf4", dtype)
        assert set(base.pooler) == set(expected.pooler)
    assert load_base(folder, dtype=dtype).quantization == "none"


def test_a_number_that_is_not_finite_is_refused() -> None:
    base = tiny_base("bert")
    with torch.no_grad():
        base.model.get_parameter("encoder.layer.1.output.dense.weight")[0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.output\.dense\.weight holds numbers that are not finite"):
        quantised(base)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much of a mapped file is resident")
def test_a_process_holds_less_by_what_the_codes_save(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path / "model", hidden_size=512, intermediate_size=2048))
    for how in ("none", "nf4"):
        load_base(folder, quantization=how)  # makes the files that are mapped below
    grown: dict[str, int] = {}
    said: dict[str, int] = {}
    for how in ("nf4", "none"):
        give_memory_back()
        before = resident()
        base = load_base(folder, quantization=how)
        base.hash()  # reads every page
        give_memory_back()
        after = resident()
        grown[how] = after.own + after.shared - before.own - before.shared
        said[how] = base.num_bytes
        del base
    saved = said["none"] - said["nf4"]
    assert saved > 20 * 10**6
    assert abs(grown["none"] - grown["nf4"] - saved) < 0.2 * saved


@pytest.mark.real
def test_a_real_encoder_takes_a_third_of_its_room_and_stays_itself() -> None:
    """10.6 of MiniLM's 22.7 million numbers are in linear layers; the rest stays in bfloat16."""
    dense, held = (load_base("minilm", dtype=torch.bfloat16, quantization=how) for how in ("none", "nf4"))
    linear = 10_616_832
    assert held.dense_bytes == dense.num_bytes
    assert abs(dense.num_bytes - held.num_bytes - linear * (2 - 4.13 / 8)) < 0.001 * linear
    ids = torch.tensor([[101, 1037, 4937, 2938, 2006, 1996, 13523, 102]])
    with torch.no_grad():
        mine, theirs = (base.model(input_ids=ids).last_hidden_state.float() for base in (held, dense))
    assert 0.9 < float(torch.cosine_similarity(mine[0], theirs[0]).min()) < 0.99999


@pytest.mark.real
def test_the_sites_of_a_real_decoder() -> None:
    held = load_base("smollm2", dtype=torch.bfloat16, quantization="nf4")
    sites = find_sites(held, ("linear",))
    assert len(sites) == 30 * 7
    assert held.num_params == 134_515_008
    assert held.num_bytes < 0.5 * held.dense_bytes
    assert {type(held.model.get_submodule(site.module)) for site in sites} == {NF4Linear}
