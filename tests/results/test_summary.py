import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from remora.errors import DataError
from remora.results.predictions import read_predictions, write_predictions
from remora.results.store import read_record, read_run
from remora.results.summary import summarise, summary_of
from remora.results.summary_schema import StudySummary
from tests.results.synthetic import ROWS, build_run, from_logits


@pytest.fixture(scope="module")
def summary(comparison: Path) -> StudySummary:
    return summary_of(read_run(comparison))


def test_rows_are_ranked_and_complete(summary: StudySummary) -> None:
    means = [row.mean for row in summary.rows]
    assert all(mean is not None for mean in means)
    assert means == sorted(means, reverse=True)
    assert {row.label for row in summary.rows} == {row.label for row in ROWS}
    assert [row.role for row in summary.rows if row.role != "method"] == ["reference", "baseline", "baseline"]


def test_means_are_those_of_the_predictions(summary: StudySummary, comparison: Path) -> None:
    for row in summary.rows:
        finished = [seed for seed in row.per_seed if seed.status == "done"]
        parts = [read_predictions(comparison, seed.trial)["test"] for seed in finished]
        expected = np.mean([sk.accuracy_score(list(p.targets), list(p.predictions)) for p in parts])
        assert row.mean == pytest.approx(expected)
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.mean < row.high


def test_costs_are_derived_as_said(summary: StudySummary) -> None:
    row = summary.row("lora")
    assert (row.adapter_params, row.head_params, row.base_params) == (73_728, 2310, 0)
    assert row.train_seconds == pytest.approx(row.steps * 0.2)
    assert row.adapter_bytes == 4 * (73_728 + 2310) + 2048
    assert summary.row("full").base_params == 22_713_216
    assert summary.row("untrained").trained_params == 0
    assert summary.study_seconds == 412.7


def test_a_diverged_seed_is_counted_and_left_out(summary: StudySummary) -> None:
    row = summary.row("prompt-tuning")
    assert (row.seeds, row.failed) == (2, 1)
    assert [seed.status for seed in row.per_seed] == ["done", "diverged", "done"]


def test_the_adapter_is_chosen_on_validation(summary: StudySummary) -> None:
    for row in summary.rows:
        if row.adapter is None:
            continue
        best = max(row.per_seed, key=lambda seed: seed.validation.get("accuracy", -1))
        assert row.adapter == f"trials/{best.trial}/adapter"
    assert summary.row("majority").adapter is None


def test_tuning_shows_what_was_chosen(summary: StudySummary) -> None:
    assert {tuning.label for tuning in summary.tuning} == {row.label for row in ROWS if row.lrs}
    for tuning in summary.tuning:
        assert [trial.lr for trial in tuning.trials] == sorted(trial.lr for trial in tuning.trials)
        assert [trial.chosen for trial in tuning.trials] == [False, False, True, False]
        assert tuning.edge == ""


def test_curves_are_means_over_seeds(summary: StudySummary, comparison: Path) -> None:
    run = read_run(comparison)
    trials = run.of("lora", "final")
    curve = next(curve for curve in summary.curves if curve.label == "lora")
    assert [point.epoch for point in curve.points] == [1.0, 2.0, 3.0]
    expected = np.mean([trial.curve[-1].validation["accuracy"] for trial in trials])
    assert curve.points[-1].score == pytest.approx(expected)


def test_the_same_files_give_the_same_bytes(small: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(small, run_dir)
    first = summarise(run_dir)
    content = (run_dir / "results.json").read_bytes()
    second = summarise(run_dir)
    assert first == second == read_record(run_dir / "results.json", StudySummary)
    assert (run_dir / "results.json").read_bytes() == content
    assert "NaN" not in content.decode()


def test_nothing_depends_on_where_the_run_lies(small: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(small, moved)
    assert summary_of(read_run(moved)) == summary_of(read_run(small))
    assert str(tmp_path) not in summary_of(read_run(moved)).model_dump_json()


def test_regression(tmp_path: Path) -> None:
    run_dir = build_run(
        tmp_path / "run", rows=ROWS[:5], task="regression", metric="pearson", metrics=("pearson", "spearman")
    )
    summary = summarise(run_dir)
    assert summary.rows[0].label in {"full", "lora"}
    assert summary.row("majority").mean == 0.0
    assert summary.detail is not None
    assert len(summary.detail.scatter) == 300
    assert not summary.detail.classes


def test_one_trained_method_is_a_result_without_comparison(tmp_path: Path) -> None:
    summary = summarise(build_run(tmp_path / "run", rows=ROWS[4:5], kind="train", costs=False))
    assert summary.recommendation.label == "lora"
    assert summary.rows[0].versus_reference is None
    assert summary.machine is None
    assert summary.rows[0].step_seconds is None


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    summary = summarise(build_run(tmp_path / "run", rows=ROWS[3:6], num_seeds=1))
    assert not summary.recommendation.decidable
    assert summary.recommendation.reason == "one-seed"
    assert "one seed" in summary.recommendation.text


def test_all_seeds_of_a_row_lost(tmp_path: Path) -> None:
    lost = dataclasses.replace(ROWS[4], diverged_seeds=(0, 1, 2))
    summary = summarise(build_run(tmp_path / "run", rows=(ROWS[3], lost)))
    assert summary.rows[-1].label == "lora"
    assert summary.rows[-1].mean is None
    assert summary.rows[-1].failed == 3
    assert "lora" not in summary.recommendation.text


def test_a_run_without_final_trials_says_so(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[4:5])
    for trial in read_run(run_dir).of("lora", "final"):
        (run_dir / "trials" / trial.trial / "result.json").unlink()
    with pytest.raises(DataError, match="no finished final trial"):
        summarise(run_dir)


def test_predictions_for_part_of_the_test_rows_are_refused(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[4:5])
    trial = read_run(run_dir).of("lora", "final")[0].trial
    part = read_predictions(run_dir, trial)["test"]
    short = from_logits([str(t) for t in part.targets[:-1]], part.scores[:-1], read_run(run_dir).data.label_names)
    write_predictions(run_dir, trial, {"test": short})
    with pytest.raises(DataError, match="299 of 300"):
        summarise(run_dir)


def test_a_test_label_that_training_lacks_counts_as_wrong(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    path = run_dir / "data.json"
    data = json.loads(path.read_text())
    data["label_names"].remove("technical problem")
    path.write_text(json.dumps(data))
    for trial in read_run(run_dir).trials:
        if trial.purpose == "final":
            parts = read_predictions(run_dir, trial.trial)
            targets = [str(t) for t in parts["test"].targets]
            scores = parts["test"].scores[:, :5]
            write_predictions(run_dir, trial.trial, {"test": from_logits(targets, scores, data["label_names"])})
    detail = summarise(run_dir).detail
    assert detail is not None
    assert detail.classes[-1].label == "technical problem"
    assert detail.classes[-1].recall == 0
