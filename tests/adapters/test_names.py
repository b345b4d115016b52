"""Suffixes of module names mean exactly the modules wanted, as peft matches them."""

import pytest

from remora.adapters.names import module_names, short_names
from remora.methods.registry import get_method
from remora.models.heads import HeadTemplate
from tests import tiny

NAMES = {
    "bert.encoder.layer.0.attention.self.query",
    "bert.encoder.layer.0.attention.output.dense",
    "bert.encoder.layer.0.output.dense",
    "bert.encoder.layer.1.attention.self.query",
    "bert.encoder.layer.1.attention.output.dense",
    "bert.encoder.layer.1.output.dense",
    "bert.pooler.dense",
    "classifier",
}


def named(*ends: str) -> list[str]:
    return sorted(name for name in NAMES if name.endswith(ends))


def test_one_word_where_it_is_enough() -> None:
    assert short_names(named("query"), NAMES) == ["query"]


def test_feed_forward_does_not_take_the_attention_output() -> None:
    wanted = ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"]
    assert short_names(wanted, NAMES) == ["0.output.dense", "1.output.dense"]


def test_a_part_of_the_layers() -> None:
    assert short_names(["bert.encoder.layer.1.attention.self.query"], NAMES) == ["1.attention.self.query"]


def test_all_linear_layers_without_the_pooler() -> None:
    wanted = [name for name in sorted(NAMES) if "layer" in name]
    assert set(short_names(wanted, NAMES)) == {"output.dense", "query"}


@pytest.mark.parametrize("arch", tiny.ALL)
@pytest.mark.parametrize("targets", [("attention.q", "attention.v"), ("ffn.down",), ("linear",)])
def test_matches_exactly_the_sites_on_every_architecture(arch: str, targets: tuple[str, ...]) -> None:
    base = tiny.tiny_base(arch)
    names = module_names(base, HeadTemplate(base=base, num_outputs=2))
    real = {name for name, _ in tiny.tiny_hf(arch).named_modules()}
    wanted = {site.hf_name for site in get_method("lora", {"targets": targets}).sites(base)}
    suffixes = short_names(sorted(wanted), names)
    matched = {name for name in real if any(name == s or name.endswith("." + s) for s in suffixes)}
    assert matched == wanted
