"""A worker that trains many trials ends with the memory, file handles and threads it had after the first ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from remora.config.load import dump_yaml
from remora.study.processes import process_environment
from tests.faults.effort import FULL, examples, tally
from tests.study.conftest import Configure

NUM, EVERY = examples(80, 300), examples(16, 20)
EARLY = examples(32, 40)
METHODS = ("lora", "dora", "ia3", "bitfit", "prefix-tuning", "adalora", "head", "adapter-pfeiffer")


def held(configure: Configure, folder: Path, num: int) -> list[dict[str, int]]:
    methods = METHODS if FULL else METHODS[:4]
    config = configure(
        methods=[{"id": name} for name in methods],
        protocol={"epochs": 1, "tuning_trials": 1, "seeds": 1, "full": False},
        data={"path": str(folder.parent / "moods.csv"), "train_limit": 48, "validation_limit": 40, "test_limit": 40},
        engine={"checkpoint_seconds": 0.05},
    )
    folder.mkdir()
    (folder / "study.yaml").write_text(dump_yaml(config))
    command = [sys.executable, "-m", "tests.faults.many_trials", str(folder), str(num), str(EVERY)]
    done = subprocess.run(command, env=process_environment(1), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def grown(points: list[dict[str, int]]) -> float:
    """Memory at the end over that of the early point."""
    early = next(point for point in points if point["trials"] >= EARLY)
    return points[-1]["rss"] / early["rss"]


@pytest.fixture
def folder(tmp_path: Path, mood_files: tuple[Path, Path]) -> Path:
    (tmp_path / "moods.csv").write_bytes(mood_files[1].read_bytes())
    return tmp_path / "run"


def test_nothing_creeps(configure: Configure, folder: Path) -> None:
    points = held(configure, folder, NUM)
    assert points[-1]["trials"] == NUM
    assert len(list(folder.glob("trials/*/result.json"))) == NUM
    assert grown(points) < 1.1, points
    early = next(point for point in points if point["trials"] >= EARLY)
    assert points[-1]["files"] <= early["files"], points
    assert points[-1]["threads"] <= early["threads"], points
    tally("short trials in one process without creep", NUM)


def test_a_leak_would_be_seen() -> None:
    steady = [{"trials": n, "rss": 500_000_000 + 1_000_000 * (n % 3)} for n in range(0, 301, 20)]
    leaking = [{"trials": n, "rss": 500_000_000 + 250_000 * n} for n in range(0, 301, 20)]
    assert grown(steady) < 1.1 < grown(leaking)
