"""Combinations: how they are written, what they refuse, and that parts do in them what they do alone."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from remora.adapters.format import save_adapter
from remora.adapters.merge import merged_tensors
from remora.adapters.record import PEFT_CONFIG
from remora.config.load import build_study
from remora.config.methods_arg import parse_methods
from remora.config.yaml12 import parse_text
from remora.engine.trial import Examples
from remora.errors import ConfigError
from remora.methods.base import LinearChange, Method, SiteWeights, join
from remora.methods.combination import Combination
from remora.methods.registry import get_method, list_methods
from remora.predict import load_adapter
from tests.contract.checks import check_naive
from tests.contract.test_storage import EXAMPLES, INFO, transformers_logits
from tests.methods.test_trajectories import Side, agree, follow, train
from tests.tiny import tiny_base, tiny_hf
from tests.trials import record_steps, run, spec, toy_data

KNOWN = [cls.name for cls in list_methods()]


@pytest.mark.parametrize(
    ("line", "yaml"),
    [
        ("combine:of=lora+bitfit", "combine: {of: lora+bitfit}"),
        ("combine:of=[lora: {rank: 4}, bitfit]", "combine: {of: [lora: {rank: 4}, bitfit]}"),
        (
            "combine:label=both,of=[lora: {rank: 2, targets: [ffn.up]}, bitfit: {targets: [norm]}]",
            "id: combine\n  label: both\n  settings:\n    of:\n      - lora:\n          rank: 2\n"
            "          targets: [ffn.up]\n      - bitfit: {targets: [norm]}",
        ),
    ],
)
def test_one_line_and_yaml_say_the_same(line: str, yaml: str) -> None:
    entry, dora = parse_methods(f"{line},dora", KNOWN)
    assert dora.id == "dora"
    tree, _ = parse_text(f"model: m\ndata: d\nmethods:\n- {yaml}\n")
    assert build_study(tree).methods == (entry,)  # type: ignore[arg-type]
    method = get_method(entry.id, entry.settings)
    stored = method.config.model_dump(mode="json")
    assert get_method("combine", stored).config.model_dump(mode="json") == stored
    (lora,) = stored["of"][0].values()
    assert set(lora) == {"rank", "alpha", "dropout", "targets"}, "defaults are part of the record"


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("lora", "at least two"),
        ("lora+lorra", "no method 'lorra'"),
        ([{"lora": {"rnak": 2}}, {"bitfit": {"target": []}}], "rnak"),
        ([{"lora": {"rnak": 2}}, {"bitfit": {"target": []}}], "settings of method 'bitfit'"),
        ([{"lora": {}, "bitfit": {}}, "dora"], "neither a method's id nor"),
        ([7, "lora"], "neither a method's id nor"),
        (7, "a list of ids"),
        ("lora+full", "cannot join full, which trains the base's own weights"),
        ("prompt-tuning+prefix-tuning", "each wants virtual tokens"),
        ("fish-mask+fish-mask", "each wants a look at gradients"),
    ],
)
@pytest.mark.parametrize("name", ["combine", "autopeft"])
def test_parts_that_cannot_be(name: str, of: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method(name, {"of": of})
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("arch", "of", "said"),
    [
        ("bert", "lora+head", "head attaches to nothing"),
        ("bert", "lora+ia3", "ia3 and lora meet at attention.v, where ia3 scales the outputs"),
        ("bert", "ia3+ia3", "ia3 scales the outputs"),
        ("bert", [{"ia3": {"targets": ["ffn.down"]}}, {"ia3": {"targets": ["ffn.down"]}}], "scales the inputs"),
        ("bert", "dora+lora", "dora scales the outputs"),
        ("bert", "lora+rslora+pissa", "dropout 0.1) and pissa (dropout 0) meet at attention.q"),
        ("bert", "ln-tuning+bitfit", "ln-tuning and bitfit meet at norm.attention"),
        (
            "gpt2",
            [{"lora": {"targets": ["attention.qkv"]}}, {"ia3": {"targets": ["attention.v"]}}],
            "scales the outputs",
        ),
        ("gpt2", [{"lora": {"targets": ["attention.q"]}}, {"dylora": {"dropout": 0.3}}], "all low-rank terms"),
        ("bert", [{"lora": {"targets": ["nowhere"]}}, "bitfit"], "'nowhere' matches nothing"),
    ],
)
def test_parts_that_cannot_meet(arch: str, of: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_method("combine", {"of": of}).sites(tiny_base(arch))
    assert said in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("of", "said"),
    [
        ("lora+prefix-tuning", "cannot choose where prefix-tuning acts"),
        ("lora+adalora", "cannot choose where adalora acts"),
        ("lora+compacter", "cannot choose where compacter acts"),
        ("lora+fish-mask", "cannot choose where fish-mask acts"),
        ("bitfit+combine", "cannot choose where combine acts"),
    ],
)
def test_parts_that_no_search_can_take(of: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        get_method("autopeft", {"of": of})
    with pytest.raises(ConfigError, match="cannot put a gate on dora"):
        get_method("autopeft", {"of": "dora+bitfit"}).sites(tiny_base("bert"))


MEETINGS: list[tuple[str, Any]] = [
    ("bert", [{"dora": {"dropout": 0.0}}, "bitfit"]),
    ("llama", [{"ia3": {}}, {"bitfit": {}}]),
    ("bert", [{"ia3": {"targets": ["ffn.down"]}}, {"lora": {"dropout": 0.0, "targets": ["ffn.down"]}}, "top-layers"]),
    ("gpt2", [{"lora": {"dropout": 0.0, "targets": ["attention.q"]}}, {"ia3": {"targets": ["attention.v"]}}]),
    ("gpt2", [{"lora": {"dropout": 0.0, "targets": ["attention.qkv"]}}, {"rslora": {"dropout": 0.0}}, "bitfit"]),
    ("bert", ["vera", {"lora": {"dropout": 0.0}}, {"lora": {"dropout": 0.0, "rank": 2}}, "loha", "weight-mask"]),
]


@pytest.mark.parametrize(("arch", "of"), MEETINGS)
def test_what_parts_add_is_added_up(arch: str, of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By formula with every part alone, and merged into plain weights, where a base has the biases."""
    base = tiny_base(arch, torch.float64)
    steps = record_steps(monkeypatch)
    trial = spec("combine", {"of": of}, batch_size=5, base_dropout=False, warmup=0.0, lr=0.02)
    (outcome,) = run(base, toy_data(EXAMPLES), [trial]).values()
    method = get_method("combine", {"of": of})
    method.sites(base)
    check_naive(base, tiny_hf(arch, dtype=torch.float64), method, EXAMPLES, steps[trial.id])
    if arch == "llama":
        return
    save_adapter(tmp_path / "a", base, outcome, INFO)
    predictor = load_adapter(tmp_path / "a", base)
    assert np.array_equal(predictor.logits_of(EXAMPLES), outcome.logits["validation"])
    model = tiny_hf(arch, dtype=torch.float64)
    model.load_state_dict(merged_tensors(base, predictor.loaded))
    np.testing.assert_allclose(transformers_logits(model, base), outcome.logits["validation"], rtol=0, atol=1e-6)


def test_two_low_rank_terms_are_one_of_summed_rank() -> None:
    rng = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 5, generator=rng), torch.randn(4, 3, generator=rng)
    one = LinearChange(A=A[:2], B=B[:, :2], scale=0.5, dropout=0.1, bias=torch.ones(4))
    other = LinearChange(A=A[2:], B=B[:, 2:], scale=3.0, dropout=0.1, in_scale=torch.full((5,), 2.0))
    whole = join([one, LinearChange(bias=torch.ones(4)), other])
    assert whole.A is not None
    assert (whole.A.shape, whole.dropout) == ((3, 5), 0.1)
    weight = torch.randn(4, 5, generator=rng)
    expected = 2 * weight + 0.5 * B[:, :2] @ A[:2] + 3.0 * B[:, 2:] @ A[2:]
    torch.testing.assert_close(whole.delta_weight(weight), expected)
    torch.testing.assert_close(whole.bias, torch.full((4,), 2.0))


def test_low_rank_terms_alone_are_a_lora_file(tmp_path: Path) -> None:
    """Unless a fused projection is changed as a whole and in a part, which one LoRA per layer cannot say."""
    split = [{"lora": {"targets": ["attention.qkv"]}}, {"rslora": {"targets": ["attention.q"]}}]
    cases = {"bert": ("lora+rslora", True), "gpt2": (split, False), "llama": ("dora+rslora", False)}
    for arch, (of, has_form) in cases.items():
        base = tiny_base(arch)
        settings = {"of": of if arch != "llama" else [{"dora": {"targets": ["ffn.up"]}}, "rslora"]}
        (outcome,) = run(base, toy_data(EXAMPLES), [spec("combine", settings)]).values()
        save_adapter(tmp_path / arch, base, outcome, INFO)
        assert (tmp_path / arch / PEFT_CONFIG).is_file() == has_form
        assert np.array_equal(load_adapter(tmp_path / arch, base).logits_of(EXAMPLES), outcome.logits["validation"])


def test_hooks_of_parts_follow_their_own_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """SoRA's proximal step, with the trial's learning rate, beside DyLoRA's drawn ranks."""
    sora = {"rank": 6, "dropout": 0.0, "sparsity": 3.0, "targets": ["attention.v"]}
    settings = {"of": [{"sora": sora}, {"dylora": {"rank": 4, "dropout": 0.0}}, "bitfit"]}
    method, steps, outcome = train("combine", settings, 1e-2, monkeypatch)

    def threshold(side: Side, step: int) -> None:
        for gate in side.named("sora/gate").values():
            gate.copy_(gate.sign() * (gate.abs() - side.lr * 3.0).clamp_min(0))

    agree(follow(method, steps, 1e-2, after=threshold), outcome, steps)
    assert len({int(next(v for n, v in step.drawn.items() if n.endswith("dylora/rank"))) for step in steps}) > 1


NEUTRAL = {"bitfit": {"targets": ["attention.k"]}}
"""On BERT the gradient of a key's bias is exactly zero, so that this part changes nothing."""
ALONE = [
    cls.name
    for cls in list_methods()
    if cls.name not in ("full", "head")
    and cls.base_quantization == "none"
    and "kv" not in cls.site_kinds  # which have keys without that bias
]


def test_every_method_does_beside_another_what_it_does_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases, penalties, surveys, several forwards, decays and rates included; parts draw from the whole's stream."""
    monkeypatch.setattr("remora.methods.combination.fold", lambda seed, key: seed)
    base = tiny_base("bert", torch.float64)
    common: dict[str, Any] = {"max_steps": 7, "epochs": 7, "batch_size": 4, "base_dropout": False}
    specs = []
    for name in ALONE:
        own = small_settings(name)
        specs.append(spec(name, own, id=name, **common))
        specs.append(spec("combine", {"of": [{name: own}, NEUTRAL]}, id=f"{name} beside", **common))
    outcomes = run(base, toy_data(EXAMPLES), specs)
    for name in ALONE:
        alone, beside = outcomes[name], outcomes[f"{name} beside"]
        np.testing.assert_allclose(
            alone.logits["validation"], beside.logits["validation"], rtol=0, atol=1e-6, err_msg=name
        )
        for key, value in alone.adapter.items():
            scope, _, short = key.rpartition(".")
            torch.testing.assert_close(beside.adapter[f"{scope}.{name}/{short}"], value, rtol=0, atol=1e-6, msg=key)


def test_no_hook_is_left_out() -> None:
    """A hook that `Method` gains is either passed on to the parts or named here."""
    of_no_use = {
        *("summary", "check_base"),  # which go by what the class and the parts say
        *("targets", "variants"),  # parts have targets of their own, and no form with fewer ranks for all
        *("peft_exact", "peft_state", "peft_shared", "from_peft", "rescaled"),  # of types other than LoRA
    }
    hooks = {name for name, value in vars(Method).items() if not name.startswith("_") and _is_hook(value)}
    assert hooks - of_no_use == hooks & set(vars(Combination))


def _is_hook(value: object) -> bool:
    return isinstance(value, property | classmethod) or inspect.isfunction(value)


def test_a_quantised_part_wants_the_base_quantised() -> None:
    assert get_method("combine", {"of": "qlora+bitfit"}).base_quantization == "nf4"
    assert get_method("combine", {"of": "lora+bitfit"}).base_quantization == "none"


def test_mam_is_the_combination_of_its_parts() -> None:
    prefix = {"num_virtual_tokens": 3, "encoder_hidden": 4, "head_ratio": 1.0}
    inside = {"bottleneck": 5, "scale": 2.0}
    parts = [{"prefix-tuning": prefix}, {"adapter-parallel": inside}]
    specs = [spec("mam", {**prefix, **inside}, id="mam"), spec("combine", {"of": parts}, id="combine")]
    outcomes = run(tiny_base("bert"), toy_data(EXAMPLES), specs)
    mam, combine = outcomes["mam"], outcomes["combine"]
    assert set(mam.adapter) == set(combine.adapter)
    assert all(torch.equal(value, combine.adapter[name]) for name, value in mam.adapter.items())


def small_settings(name: str) -> dict[str, Any]:
    """Small settings under which much of a method happens within seven steps."""
    small: dict[str, dict[str, Any]] = {
        "adalora": {"initial_rank": 4, "target_rank": 2, "interval": 1},
        "fish-mask": {"density": 0.02, "num_examples": 3},
        "lora-drop": {"survey": 0.5, "threshold": 0.4},
        "sora": {"sparsity": 2.0},
        "delta-lora": {"start": 0.3},
    }
    return small.get(name, {})


def test_tensors_and_rates_belong_to_their_parts() -> None:
    method = get_method("combine", {"of": ["lora-plus", "lora-plus", "weight-mask"]})
    names = set(names_at_a_site(method))
    assert {"lora-plus/lora_A", "lora-plus-2/lora_A", "weight-mask/scores"} <= names
    assert method.lr_multiplier("lora-plus-2/lora_B") == get_method("lora-plus").lr_multiplier("lora_B")
    assert method.lr_multiplier("weight-mask/scores") == 1.0
    assert not method.decays("weight-mask/scores", torch.zeros(2, 2))
    assert method.decays("lora-plus/lora_A", torch.zeros(2, 2))


def names_at_a_site(method: Any) -> list[str]:
    base = tiny_base("bert")
    site = next(site for site in method.sites(base) if site.name == "attention.q")
    weights = SiteWeights(weight=torch.zeros(32, 32), bias=torch.zeros(32))
    return list(method.init(site, weights, {}, torch.Generator().manual_seed(0)).trained)


def test_the_range_to_tune_lies_between_those_of_the_parts() -> None:
    found = get_method("combine", {"of": "lora+bitfit"}).lr_range
    assert found == type(get_method("combine")).lr_range
    one, other = get_method("lora").lr_range, get_method("bitfit").lr_range
    assert one.low < found.low < other.low
    assert one.high < found.high < other.high


def test_a_remark_names_its_part() -> None:
    base = tiny_base("llama")
    method = get_method("combine")
    said = method.remark(method.sites(base))
    assert said is not None
    assert said.startswith("bitfit: zero biases added to")


def test_a_gate_sees_its_own_text_alone() -> None:
    base = tiny_base("roberta", torch.float64)
    settings = {"num_virtual_tokens": 2, "encoder_hidden": 4, "rank": 2, "bottleneck": 3}
    one = Examples(ids=EXAMPLES.ids[3:4], type_ids=EXAMPLES.type_ids[3:4], targets=EXAMPLES.targets[3:4])
    together, alone = (
        run(base, toy_data(EXAMPLES, validation=some), [spec("unipelt", settings, lr=0.05)]).popitem()[1]
        for some in (EXAMPLES, one)
    )
    found, expected = alone.logits["validation"][0], together.logits["validation"]
    np.testing.assert_allclose(found, expected[3], rtol=0, atol=1e-6)
    assert np.abs(found - expected[4]).max() > 1e-3
