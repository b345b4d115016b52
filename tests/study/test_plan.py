"""Rows, trials, packs and the choice of a learning rate: pure functions of the configuration."""

from typing import Any

import pytest

from remora.config.load import build_study
from remora.config.schema import EngineConfig, StudyConfig
from remora.engine.trial import TrialSpec
from remora.errors import ConfigError
from remora.results.schema import ParamCount, TrialResult
from remora.study.launch import shares
from remora.study.packs import Packing, packing, plan_packs
from remora.study.rows import DEFAULT_METHODS, reference_row, study_rows
from remora.study.trials import PlannedTrial
from remora.study.tuning import choose_lr
from tests.tiny import tiny_base


def study(**values: Any) -> StudyConfig:
    return build_study({"model": "minilm", "data": "helpdesk", **values})


def planned(name: str, method: str = "lora") -> PlannedTrial:
    spec = TrialSpec(id=name, method=method, lr=1e-3)
    return PlannedTrial(spec=spec, purpose="final", label=method, family="x", hyperparameters={})


def tuned(lr: float, score: float, loss: float, status: str = "done") -> TrialResult:
    return TrialResult.model_validate(
        {
            "trial": f"t{lr}",
            "purpose": "tuning",
            "method": "lora",
            "label": "LoRA",
            "family": "reparameterized",
            "hyperparameters": {"lr": lr},
            "seed": 0,
            "status": status,
            "metrics": {"validation": {"accuracy": score}},
            "losses": {"validation": loss},
            "params": ParamCount(adapter=1, head=1),
        }
    )


def test_a_comparison_has_its_baselines_whatever_was_asked_for() -> None:
    rows = study_rows(study(methods=["lora", "bitfit"]), tiny_base("bert"))
    assert [row.id for row in rows] == ["lora", "bitfit", "full", "head", "untrained", "majority"]
    assert reference_row(rows) == "full fine-tuning"


def test_without_full_there_is_no_reference() -> None:
    rows = study_rows(study(methods=["lora"], protocol={"full": False}), tiny_base("bert"))
    assert [row.id for row in rows] == ["lora", "head", "untrained", "majority"]
    assert reference_row(rows) is None


def test_no_methods_means_the_default_ones() -> None:
    ids = [row.id for row in study_rows(study(), tiny_base("bert"))]
    assert ids == [*DEFAULT_METHODS, "untrained", "majority"]
    assert len(DEFAULT_METHODS) == 11


def test_every_tuned_row_gets_the_same_number_of_trials_from_its_own_range() -> None:
    rows = study_rows(study(methods=["lora", "vera"], protocol={"tuning_trials": 3}), tiny_base("bert"))
    tuned_rows = [row for row in rows if row.method is not None]
    assert {len(row.lrs) for row in tuned_rows} == {3}
    for row in tuned_rows:
        assert row.method is not None
        low, high = row.method.lr_range.low, row.method.lr_range.high
        assert row.lrs[1] == pytest.approx((low * high) ** 0.5, rel=0.05)
        assert low < row.lrs[0] < row.lrs[1] < row.lrs[2] < high


def test_a_fixed_learning_rate_is_not_tuned() -> None:
    rows = study_rows(study(methods=[{"lora": {"lr": 5e-4}}, "bitfit"]), tiny_base("bert"))
    assert rows[0].lrs == (5e-4,)
    assert len(rows[1].lrs) == 4


def test_all_faults_of_all_methods_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        study_rows(study(methods=[{"lora": {"rnk": 3}}, {"dora": {"targets": ["atention.q"]}}]), tiny_base("bert"))
    assert "rnk" in caught.value.message
    assert "atention.q" in caught.value.message
    assert "rank" in str(caught.value)


def test_packs_depend_on_the_trials_alone_and_hold_each_once() -> None:
    trials = [planned(f"t{i}") for i in range(9)] + [planned("f", "full")]
    packs = plan_packs(trials, Packing(slots=4))
    assert [len(pack.trials) for pack in packs] == [1, 3, 3, 3]
    assert packs[0].trials[0].spec.id == "f"
    assert sorted(t.spec.id for pack in packs for t in pack.trials) == sorted(t.spec.id for t in trials)
    assert [pack.id for pack in plan_packs(trials, Packing(slots=4))] == [pack.id for pack in packs]
    assert len({pack.id for pack in packs}) == len(packs)


def test_long_texts_make_small_packs() -> None:
    engine = EngineConfig()
    assert [packing(engine, 16, length).slots for length in (13, 50, 256)] == [4, 3, 1]
    assert packing(EngineConfig(lanes=7), 16, 256) == Packing(slots=7)


@pytest.mark.parametrize(("number", "sizes"), [(1, [1]), (2, [1, 1]), (3, [2, 1]), (8, [4, 4]), (9, [3, 2, 2, 2])])
def test_packs_come_in_pairs_on_a_cpu(number: int, sizes: list[int]) -> None:
    how = packing(EngineConfig(), 16, 13)
    assert [len(pack.trials) for pack in plan_packs([planned(f"t{i}") for i in range(number)], how)] == sizes


def test_one_pack_gets_all_threads_and_many_packs_one_each() -> None:
    auto: dict[str, int | None] = {"workers": None, "threads": None}
    assert shares(2, 1, auto) == (1, 2)
    assert shares(2, 9, auto) == (2, 1)
    assert shares(8, 2, {"workers": 4, "threads": None}) == (4, 4)
    assert shares(8, 2, {"workers": 4, "threads": 3}) == (4, 3)


def test_threads_and_with_them_the_last_bits_do_not_depend_on_the_number_of_workers() -> None:
    for cores, packs in ((1, 1), (2, 1), (2, 9), (8, 3), (8, 20)):
        found = {shares(cores, packs, {"workers": workers, "threads": None})[1] for workers in (None, 1, 2, 5, 16)}
        assert len(found) == 1, (cores, packs, found)


def test_planned_trials_survive_the_way_to_a_worker() -> None:
    trial = planned("t0")
    assert PlannedTrial.from_json(trial.to_json()) == trial


def test_the_best_on_validation_is_taken_and_loss_breaks_ties() -> None:
    trials = [tuned(1e-4, 0.80, 0.5), tuned(1e-3, 0.85, 0.6), tuned(1e-2, 0.85, 0.4)]
    assert choose_lr(trials, "accuracy", 500) == 1e-2


def test_tiny_validation_sets_choose_by_loss() -> None:
    trials = [tuned(1e-4, 0.80, 0.3), tuned(1e-3, 0.85, 0.6)]
    assert choose_lr(trials, "accuracy", 50) == 1e-4


def test_a_diverged_trial_is_never_chosen() -> None:
    assert choose_lr([tuned(1e-2, 0.99, 0.1, "diverged"), tuned(1e-4, 0.5, 0.7)], "accuracy", 500) == 1e-4
    assert choose_lr([tuned(1e-2, 0.99, 0.1, "diverged")], "accuracy", 500) is None
