"""Trials that halving stopped, in the summary."""

import json
from pathlib import Path

import pytest

from remora.results.store import read_run
from remora.results.summary import summarise
from remora.results.summary_schema import StudySummary
from remora.results.wording import percent, stops
from tests.results.halved import HALF, NUM_STEPS, QUARTER, halve
from tests.results.synthetic import ROWS, build_run


@pytest.fixture
def halved(tmp_path: Path) -> StudySummary:
    return summarise(halve(build_run(tmp_path / "run", rows=ROWS[:5])))


def test_every_row_says_what_was_stopped_where(halved: StudySummary) -> None:
    assert [row.label for row in halved.tuning if row.label in ("head", "full", "lora")] == [
        row.label for row in halved.tuning
    ]
    for row in halved.tuning:
        assert [trial.status for trial in row.trials] == ["stopped", "stopped", "done", "stopped"]
        assert [trial.stopped_at for trial in row.trials] == [
            QUARTER / NUM_STEPS,
            HALF / NUM_STEPS,
            None,
            QUARTER / NUM_STEPS,
        ]
        assert [trial.score for trial in row.trials if trial.stopped_at] == [0.5, 0.51, 0.53]
        assert [trial.chosen for trial in row.trials] == [False, False, True, False]
        assert row.steps == 2 * QUARTER + HALF + NUM_STEPS
        assert row.steps + row.steps_saved == 4 * NUM_STEPS


def test_a_stopped_trial_is_no_failure(halved: StudySummary) -> None:
    assert (halved.trials.tuning, halved.trials.stopped) == (3, 9)
    assert (halved.trials.diverged, halved.trials.failed, halved.trials.unfinished) == (0, 0, 0)
    assert sum(row.failed for row in halved.rows) == 0
    assert "tuning" not in {warning.kind for warning in halved.warnings}


def test_a_trial_lost_beside_stopped_ones_is_told(tmp_path: Path) -> None:
    run_dir = halve(build_run(tmp_path / "run", rows=ROWS[:5]))
    lost = next(trial for trial in read_run(run_dir).of("lora", "tuning") if trial.status == "stopped")
    path = run_dir / "trials" / lost.trial / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "diverged"}))
    found = [warning for warning in summarise(run_dir).warnings if warning.kind == "tuning"]
    assert [(warning.label, warning.message) for warning in found] == [("lora", "3 of 4 tuning trials finished")]


def test_without_halving_nothing_was_saved(comparison: Path) -> None:
    summary = summarise(comparison)
    assert summary.trials.stopped == 0
    assert {row.steps_saved for row in summary.tuning} == {0}
    assert {trial.stopped_at for row in summary.tuning for trial in row.trials} == {None}


def test_in_words() -> None:
    assert percent(QUARTER / NUM_STEPS) == "25 %"
    assert stops([0.5, 0.25, 0.25]) == "2 at 25 % and 1 at 50 %"
    assert stops([0.5]) == "1 at 50 %"
