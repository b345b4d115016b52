"""The probe: it measures every row that trains, and leaves everything as it was."""

import random

import numpy as np
import pytest
import torch

from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import TrialOutcome
from remora.study import probe as probe_module
from remora.study.context import StudyContext, open_context
from remora.study.probe import Probe, kept_bytes, run_probe
from remora.study.rows import study_rows
from remora.study.trials import TrialMaker
from tests.study.conftest import Configure

METHODS = ["lora", "vera", "prompt-tuning"]


def probed(context: StudyContext) -> Probe:
    return run_probe(context, study_rows(context.config, context.base), workers=2, opening=1.0)


def trained(context: StudyContext) -> list[TrialOutcome]:
    """The trials of one seed of every row."""
    rows = [row for row in study_rows(context.config, context.base) if row.method is not None]
    specs = [TrialMaker(context).final(row, row.lrs[0])[0].spec for row in rows]
    with Driver(context.base) as driver:
        return list(run_pack(driver, context.trial_data(), specs, slots=2))


def global_state() -> list[bytes]:
    numpy_state = np.random.get_state(legacy=False)
    return [torch.get_rng_state().numpy().tobytes(), repr(numpy_state).encode(), repr(random.getstate()).encode()]


def test_the_probe_changes_nothing(configure: Configure) -> None:
    config = configure(methods=METHODS, protocol={"epochs": 1, "lr": 1e-3, "seeds": 1})
    without = trained(open_context(config))
    context = open_context(config)
    before, threads, state = context.base.hash(), torch.get_num_threads(), global_state()
    forwards = {name for name, module in context.base.model.named_modules() if "forward" in vars(module)}
    probed(context)
    assert context.base.hash() == before
    assert torch.get_num_threads() == threads
    assert global_state() == state
    assert {name for name, module in context.base.model.named_modules() if "forward" in vars(module)} == forwards
    assert not any(parameter.grad is not None for parameter in context.base.model.parameters())
    for one, other in zip(without, trained(context), strict=True):
        assert one.spec == other.spec
        assert {**one.adapter, **one.head}.keys() == {**other.adapter, **other.head}.keys()
        for name, value in {**one.adapter, **one.head, **one.base_weights}.items():
            assert torch.equal(value, {**other.adapter, **other.head, **other.base_weights}[name])
        assert all(np.array_equal(one.logits[split], other.logits[split]) for split in one.logits)


def test_every_row_that_trains_is_measured(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_SECONDS", 1e9)  # however busy the machine is
    context = open_context(configure(methods=METHODS))
    probe = probed(context)
    rows = {row.label: row for row in study_rows(context.config, context.base)}
    assert set(probe.rows) == {label for label, row in rows.items() if row.method is not None}
    assert {label for label, row in probe.rows.items() if row.reads_features} == {"head only"}
    assert {label for label, row in probe.rows.items() if row.copies} == {"full fine-tuning"}
    assert all(row.measured and row.seconds > 0 and row.bytes_per_token >= 0 for row in probe.rows.values())
    prompt = rows["prompt tuning"].method
    assert prompt is not None
    assert probe.rows["prompt tuning"].virtual == prompt.num_virtual_tokens > 0
    assert probe.eval_seconds > 0
    assert all(factor >= 1 for factor in probe.crowding.values())
    assert probe.idle.own > 0


def test_what_a_trial_keeps_is_arithmetic(configure: Configure) -> None:
    context = open_context(configure(methods=["lora", "vera"]))
    probe = probed(context)
    outcomes = {outcome.spec.method: outcome for outcome in trained(context)}
    labels = {"lora": "LoRA", "vera": "VeRA", "head": "head only", "full": "full fine-tuning"}
    for method, outcome in outcomes.items():
        values = {**outcome.adapter, **outcome.head, **outcome.base_weights}
        numbers = sum(value.numel() for value in values.values())
        frozen = sum(value.numel() for value in outcome.frozen.values())
        assert (frozen > 0) == (method == "vera")
        assert probe.rows[labels[method]].kept == 16 * numbers + 4 * frozen == kept_bytes(numbers, frozen)
    whole = outcomes["full"].base_weights
    largest = max(value.numel() for value in whole.values())
    numbers = sum(value.numel() for value in whole.values())
    assert probe.rows["full fine-tuning"].copies == 4 * numbers + 8 * largest


def test_rows_without_time_left_are_like_the_others(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "_SECONDS", -1.0)
    probe = probed(open_context(configure(methods=METHODS)))
    assert {label for label, row in probe.rows.items() if row.measured} == {"LoRA", "head only"}
    lora, vera = probe.rows["LoRA"], probe.rows["VeRA"]
    assert (vera.seconds, vera.bytes_per_token) == (lora.seconds, lora.bytes_per_token)
    assert vera.kept != lora.kept
    assert probe.rows["full fine-tuning"].seconds == 1.5 * lora.seconds
