"""Methods as a user meets them: ids, settings, what each declares, where it can attach."""

import itertools
import math
from functools import partial

import pytest
import torch

from remora.errors import ConfigError
from remora.methods.base import LogRange, SiteWeights, init_adapter, weights_at
from remora.methods.registry import get_method, list_methods
from remora.methods.vera import kaiming_uniform
from tests import tiny

METHODS = {cls.name: cls for cls in list_methods()}
FAMILIES = {"full", "head", "additive", "partial", "reparameterized", "hybrid", "unified"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_declares_itself(name: str) -> None:
    cls = METHODS[name]
    assert name == name.lower()
    assert cls.label
    assert cls.family in FAMILIES
    assert "arXiv:" in cls.citation
    assert 0 < cls.lr_range.low < cls.lr_range.high <= 1
    assert cls.examples[0] == {}, "the first example is the defaults"
    assert len(cls.examples) >= 2 or not cls.Config.model_fields
    assert cls.__doc__
    assert cls.use_when
    assert not cls.use_when.endswith(".")
    assert "use_when" in vars(cls), "what a subclass inherits is its parent's advice"
    module = __import__(cls.__module__, fromlist=["__doc__"])
    assert "arXiv:" in (module.__doc__ or "")


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_strict_and_frozen(name: str) -> None:
    with pytest.raises(ConfigError, match="surprise"):
        get_method(name, {"surprise": 1})
    method = get_method(name)
    for field in type(method.config).model_fields:
        with pytest.raises(ValueError, match="frozen"):
            setattr(method.config, field, 1)


def test_an_unknown_method_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match="no method 'lorra'") as caught:
        get_method("lorra")
    assert "did you mean" in caught.value.hint
    assert "lora" in caught.value.hint


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        get_method("lora", {"rank": 0, "dropout": 1.0, "rnak": 3})
    for word in ("rank", "dropout", "did you mean rank"):
        assert word in caught.value.message


@pytest.mark.parametrize("num", [1, 2, 4, 7])
def test_learning_rates_are_even_in_log_and_inside_the_range(num: int) -> None:
    values = LogRange(1e-4, 1e-2).grid(num)
    assert len(values) == num
    assert all(1e-4 <= value <= 1e-2 for value in values)
    steps = [math.log(after / before) for before, after in itertools.pairwise(values)]
    assert steps == pytest.approx([2 * math.log(10) / num] * (num - 1), abs=0.1)
    assert math.prod(values) ** (1 / num) == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("arch", tiny.ALL)
@pytest.mark.parametrize("name", METHODS)
def test_defaults_find_their_sites_on_every_architecture(name: str, arch: str) -> None:
    base = tiny.tiny_base(arch)
    method = get_method(name)
    if "kv" in method.site_kinds and arch in tiny.PADDED:
        with pytest.raises(ConfigError, match="are not available"):
            method.sites(base)
        return
    sites = method.sites(base)
    assert bool(sites) == (name not in ("full", "head"))
    adapter = init_adapter(method, sites, partial(weights_at, base), 0)
    again = init_adapter(method, sites, partial(weights_at, base), 0)
    for key, value in adapter.trained().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, again.trained()[key]), "the seed decides all"


@pytest.mark.parametrize(
    ("name", "targets"),
    [("lora", ("norm",)), ("vera", ("embedding",)), ("ia3", ("block",)), ("bitfit", ("embedding",))],
)
def test_a_kind_of_site_that_a_method_cannot_change(name: str, targets: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="cannot attach") as caught:
        get_method(name, {"targets": targets}).sites(tiny.tiny_base("bert"))
    assert "attaches to" in caught.value.hint


def test_ia3_does_not_scale_the_attention_output() -> None:
    """peft's default on BERT also takes attention.output.dense, whose name ends like the feed-forward's."""
    names = {site.name for site in get_method("ia3").sites(tiny.tiny_base("bert"))}
    assert names == {"attention.k", "attention.v", "ffn.down"}


def test_bitfit_says_where_it_added_biases() -> None:
    for arch, said in (("llama", True), ("bert", False), ("opt", False)):
        method = get_method("bitfit")
        remark = method.remark(method.sites(tiny.tiny_base(arch)))
        assert (remark is not None) == said
        if remark:
            assert "14 of 14" in remark


def test_bitfit_takes_norms_with_a_bias_inside_the_layers() -> None:
    sites = get_method("bitfit").sites(tiny.tiny_base("bert"))
    assert {site.name for site in sites if site.kind == "norm"} == {"norm.attention", "norm.ffn"}
    assert not [site for site in get_method("bitfit").sites(tiny.tiny_base("llama")) if site.kind == "norm"]


@pytest.mark.parametrize("name", METHODS)
def test_weight_decay_acts_on_matrices_only(name: str) -> None:
    method = get_method(name)
    assert not method.decays("anything", torch.zeros(3))
    assert method.decays("anything", torch.zeros(3, 3)) == (name != "prompt-tuning")


def test_lora_plus_speeds_up_b_alone() -> None:
    method = get_method("lora-plus", {"ratio": 2.0})
    assert (method.lr_multiplier("lora_B"), method.lr_multiplier("lora_A")) == (2.0, 1.0)


def test_vera_draws_as_peft_does() -> None:
    from peft.tuners.vera.model import _kaiming_init

    mine, theirs = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for shape in ((8, 32), (64, 8)):
        assert torch.equal(kaiming_uniform(*shape, mine), _kaiming_init(shape, theirs))


@pytest.mark.parametrize("init", ["vocabulary", "normal"])
@pytest.mark.parametrize("num", [3, 250])
def test_prompts_start_from_words_or_noise_like_them(init: str, num: int) -> None:
    base = tiny.tiny_base("bert")
    method = get_method("prompt-tuning", {"num_virtual_tokens": num, "init": init})
    (site,) = method.sites(base)
    table = weights_at(base, site).weight
    state = method.init(site, SiteWeights(weight=table, bias=None), {}, torch.Generator().manual_seed(0))
    prompt = state.trained["prompt"]
    assert prompt.shape == (num, table.shape[1])
    words = {tuple(row) for row in table.tolist()}
    is_word = [tuple(row) in words for row in prompt.tolist()]
    if init == "vocabulary":
        assert all(is_word)
        assert len({tuple(row) for row in prompt.tolist()}) == min(num, len(words))
    else:
        assert not any(is_word)
        assert float(prompt.std()) == pytest.approx(float(table.std()), rel=0.3)


def test_doras_norm_is_that_of_the_dense_weight() -> None:
    base = tiny.tiny_base("bert", torch.float64)
    method = get_method("dora", {"rank": 3, "dropout": 0.0})
    site = method.sites(base)[0]
    weights = weights_at(base, site)
    state = method.init(site, weights, {}, torch.Generator().manual_seed(0))
    tensors = {name: value.double() for name, value in {**state.trained, **state.frozen}.items()}
    tensors["lora_B"] = torch.randn(
        tensors["lora_B"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    change = method.change(tensors, site, weights)
    dense = weights.weight + change.scale * tensors["lora_B"] @ tensors["lora_A"]
    torch.testing.assert_close(change.out_scale, tensors["magnitude"] / dense.norm(dim=1), rtol=1e-10, atol=1e-10)
