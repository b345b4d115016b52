"""Sites on every architecture: how many, of what shape, what they compute, and what can never be one."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from remora.errors import ConfigError
from remora.models.base import Base
from remora.models.sites import Site, all_sites, find_sites, names_of, site_weight
from tests.models.probe import hidden, ids_of, probe
from tests.tiny import ALL, PACKED, PADDED, tiny_base, tiny_hf

FUSED = ("modernbert", "gpt2", "phi3", "gpt_neox")
GATED = ("modernbert", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
GROUPED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
LAYERS = {name: 3 if name == "modernbert" else 1 if name == "albert" else 2 for name in ALL}


@pytest.mark.parametrize("name", ALL)
def test_linear_is_every_linear_layer_inside_the_layers_and_nothing_else(name: str) -> None:
    base = tiny_base(name)
    sites = find_sites(base, ["linear"])
    per_layer = {False: {False: 6, True: 7}, True: {False: 4, True: 4}}[name in FUSED][name in GATED]
    assert len(sites) == per_layer * LAYERS[name]
    inside = [
        path
        for path, module in base.model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if "layer" in path or path.startswith("h.")
    ]
    assert sorted(site.module for site in sites) == sorted(inside)
    for site in sites:
        assert not any(word in site.hf_name for word in ("pooler", "classifier", "score", "embed", "head."))
        weight, bias = site_weight(base, site)
        assert weight.shape == (site.out_features, site.in_features)
        assert (bias is not None) == site.bias


@pytest.mark.parametrize("name", ALL)
def test_every_architecture_has_the_portable_names(name: str) -> None:
    base = tiny_base(name)
    kv_rows = 16 if name in GROUPED else 32
    for target, shape in {
        "attention.q": (32, 32),
        "attention.k": (kv_rows, 32),
        "attention.v": (kv_rows, 32),
        "attention.o": (32, 32),
        "ffn.up": (64, 32),
        "ffn.down": (32, 64),
    }.items():
        sites = find_sites(base, [target])
        assert len(sites) == LAYERS[name]
        assert {(site.out_features, site.in_features) for site in sites} == {shape}
        assert {site_weight(base, site)[0].shape for site in sites} == {shape}
    assert len(find_sites(base, ["block"])) == LAYERS[name]
    (embedding,) = find_sites(base, ["embedding"])
    assert embedding.module in {path for path, module in base.model.named_modules() if isinstance(module, nn.Embedding)}
    if name in GATED:
        assert len(find_sites(base, ["ffn.gate"])) == LAYERS[name]
    else:
        with pytest.raises(ConfigError, match=r"'ffn\.gate' matches nothing"):
            find_sites(base, ["ffn.gate"])


@pytest.mark.parametrize("name", ALL)
def test_names_in_the_classification_model_are_true(name: str) -> None:
    model, base = tiny_hf(name), tiny_base(name)
    for site in all_sites(base):
        theirs, ours = model.get_submodule(site.hf_name), base.model.get_submodule(site.module)
        assert type(theirs) is type(ours)
        for ours_p, theirs_p in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(ours_p, theirs_p)


@pytest.mark.parametrize("name", PACKED)
def test_query_key_and_value_sites_compute_what_attention_receives(name: str) -> None:
    base = tiny_base(name, torch.float64)
    recorded = probe(base)
    ids = ids_of(1, 7)
    inputs: dict[str, torch.Tensor] = {}
    layers = [site.module for site in find_sites(base, ["attention.kv"])]

    def keep(path: str, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
        inputs.setdefault(path, args[0] if args else kwargs["hidden_states"])

    for path in layers:
        base.model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, kwargs, path=path: keep(path, args, kwargs), with_kwargs=True
        )
    hidden(base, input_ids=ids, position_ids=torch.zeros_like(ids))  # rotary embeddings turn nothing at position 0
    assert recorded.calls
    for path, (module, query, key, value) in zip(layers, recorded.calls, strict=False):
        assert module is base.model.get_submodule(path)
        x = inputs[path]
        for target, received in (("attention.q", query), ("attention.k", key), ("attention.v", value)):
            if name in ("qwen3", "gemma3") and target != "attention.v":
                continue  # normalised per head before attention sees them
            (site,) = [s for s in find_sites(base, [target]) if s.module.startswith(path)]
            weight, bias = site_weight(base, site)
            computed = F.linear(x, weight, bias)
            if name == "opt" and target == "attention.q":
                computed = computed * module.scaling  # OPT scales queries itself
            heads = computed.view(1, 7, received.shape[1], received.shape[3]).transpose(1, 2)
            # ModernBERT rotates in float32 whatever the model's type is.
            torch.testing.assert_close(heads, received, rtol=0, atol=1e-6 if name == "modernbert" else 1e-12)


@pytest.mark.parametrize("name", PACKED)
def test_the_kv_site_is_the_module_that_calls_the_attention_function(name: str) -> None:
    base = tiny_base(name)
    recorded = probe(base)
    hidden(base, input_ids=ids_of(1, 7))
    sites = find_sites(base, ["attention.kv"])
    called = Counter(id(call[0]) for call in recorded.calls)
    assert called == {id(base.model.get_submodule(site.module)): site.calls for site in sites}
    for site in sites:
        key = recorded.calls[0][2]
        assert (site.heads, site.in_features) == (key.shape[1], key.shape[1] * key.shape[3])


@pytest.mark.parametrize("name", GATED)
def test_gate_up_and_down_make_the_feed_forward(name: str) -> None:
    base = tiny_base(name, torch.float64)
    (down,) = [s for s in find_sites(base, ["ffn.down"]) if s.layer == 1]
    mlp = base.model.get_submodule(down.module.rpartition(".")[0])
    x = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    settings = base.config.to_dict()
    act = ACT2FN[settings.get("hidden_activation") or settings["hidden_act"]]
    gate, up = (_apply(base, s, x) for t in ("ffn.gate", "ffn.up") for s in find_sites(base, [t]) if s.layer == 1)
    with torch.no_grad():
        torch.testing.assert_close(_apply(base, down, act(gate) * up), mlp(x), rtol=0, atol=1e-12)


def _apply(base: Base, site: Site, x: torch.Tensor) -> torch.Tensor:
    weight, bias = site_weight(base, site)
    return F.linear(x, weight, bias)


@pytest.mark.parametrize("name", FUSED)
def test_parts_of_a_fused_projection_tile_it(name: str) -> None:
    base = tiny_base(name)
    for whole in find_sites(base, ["attention.qkv"]):
        rows: list[int] = []
        for part in all_sites(base):
            if part.module == whole.module and part.is_part:
                assert part.kind == "linear"
                rows += torch.arange(whole.out_features)[part.rows()].tolist()
        assert sorted(rows) == list(range(whole.out_features))


@pytest.mark.parametrize("name", ALL)
def test_calls_and_shared_calls_are_declared(name: str) -> None:
    """A site that is called more often than once, or on tensors without one row per token, says so."""
    base = tiny_base(name)
    batch, length = 3, 7
    calls: Counter[str] = Counter()
    without_rows: set[str] = set()

    def record(path: str, x: torch.Tensor) -> None:
        rows = x.shape[0] * x.shape[1] if x.dim() > 2 else x.shape[0]
        (calls.update([path]) if rows == batch * length else without_rows.add(path))

    sites = [s for s in all_sites(base) if s.kind in ("linear", "norm") and s.name not in ("norm.q", "norm.k")]
    for path in {site.module for site in sites}:
        base.model.get_submodule(path).register_forward_pre_hook(lambda _, args, path=path: record(path, args[0]))
    ids = ids_of(batch, length)
    hidden(base, input_ids=ids, attention_mask=torch.ones_like(ids))
    for site in sites:
        assert (site.module in without_rows) == site.shared, site.id
        assert calls[site.module] == (0 if site.name == "norm.relative" else site.calls), site.id
    assert bool(without_rows) == (base.arch.model_type == "deberta-v2")


def test_deberta_without_shared_keys_has_its_own_position_projections() -> None:
    base = tiny_base("deberta-v2", share_att_key=False)
    assert {"attention.pos_q", "attention.pos_k"} <= set(names_of(find_sites(base, ["linear"])))
    assert "attention.pos_q" not in names_of(all_sites(tiny_base("deberta-v2")))


def test_albert_runs_one_layer_several_times() -> None:
    assert [(s.layer, s.calls) for s in find_sites(tiny_base("albert"), ["attention.q"])] == [(0, 3)]
    groups = find_sites(tiny_base("albert", num_hidden_layers=5, num_hidden_groups=2), ["attention.q"])
    assert [(s.layer, s.calls) for s in groups] == [(0, 3), (3, 2)]


@pytest.mark.parametrize("name", ALL)
def test_norm_is_every_norm_of_the_residual_stream(name: str) -> None:
    base = tiny_base(name)
    sites = find_sites(base, ["norm"])
    others = {s.module for t in ("norm.q", "norm.k", "norm.relative") if _has(base, t) for s in find_sites(base, [t])}
    with_weight = {
        path
        for path, module in base.model.named_modules()
        if "Norm" in type(module).__name__ and dict(module.named_parameters(recurse=False))
    }
    assert {site.module for site in sites} | others == with_weight
    assert not {site.module for site in sites} & others


def _has(base: Base, target: str) -> bool:
    return target in names_of(all_sites(base))


@pytest.mark.parametrize("name", PADDED)
def test_padded_architectures_take_no_extra_keys(name: str) -> None:
    with pytest.raises(ConfigError, match="are not available for tiny-"):
        find_sites(tiny_base(name), ["attention.kv"])


def test_a_target_that_matches_nothing_names_the_nearest_and_what_exists() -> None:
    with pytest.raises(ConfigError, match="matches nothing in tiny-bert") as caught:
        find_sites(tiny_base("bert"), ["attention.q", "atention.v"])
    assert "did you mean 'attention.v'?" in caught.value.hint
    assert "ffn.down" in caught.value.hint


@pytest.mark.parametrize("target", ["pooler.dense", "bert.pooler.dense", "classifier", "pooler", ""])
def test_head_and_pooler_are_out_of_reach(target: str) -> None:
    with pytest.raises(ConfigError, match="matches nothing"):
        find_sites(tiny_base("bert"), [target])


def test_exact_module_names_work_with_and_without_prefix() -> None:
    base = tiny_base("electra")
    path = "encoder.layer.1.attention.self.query"
    (known,) = find_sites(base, [path])
    assert (known.name, known.layer) == ("attention.q", 1)
    assert find_sites(base, ["electra." + path]) == (known,)
    (other,) = find_sites(base, ["embeddings_project"])
    assert (other.name, other.kind, other.in_features, other.out_features) == ("embeddings_project", "linear", 16, 32)
    (positions,) = find_sites(base, ["embeddings.position_embeddings"])
    assert positions.kind == "embedding"
    with pytest.raises(ConfigError, match="is a ElectraSelfAttention"):
        find_sites(base, ["encoder.layer.0.attention.self"])


def test_each_site_once_and_in_order() -> None:
    base = tiny_base("bert")
    sites = find_sites(base, ["attention.v", "attention.q", "linear", "encoder.layer.0.attention.self.query"])
    assert len(sites) == len({site.id for site in sites}) == 12
    assert [site.name for site in sites[:2]] == ["attention.q", "attention.k"]


def test_a_fused_projection_and_its_part_together_are_an_error() -> None:
    with pytest.raises(ConfigError, match="as a whole and its part"):
        find_sites(tiny_base("gpt2"), ["attention.qkv", "attention.q"])


def test_weights_of_other_sites_are_refused() -> None:
    base = tiny_base("bert")
    with pytest.raises(ConfigError, match="not a linear layer"):
        site_weight(base, find_sites(base, ["norm"])[0])
