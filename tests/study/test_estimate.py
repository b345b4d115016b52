"""Estimated time: sums by hand, monotone in everything that makes a study longer, and budgets that fit."""

from dataclasses import replace
from typing import Any

import pytest

from remora.study import estimate as estimate_module
from remora.study.context import StudyContext, open_context
from remora.study.estimate import StudyPlan, estimate, fit_budget
from remora.study.rows import study_rows
from tests.study.conftest import Configure
from tests.study.figures import mean_tokens, round_probe


def planned(context: StudyContext, **protocol: Any) -> StudyPlan:
    settings = context.config.protocol.model_copy(update=protocol)
    cut = replace(context, config=context.config.model_copy(update={"protocol": settings}))
    return estimate(cut, study_rows(cut.config, cut.base), round_probe(cut))


def test_packs_go_to_the_first_free_worker() -> None:
    makespan = estimate_module._makespan
    assert makespan([5, 1, 1, 1], 2) == 5
    assert makespan([1, 1, 1, 5], 2) == 6
    assert makespan([2, 3], 1) == 5
    assert makespan([2, 3], 4) == 3


@pytest.mark.parametrize("forks", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_time_is_tokens_at_what_they_cost(
    configure: Configure, threads: int, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = {"workers": 1, "threads": threads}
    protocol = {"seeds": 2, "lr": 1e-3, "epochs": 3, "full": False}
    context = open_context(configure(methods=["prompt-tuning"], protocol=protocol, engine=engine))
    rows = study_rows(context.config, context.base)
    probe = round_probe(context)
    monkeypatch.setattr(estimate_module, "available_cores", lambda: 1)
    monkeypatch.setattr(estimate_module, "can_fork", lambda: forks)
    size = {name: len(split) for name, split in context.dataset.splits.items()}
    mean = mean_tokens(context, tuple(size))
    virtual = probe.rows["prompt tuning"].virtual
    assert virtual > 0
    seen = {name: size[name] * (mean[name] + virtual) for name in size}
    read = {name: size[name] * mean[name] for name in size}
    prompt = 2 * (3 * seen["train"] * 1e-3 + (4 * seen["validation"] + seen["test"]) * 2.5e-4)
    head = 2 * 3 * read["train"] * 1e-3 + sum(read.values()) * 2.5e-4  # its features once for the pack
    untrained = 2 * (read["validation"] + read["test"]) * 2.5e-4  # for each seed, as packs come in pairs
    slower = 1.0 if threads == 1 else 1.25 / (2 / 1.3)
    start = 1.0 if forks else 4.0 + 1.0  # a child begins with what has been imported
    solo = start + 2 * 8 * 16 * (mean["train"] + mean["train"] + virtual) * 1e-3
    fixed = 4.0 + 1.0 + start + 2.0 + 4.0 + 6 * 0.1
    plan = estimate(context, rows, probe)
    assert plan.seconds == pytest.approx(slower * (prompt + head + untrained) + solo + fixed)
    assert plan.num_trials == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_more_work_is_estimated_longer(configure: Configure, workers: int) -> None:
    protocol = {"seeds": 2, "epochs": 2, "tuning_trials": 2}
    engine = {"workers": workers, "threads": 1}
    context = open_context(configure(methods=["lora"], protocol=protocol, engine=engine))
    plan = planned(context)
    assert plan.num_trials == 3 * 4
    # Twice as many: with one more, packs may by chance be shared out better between two workers.
    for more in ({"seeds": 4}, {"epochs": 3}, {"epochs": 4}, {"tuning_trials": 4}):
        assert planned(context, **more).seconds > plan.seconds
    assert planned(context, seeds=4).num_trials == 3 * 6
    rows = study_rows(context.config, context.base)
    probe = round_probe(context)
    seconds = [estimate(context, rows, probe, number).seconds for number in (50, 100, 150)]
    assert seconds == sorted(seconds)
    assert len(set(seconds)) == 3
    wider = open_context(configure(methods=["lora", "bitfit"], protocol=protocol, engine=engine))
    assert planned(wider).seconds > plan.seconds


def test_more_workers_are_faster_and_need_more_memory(configure: Configure) -> None:
    def of(workers: int) -> StudyPlan:
        return planned(open_context(configure(methods=["lora", "bitfit"], engine={"workers": workers, "threads": 1})))

    one, two = of(1), of(2)
    assert one.seconds > two.seconds
    assert one.peak_bytes < two.peak_bytes


def test_a_budget_is_met_by_cuts_in_their_order(configure: Configure) -> None:
    context = open_context(configure(methods=["lora"]))
    rows = study_rows(context.config, context.base)
    probe = round_probe(context)
    whole = estimate(context, rows, probe).seconds
    assert fit_budget(context, rows, probe, whole + 1) == (context.config.protocol, None, ())
    protocol, train_rows, cuts = fit_budget(context, rows, probe, whole - 0.01)
    assert (protocol.seeds, protocol.tuning_trials, train_rows) == (3, 4, None)
    assert cuts == ("seeds from 5 to 3",)
    protocol, _, cuts = fit_budget(context, rows, probe, 1.0)
    assert (protocol.seeds, protocol.tuning_trials) == (2, 2)
    assert "still over the budget" in cuts[-1]
