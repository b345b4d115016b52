"""Several processes on one run directory, killed, stopped, taken for dead: the bytes are those of one that ran on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from remora.cli.build import load_study
from remora.cli.main import run_cli
from remora.config.load import dump_yaml
from tests.moods import write_data, write_model
from tests.study.test_killed import outcome

TEXT = """
name: moods
kind: train
model: {id: MODEL, dtype: float32}
data: DATA
methods: [lora]
protocol: {seeds: 2, tuning_trials: 1, epochs: 30}
engine: {lanes: 1, workers: 1, checkpoint_seconds: 0.1, lease_seconds: 2}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file: every trial is a pack of its own."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "moods.yaml"
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    path.write_text(TEXT.replace("MODEL", str(model)).replace("DATA", str(data)))
    return path


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process gave that ran through."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert run_cli(["run", str(study), "--out", str(run_dir)]) == 0
    return outcome(run_dir)


class Started:
    """A command with its processes in a group of their own; what it says goes to a file."""

    def __init__(self, said: Path, *command: object) -> None:
        self._said = said
        with said.open("wb") as file:
            words = [sys.executable, "-m", "remora", *map(str, command)]
            self.process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=file)
        self.pid = self.process.pid

    @property
    def said(self) -> str:
        return self._said.read_text()

    def signal(self, number: int) -> None:
        os.killpg(self.pid, number)

    def signal_workers(self, number: int) -> None:
        """To its worker processes; it itself runs on and says that they live."""
        for child in psutil.Process(self.pid).children(recursive=True):
            child.send_signal(number)

    def ends_well(self) -> None:
        assert self.process.wait(timeout=300) == 0, self.said
        assert "Traceback" not in self.said

    def close(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts commands; none of them outlives the test."""
    started: list[Started] = []

    def begin(*command: object) -> Started:
        started.append(Started(tmp_path / f"said-{len(started)}", *command))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def until(true: Callable[[], bool], what: str, *running: Started) -> None:
    """Wait for something, as long as processes run."""
    end = time.monotonic() + 300
    while not true():
        assert time.monotonic() < end, what
        for one in running:
            assert one.process.poll() is None, (what, one.said)
        time.sleep(0.01)


def held(run_dir: Path, process: Started) -> list[str]:
    """Packs with a checkpoint of which a process has the lease."""
    found: list[str] = []
    for path in run_dir.glob("packs/*.lease"):
        name = path.name.split(".")[0]
        with suppress(FileNotFoundError, ValueError):
            values = json.loads(path.read_bytes())
            mine = (values["pid"], values["state"]) == (process.pid, "held")
            if mine and list(run_dir.glob(f"checkpoints/{name}/0*")):
                found.append(name)
    return found


def in_the_middle(run_dir: Path, process: Started) -> str:
    """Wait until a process is in the middle of a pack, and stop its workers there; the pack."""
    until(lambda: bool(held(run_dir, process)), "it has a pack", process)
    process.signal_workers(signal.SIGSTOP)
    (pack,) = held(run_dir, process)
    return pack


def test_a_worker_killed_in_the_middle_of_a_pack(
    study: Path, whole: dict[str, object], tmp_path: Path, start: Callable[..., Started]
) -> None:
    run_dir = tmp_path / "run"
    coordinator = start("run", study, "--out", run_dir)
    in_the_middle(run_dir, coordinator)
    first = start("worker", run_dir)
    pack = in_the_middle(run_dir, first)
    refused = start("run", study, "--out", run_dir)
    assert refused.process.wait(300) == 4
    assert f"another process is running the study in {run_dir} (process {coordinator.pid}" in refused.said
    first.signal(signal.SIGKILL)
    second = start("worker", run_dir)
    taken_up = run_dir / "packs" / f"{pack}.000002.lease"
    until(taken_up.exists, "the pack is taken up by another", coordinator, second)
    coordinator.signal_workers(signal.SIGCONT)
    coordinator.ends_well()
    second.ends_well()
    assert outcome(run_dir) == whole
    assert sum(name.endswith("adapter_model.safetensors") for name in whole) == 2
    assert [path.name.split(".")[0] for path in (run_dir / "packs").iterdir()] == ["coordinator"]
    assert not (run_dir / "checkpoints").exists()
    assert run_cli(["worker", str(run_dir)]) == 0  # it is complete: nothing is done


@pytest.mark.full_grid
def test_a_worker_that_stood_still_does_not_commit_what_others_have_taken_up(
    study: Path, whole: dict[str, object], tmp_path: Path, start: Callable[..., Started]
) -> None:
    run_dir = tmp_path / "run"
    coordinator = start("run", study, "--out", run_dir)
    in_the_middle(run_dir, coordinator)
    worker = start("worker", run_dir)
    pack = in_the_middle(run_dir, worker)
    worker.signal(signal.SIGSTOP)
    coordinator.signal_workers(signal.SIGCONT)
    until((run_dir / "packs" / f"{pack}.000002.lease").exists, "its lease runs out", coordinator)
    worker.signal(signal.SIGCONT)
    coordinator.ends_well()
    worker.ends_well()
    assert outcome(run_dir) == whole


def test_when_the_coordinator_is_killed_a_worker_goes_on_in_its_place(
    study: Path, whole: dict[str, object], tmp_path: Path, start: Callable[..., Started]
) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "study.yaml").write_text(dump_yaml(load_study(str(study))))
    first = start("worker", run_dir)
    in_the_middle(run_dir, first)
    second = start("worker", run_dir)
    in_the_middle(run_dir, second)
    second.signal_workers(signal.SIGCONT)
    first.signal(signal.SIGKILL)
    second.ends_well()
    assert outcome(run_dir) == whole
