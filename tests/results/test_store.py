import json
from pathlib import Path

import numpy as np
import pytest

from remora.errors import DataError
from remora.results import store
from remora.results.predictions import SplitPredictions, read_predictions, write_predictions
from remora.results.schema import ParamCount, TrialResult
from tests.results.synthetic import ROWS, build_run, from_logits


def result(trial: str = "lora-s0-0000000000", **changes: object) -> TrialResult:
    values: dict[str, object] = {
        "trial": trial,
        "purpose": "final",
        "method": "lora",
        "label": "lora",
        "family": "reparameterized",
        "hyperparameters": {"lr": 5e-4, "targets": ["attention.q"]},
        "seed": 0,
        "status": "done",
        "params": ParamCount(adapter=10, head=2),
    }
    return TrialResult.model_validate({**values, **changes})


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file.json"
    store.write_atomic(path, b"old")

    def broken(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        store.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_result_round_trip_and_key(tmp_path: Path) -> None:
    written = result()
    store.write_result(tmp_path, written)
    assert store.is_finished(tmp_path, written.trial)
    assert store.read_result(tmp_path, written.trial) == written
    raw = json.loads((tmp_path / "trials" / written.trial / "result.json").read_text())
    assert raw["schema"] == 1
    assert raw["hyperparameters"] == {"lr": 5e-4, "targets": ["attention.q"]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        result(losses={"train": bad})


def test_read_record_names_file_and_field(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(DataError, match=r"result\.json is missing"):
        store.read_record(path, TrialResult)
    values = result().model_dump(mode="json", by_alias=True)
    path.write_text(json.dumps({**values, "surprise": 1}))
    with pytest.raises(DataError, match=r"result\.json: surprise"):
        store.read_record(path, TrialResult)
    path.write_text(json.dumps({**values, "schema": 2}))
    with pytest.raises(DataError, match="schema"):
        store.read_record(path, TrialResult)
    path.write_text("{")
    with pytest.raises(DataError, match="the file itself"):
        store.read_record(path, TrialResult)


def test_trial_id_is_content_addressed() -> None:
    one = store.trial_id("LoRA (r=8)", 3, {"lr": 5e-4, "rank": 8})
    assert one.startswith("lora-r-8-s3-")
    assert one == store.trial_id("LoRA (r=8)", 3, {"rank": 8, "lr": 5e-4})
    assert one != store.trial_id("LoRA (r=8)", 3, {"rank": 8, "lr": 5.1e-4})


@pytest.mark.parametrize("label", ["../../etc", "<script>", "模型", "", "A" * 300, "a\nb"])
def test_trial_ids_are_safe_folder_names(label: str) -> None:
    name = store.trial_id(label, 0, {})
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert len(name) < 70


def test_read_run_tells_finished_from_unfinished(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    (run_dir / "trials" / "half-done").mkdir()
    run = store.read_run(run_dir)
    assert run.unfinished == ("half-done",)
    assert [trial.seed for trial in run.of("lora", "final")] == [0, 1, 2]
    assert len(run.of("lora", "tuning")) == 4


def test_a_copied_trial_folder_is_an_error(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[3:5])
    folder = next((run_dir / "trials").iterdir())
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(DataError, match="is the result of trial"):
        store.read_run(run_dir)


def test_predictions_round_trip(tmp_path: Path) -> None:
    logits = np.array([[0.1, 2.0], [3.0, -1.0], [0.5, 0.5]], dtype=np.float32)
    part = from_logits(["NA", "yes", "NA"], logits, ["NA", "yes"])
    assert part.predictions == ("yes", "NA", "NA")  # the first of equal scores
    write_predictions(tmp_path, "t", {"test": part, "validation": part})
    found = read_predictions(tmp_path, "t")
    assert list(found) == ["validation", "test"]
    assert found["test"].targets == ("NA", "yes", "NA")
    assert found["test"].predictions == part.predictions
    np.testing.assert_array_equal(found["test"].scores, logits)


def test_regression_predictions_round_trip(tmp_path: Path) -> None:
    part = from_logits([1.5, 2.0], np.array([[1.25], [2.5]]), ())
    write_predictions(tmp_path, "t", {"test": part})
    found = read_predictions(tmp_path, "t")["test"]
    assert found.targets == (1.5, 2.0)
    assert found.predictions == (1.25, 2.5)


def test_missing_predictions_are_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions\.parquet"):
        read_predictions(tmp_path, "t")


def test_lengths_must_agree(tmp_path: Path) -> None:
    part = SplitPredictions(targets=("a",), predictions=("a", "b"), scores=np.zeros((1, 2)))
    with pytest.raises(AssertionError):
        write_predictions(tmp_path, "t", {"test": part})
