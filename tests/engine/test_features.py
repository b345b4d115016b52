"""Known states at the bottom of the stack: the same numbers as computing everything, and really not computed again."""

from collections.abc import Callable

import pytest
import torch

from remora.data.order import permutation
from remora.engine import features, stack
from remora.engine.driver import Driver
from remora.engine.features import FeatureCache
from remora.engine.lanes import Lane
from remora.engine.trial import TrialOutcome
from remora.models.base import Base
from remora.models.sites import find_sites
from tests.contract.checks import largest_difference
from tests.tiny import ALL, tiny_base
from tests.trials import run, spec, toy_data, toy_examples

DATA = toy_data(toy_examples(10), validation=toy_examples(7, seed=1))
ENTERABLE = tuple(name for name in ALL if name != "albert")


def upper(base: Base, layer: int = 1) -> dict[str, object]:
    """LoRA settings for one layer's value or fused projection, by module path."""
    sites = find_sites(base, ("linear",))
    chosen = [site.module for site in sites if site.layer == layer][:3]
    return {"targets": tuple(chosen), "dropout": 0.0}


def passes_of_bottom_layer(base: Base, fields: dict[str, object]) -> list[int]:
    """Rows with which the lowest layer's own forward was run, pass by pass, while one trial trained."""
    return rows_of_bottom_layer(base, lambda: run(base, DATA, [spec("lora", upper(base), **fields)]))


def rows_of_bottom_layer(base: Base, work: Callable[[], object]) -> list[int]:
    """Rows with which the lowest layer's own forward was run meanwhile, pass by pass."""
    seen: list[int] = []
    bottom = base.model.get_submodule(base.arch.layer_paths(base.config)[0].path)
    linear = next(module for module in bottom.modules() if isinstance(module, torch.nn.Linear))
    handle = linear.register_forward_hook(lambda module, args, output: seen.append(output.shape[-2]))
    work()
    handle.remove()
    return seen


@pytest.mark.parametrize("arch", ENTERABLE)
def test_entering_above_the_bottom_changes_no_number(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(arch, torch.float64)
    trials = [
        spec("lora", upper(base), id="lora", curve=True, base_dropout=False),
        spec("bitfit" if arch not in ("llama", "mistral") else "dora", upper_targets(base), id="b", base_dropout=False),
    ]
    entered = run(base, DATA, trials)
    monkeypatch.setattr(features, "MOST_BYTES", 0)
    computed = run(base, DATA, trials)
    for name, outcome in entered.items():
        assert largest_difference(outcome, computed[name]) < 1e-9
        assert curve(outcome) == pytest.approx(curve(computed[name]), abs=1e-9)


def upper_targets(base: Base) -> dict[str, object]:
    return {"targets": upper(base)["targets"]}


def curve(outcome: TrialOutcome) -> list[float]:
    return [point.train_loss for point in outcome.curve]


def test_layers_below_are_run_once_per_split(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("bert")
    tokens = {name: sum(map(len, DATA.split(name, 0).ids)) for name in ("train", "validation")}
    seen = passes_of_bottom_layer(base, {"base_dropout": False, "epochs": 3, "curve": True})
    assert sum(seen) == tokens["train"] + tokens["validation"]
    monkeypatch.setattr(features, "MOST_BYTES", 0)
    seen = passes_of_bottom_layer(base, {"base_dropout": False, "epochs": 3, "curve": True})
    assert sum(seen) == 3 * tokens["train"] + 4 * tokens["validation"]


def test_a_head_that_sees_part_of_the_data_has_no_more_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten examples it sees six, once; its numbers are those of a trial that has all rows at hand."""
    base = tiny_base("bert", torch.float64)
    limited = spec("head", {}, batch_size=2, epochs=2, max_steps=3, splits=())
    order = permutation(limited.seed, 0, 10)[:6]
    train = DATA.split("train", 0)
    results: list[TrialOutcome] = []
    seen = rows_of_bottom_layer(base, lambda: results.append(run(base, DATA, [limited])[limited.id]))
    assert sum(seen) == sum(len(train.ids[i]) for i in order)
    monkeypatch.setattr(Lane, "seen", None)
    seen = rows_of_bottom_layer(base, lambda: results.append(run(base, DATA, [limited])[limited.id]))
    assert sum(seen) == sum(map(len, train.ids))
    assert largest_difference(*results) < 1e-12


def test_with_dropout_in_the_base_every_step_runs_all_layers() -> None:
    seen = passes_of_bottom_layer(tiny_base("bert"), {"epochs": 3, "splits": ()})
    assert sum(seen) == 3 * sum(map(len, DATA.split("train", 0).ids))
    llama = tiny_base("llama")
    assert not llama.has_dropout
    seen = passes_of_bottom_layer(llama, {"epochs": 3, "splits": ()})
    assert sum(seen) == sum(map(len, DATA.split("train", 0).ids))


@pytest.mark.parametrize(
    ("method", "settings", "layers"),
    [
        ("lora", {}, 0),
        ("lora", {"targets": ("encoder.layer.1.attention.self.query",)}, 1),
        ("lora", {"targets": ("encoder.layer.0.output.dense", "encoder.layer.1.output.dense")}, 0),
        ("prompt-tuning", {"num_virtual_tokens": 2}, 0),
        ("full", {}, 0),
        ("head", {}, 0),
    ],
)
def test_what_lies_untouched(method: str, settings: dict[str, object], layers: int) -> None:
    with Driver(tiny_base("bert")) as driver:
        lane = Lane(spec(method, settings, base_dropout=False), driver, DATA)
        assert lane.untouched_layers == lane.steady_layers == layers
        assert Lane(spec(method, settings), driver, DATA).steady_layers == 0


def test_layers_that_run_repeatedly_cannot_be_entered() -> None:
    with Driver(tiny_base("albert")) as driver:
        assert driver.num_enterable == 1


def test_a_trial_above_layers_that_run_repeatedly_computes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("albert", torch.float64, num_hidden_layers=5, num_hidden_groups=2)
    trial = spec("top-layers", {"num_layers": 1}, id="top", base_dropout=False)
    found = run(base, DATA, [trial])["top"]
    monkeypatch.setattr(features, "MOST_BYTES", 0)
    assert largest_difference(found, run(base, DATA, [trial])["top"]) < 1e-9


def test_a_lane_at_the_bottom_keeps_its_pack_there_and_its_neighbour_right() -> None:
    base = tiny_base("bert", torch.float64)
    top = spec("lora", upper(base), id="top", base_dropout=False)
    bottom = spec("lora", {"dropout": 0.0}, id="bottom", base_dropout=False)
    together, alone = run(base, DATA, [top, bottom]), run(base, DATA, [top])
    assert largest_difference(together["top"], alone["top"]) < 1e-9


def test_states_are_kept_for_one_layer_at_a_time() -> None:
    base = tiny_base("bert", num_hidden_layers=3)
    with Driver(base) as driver:
        cache = FeatureCache(driver, DATA)
        first = cache.prefix("train", 1)
        assert first is not None
        assert cache.prefix("train", 1) is first
        second = cache.prefix("train", 2)
        assert second is not None
        assert (second.layer, second.hidden_ND.shape) == (2, first.hidden_ND.shape)
        assert not torch.equal(second.hidden_ND, first.hidden_ND)
        assert cache.prefix("train", 0) is None


def test_a_layer_that_is_never_called_is_told() -> None:
    with pytest.raises(AssertionError, match="layer 7"):
        stack.Stack().input_of(7, lambda: None)
