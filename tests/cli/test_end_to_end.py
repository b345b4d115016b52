"""The commands as a user types them, on a tiny model: stopped, taken up again, reported, used."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from remora.cli.main import run_cli
from tests.commands import remora
from tests.moods import write_data, write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "moods.csv")


def finished(run_dir: Path) -> dict[Path, int]:
    """The finished trials of a run directory and when each was written."""
    return {path: path.stat().st_mtime_ns for path in run_dir.glob("trials/*/result.json")}


def stop_after_a_trial(command: Sequence[str], run_dir: Path) -> tuple[int, str]:
    """Start a command, end it with SIGTERM once a trained trial is finished; its exit code and what it said."""
    process = subprocess.Popen([sys.executable, "-m", "remora", *command], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(finished(run_dir)) < 4:  # majority, untrained twice, one more
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate()
    return process.returncode, said


def test_a_study_stopped_and_taken_up_again(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "lora,bitfit", "--no-full"]
    command += ["--seeds", "2", "--out", str(run_dir), "protocol.tuning_trials=2", "protocol.epochs=6"]
    code, said = stop_after_a_trial(command, run_dir)
    assert code == 143, said
    assert f"remora resume {run_dir}" in said
    assert "Traceback" not in said
    before = finished(run_dir)
    assert before
    assert not (run_dir / "results.json").exists()

    again = remora([*command, "--json"])
    assert again.returncode == 0, again.stderr
    after = finished(run_dir)
    assert {path: after[path] for path in before} == before
    # 3 rows with 2 tuning and 2 final trials each, majority once, untrained for each seed
    assert len(after) == 3 * (2 + 2) + 1 + 2
    shown = json.loads(again.stdout)
    assert shown["run_dir"] == str(run_dir)
    assert {row["method"] for row in shown["rows"]} == {"lora", "bitfit", "head", "majority", "untrained"}
    assert Path(shown["report"]).is_file()
    assert not list(run_dir.rglob("*.tmp"))

    capsys.readouterr()
    assert run_cli(["predict", str(run_dir), "--text", "the food was great"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert set(line["scores"]) == {"good", "bad"}
    assert line["label"] == max(line["scores"], key=line["scores"].get)
    assert run_cli(["evaluate", str(run_dir), "--data", str(data), "--json"]) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)["metrics"]
    assert run_cli(["report", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == shown["rows"]


def test_bad_rows_stop_before_anything_runs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("text,label\nfine day,good\nawful day,\n")
    args = ["train", "--model", str(model), "--data", str(path), "--method", "lora", "--out", str(tmp_path / "r")]
    assert run_cli(args) == 3
    captured = capsys.readouterr()
    assert f"{path}:3" in captured.err
    assert captured.out == ""
    assert not (tmp_path / "r" / "trials").exists()
