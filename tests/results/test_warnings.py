import dataclasses
import json
from pathlib import Path

import pytest

from remora.results.store import add_incident, read_run
from remora.results.summary import summarise, summary_of
from remora.results.summary_schema import StudySummary
from tests.results.synthetic import ROWS, build_run


def kinds(summary: StudySummary) -> set[tuple[str, str | None]]:
    return {(warning.kind, warning.label) for warning in summary.warnings}


def test_a_usual_comparison(comparison: Path) -> None:
    found = kinds(summary_of(read_run(comparison)))
    assert {("diverged", "prompt-tuning"), ("undertrained", "prompt-tuning"), ("truncated", None)} <= found
    assert ("overlap-test", None) in found
    assert not {kind for kind, _ in found} & {"tiny_test", "lr_edge", "constant", "chance", "unfinished"}


def test_a_chosen_rate_at_the_edge(tmp_path: Path) -> None:
    row = dataclasses.replace(ROWS[4], lrs=(1e-4, 3e-4, 1e-3))
    summary = summarise(build_run(tmp_path / "run", rows=(row,)))
    assert ("lr_edge", "lora") in kinds(summary)
    assert any("highest learning rate tried (1e-3)" in warning.message for warning in summary.warnings)


def test_constant_predictions_and_chance(tmp_path: Path) -> None:
    stuck = dataclasses.replace(ROWS[4], skill=-9.0)
    found = kinds(summarise(build_run(tmp_path / "run", rows=(ROWS[0], ROWS[3], stuck))))
    assert {("constant", "lora"), ("chance", "lora")} <= found
    assert ("constant", "majority") not in found


@pytest.mark.parametrize(("lrs", "told"), [((1e-4, 1e-2), True), ((1e-4, 1e-3, 1e-2), False), ((), False)])
def test_chance_after_few_learning_rates(tmp_path: Path, lrs: tuple[float, ...], told: bool) -> None:
    stuck = dataclasses.replace(ROWS[4], skill=-9.0, lrs=lrs)
    summary = summarise(build_run(tmp_path / "run", rows=(ROWS[0], ROWS[3], stuck)))
    (message,) = [warning.message for warning in summary.warnings if warning.kind == "chance"]
    assert ("only 2 learning rates were tried (1e-4 and 1e-2), protocol.tuning_trials=4" in message) is told


def test_a_tiny_test_set(small: Path) -> None:
    summary = summary_of(read_run(small))
    assert any("only 150 rows; one of them is 0.7 points" in warning.message for warning in summary.warnings)


def test_unfinished_trials(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    (run_dir / "trials" / "lora-s9-0000000000").mkdir()
    assert ("unfinished", None) in kinds(summarise(run_dir))


def test_lost_tuning_trials(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    trial = read_run(run_dir).of("lora", "tuning")[0].trial
    path = run_dir / "trials" / trial / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "diverged"}))
    assert ("tuning", "lora") in kinds(summarise(run_dir))


def test_cuts_of_the_budget_are_told(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    path = run_dir / "study.json"
    study = json.loads(path.read_text())
    study["protocol"]["cuts"] = ["seeds: 3 of 5"]
    path.write_text(json.dumps(study))
    assert any(warning.message == "seeds: 3 of 5" for warning in summarise(run_dir).warnings)


@pytest.mark.parametrize("virtual", [True, False])
def test_virtual_tokens_that_cut_more(tmp_path: Path, virtual: bool) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    for trial in read_run(run_dir).of("lora", "final"):
        path = run_dir / "trials" / trial.trial / "result.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "truncated": {"test": 9 if virtual else 3}}))
    assert (("truncated", "lora") in kinds(summarise(run_dir))) is virtual


def test_what_a_study_survived_is_told(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    before = summarise(run_dir)
    assert not [warning for warning in before.warnings if warning.kind == "incident"]
    for text in ("checkpoint 000003 is damaged", "no checkpoint was written", "checkpoint 000003 is damaged"):
        add_incident(run_dir, text)
    found = [warning.message for warning in summarise(run_dir).warnings if warning.kind == "incident"]
    assert found == ["checkpoint 000003 is damaged (2 times)", "no checkpoint was written"]
