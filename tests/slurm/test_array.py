"""A study as a job array on a real SLURM: a task is killed and queued again, and the bytes are those of one process."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from remora.cli.main import run_cli
from tests.moods import write_data, write_model
from tests.slurm.cluster import Cluster, missing, running
from tests.study.test_killed import outcome

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")]

LONGEST_SECONDS = 3600  # a recipe's small form takes 18 minutes where nothing else runs

TEXT = """
name: moods
kind: train
model: {id: MODEL, dtype: float32}
data: DATA
methods: [lora]
protocol: {seeds: 3, tuning_trials: 1, epochs: 30}
engine: {lanes: 1, checkpoint_seconds: 0.1, lease_seconds: 20}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        yield started


def until(true: Callable[[], object], what: str, cluster: Cluster, run_dir: Path) -> None:
    end = time.monotonic() + LONGEST_SECONDS
    while not true():
        assert time.monotonic() < end, (what, cluster.waiting_or_running(), logs_of(run_dir))
        time.sleep(0.02)


def in_the_middle(run_dir: Path) -> set[int]:
    """Processes that have a pack with a checkpoint; below a recipe's folder, of any of its studies."""
    found: set[int] = set()
    for path in run_dir.rglob("packs/*.lease"):
        checkpoints = path.parents[1] / "checkpoints" / path.name.split(".")[0]
        with suppress(FileNotFoundError, ValueError):
            values = json.loads(path.read_bytes())
            if values["state"] == "held" and list(checkpoints.glob("0*")):
                found.add(values["pid"])
    return found


def stop_workers(pid: int, number: int) -> None:
    for child in psutil.Process(pid).children(recursive=True):
        child.send_signal(number)


def kill_one_and_queue_it_again(cluster: Cluster, run_dir: Path, job: str) -> None:
    """Wait until two tasks are in the middle of a pack each, kill one, queue it again, wait for the end of all."""
    until(lambda: in_the_middle(run_dir), "a task is in the middle of a pack", cluster, run_dir)
    first = min(in_the_middle(run_dir))
    stop_workers(first, signal.SIGSTOP)  # its lease is kept, and it leaves the rest to others
    until(lambda: in_the_middle(run_dir) - {first}, "so is another", cluster, run_dir)
    (second,) = in_the_middle(run_dir) - {first}
    stop_workers(second, signal.SIGSTOP)
    place = psutil.Process(second).environ()
    assert place["SLURM_ARRAY_JOB_ID"] == job
    task = f"{job}_{place['SLURM_ARRAY_TASK_ID']}"
    cluster.ask("scancel", "--signal=KILL", "--full", task)
    until(lambda: not psutil.pid_exists(second), "the task is dead", cluster, run_dir)
    stop_workers(first, signal.SIGCONT)
    until(lambda: not any(task in line for line in cluster.waiting_or_running()), "SLURM knows", cluster, run_dir)
    cluster.ask("scontrol", "requeue", task)
    cluster.ask("scontrol", "update", f"JobId={task}", "StartTime=now")  # it would wait two minutes
    until(lambda: not cluster.waiting_or_running(), "all tasks end", cluster, run_dir)


def logs_of(run_dir: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (run_dir / "slurm").glob("*.log")}


def test_a_task_killed_and_queued_again(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    study, run_dir = tmp_path / "moods.yaml", tmp_path / "shared" / "run"
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "moods.csv")
    study.write_text(TEXT.replace("MODEL", str(model)).replace("DATA", str(data)))
    assert run_cli(["slurm", str(study), "--out", str(run_dir), "--time", "20", "--submit", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tasks"] == 3  # a trial for each seed, each a pack of its own; two run at a time here
    kill_one_and_queue_it_again(cluster, run_dir, shown["job"])

    whole = tmp_path / "whole"
    assert run_cli(["run", str(study), "--out", str(whole), "engine.workers=2", "engine.threads=1"]) == 0
    assert outcome(run_dir) == outcome(whole)
    assert sum(name.endswith("adapter_model.safetensors") for name in outcome(whole)) == 3
    assert (run_dir / "report.html").is_file()
    logs = logs_of(run_dir)
    assert len(logs) == 3
    assert all("report:" in text for text in logs.values()), logs  # each stays to the end, also the one queued again


def test_a_task_near_its_limit_is_queued_again_by_its_script(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    study, run_dir = tmp_path / "moods.yaml", tmp_path / "run"
    model, data = write_model(tmp_path / "model"), write_data(tmp_path / "moods.csv")
    study.write_text(TEXT.replace("MODEL", str(model)).replace("DATA", str(data)).replace("epochs: 30", "epochs: 2000"))
    assert run_cli(["slurm", str(study), "--out", str(run_dir), "--tasks", "1", "--submit"]) == 0
    until(lambda: in_the_middle(run_dir), "the task is in the middle of a pack", cluster, run_dir)
    (line,) = cluster.waiting_or_running()
    task = line.split()[0]
    cluster.ask("scancel", "--signal=USR1", "--batch", task)  # what SLURM does before the limit
    until(lambda: "PENDING" in "".join(cluster.waiting_or_running()), "it is queued again", cluster, run_dir)
    leases = [json.loads(path.read_bytes()) for path in run_dir.glob("packs/*.lease")]
    assert {values["state"] for values in leases} == {"released"}
    assert list(run_dir.glob("checkpoints/*/0*/manifest.json"))
    cluster.ask("scancel", task)


@pytest.mark.full_grid
@pytest.mark.real
def test_a_recipe_with_a_task_killed_and_queued_again(
    cluster: Cluster,
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    recipe = ["recipe:xu2024", "--small", "--data", str(shared_data), "engine.checkpoint_seconds=1"]
    run_dir, whole = tmp_path / "shared", tmp_path / "whole"
    assert run_cli(["slurm", *recipe, "--out", str(run_dir), "--submit", "--json"]) == 0
    kill_one_and_queue_it_again(cluster, run_dir, json.loads(capsys.readouterr().out)["job"])
    assert run_cli(["run", *recipe, "--out", str(whole), "engine.workers=2", "engine.threads=1"]) == 0
    for study in ("imdb", "ag_news", "grid"):
        assert outcome(run_dir / study) == outcome(whole / study), study
