"""Studies killed in the middle and taken up again give the bytes of one that ran through."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.moods import write_data, write_model

_TIMES = frozenset({"wall_seconds"})


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line without its run directory: two packs, one of them with four methods."""
    folder = tmp_path_factory.mktemp("study")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "full,lora,dora,bitfit,adalora"]
    return [*command, "--seeds", "1", "protocol.tuning_trials=1", "protocol.epochs=40", "engine.checkpoint_seconds=0.1"]


@pytest.fixture(scope="module")
def whole(study: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    start(study, run_dir).wait()
    return run_dir


def start(study: list[str], run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "remora", *study, "--out", str(run_dir)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def outcome(run_dir: Path) -> dict[str, object]:
    """All that training gave: bytes of adapters and predictions, and results without what clocks say."""
    found: dict[str, object] = {}
    for path in sorted(run_dir.glob("trials/*/**/*")):
        name = str(path.relative_to(run_dir))
        if path.name == "result.json":
            values = json.loads(path.read_text())
            found[name] = {key: value for key, value in values.items() if key not in _TIMES}
        elif path.is_file() and path.name != "events.jsonl":
            found[name] = path.read_bytes()
    return found


def wait_for_checkpoints(run_dir: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until packs have written some; False when the study ended first."""
    while process.poll() is None:
        if any(run_dir.glob("checkpoints/*/0*/manifest.json")):
            return True
        time.sleep(0.02)
    return False


def test_kill_9_at_random_times(study: list[str], whole: Path, tmp_path: Path) -> None:
    run_dir, rng, kills = tmp_path / "run", random.Random(7), 0
    for _ in range(12):
        process = start(study, run_dir)
        if kills == 3 or not wait_for_checkpoints(run_dir, process):
            assert process.wait() == 0
            break
        time.sleep(rng.uniform(0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == 3
    assert outcome(run_dir) == outcome(whole)
    assert len(outcome(whole)) > 40
    assert not (run_dir / "checkpoints").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_checkpoint(
    study: list[str], whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run_dir = tmp_path / "run"
    process = start(study, run_dir)
    assert wait_for_checkpoints(run_dir, process)
    begun = time.time()
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait() == code
    assert time.time() - begun < 10
    written = [path.stat().st_mtime for path in run_dir.glob("checkpoints/*/0*/manifest.json")]
    assert max(written) >= begun - 0.01, "none was written for the signal"
    assert start(study, run_dir).wait() == 0
    assert outcome(run_dir) == outcome(whole)
