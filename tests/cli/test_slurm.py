"""`remora slurm`: what it writes, and that its script hands signals on; on a real SLURM, see tests/slurm."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from remora.cli.main import run_cli
from remora.config.load import read_study
from remora.errors import ConfigError
from remora.study.slurm import ArrayJob
from tests.moods import write_data, write_model

STUDY = """
name: moods
kind: train
model: MODEL
data: DATA
methods: [lora]
protocol: {seeds: 5, tuning_trials: 3}
engine: {lanes: 2}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    path = folder / "moods.yaml"
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    path.write_text(STUDY.replace("MODEL", str(model)).replace("DATA", str(data)))
    return path


def directives(script: Path) -> dict[str, str]:
    """What a script asks of SLURM."""
    lines = re.findall(r"(?m)^#SBATCH --([a-z-]+)(?:=(.*))?$", script.read_text())
    return dict(lines)


def test_a_task_for_each_pack_of_the_largest_stage(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    options = ["--partition", "long", "--time", "04:00:00", "--cpus-per-task", "4", "--mem", "8G", "--at-once", "2"]
    assert run_cli(["slurm", str(study), "--out", str(run_dir), *options]) == 0
    script = run_dir / "array.sbatch"
    assert f"{script}: 3 tasks, as many as there are packs" in capsys.readouterr().out  # five trials, two in a pack
    assert directives(script) == {
        "job-name": "run",
        "array": "0-2%2",
        "ntasks": "1",
        "cpus-per-task": "4",
        "partition": "long",
        "time": "04:00:00",
        "mem": "8G",
        "signal": "B:USR1@120",
        "open-mode": "append",
        "requeue": "",
        "output": f'"{run_dir}/slurm/%A_%a.log"',
    }
    assert (run_dir / "slurm").is_dir()
    assert f"-P -m remora worker {run_dir} &" in script.read_text()
    subprocess.run(["bash", "-n", str(script)], check=True)
    engine = read_study(run_dir / "study.yaml").engine
    assert (engine.workers, engine.threads) == (1, 4)  # one worker in a task; its threads are part of the plan

    assert run_cli(["slurm", str(study), "--out", str(run_dir), "--tasks", "7", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["tasks"], shown["job"]) == (7, None)
    assert run_cli(["slurm", str(study), "--out", str(run_dir), "--partition", "a\n#SBATCH --uid=0"]) == 2
    assert "--partition of a batch script cannot be" in capsys.readouterr().err


def test_without_sbatch_the_script_is_there_and_the_error_says_so(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_cli(["slurm", str(study), "--out", str(tmp_path / "run"), "--tasks", "1", "--submit"]) == 4
    assert f"sbatch {tmp_path / 'run' / 'array.sbatch'}" in capsys.readouterr().err
    assert (tmp_path / "run" / "array.sbatch").is_file()


def test_a_container_sees_what_the_study_reads(tmp_path: Path) -> None:
    job = ArrayJob(
        name="a",
        run_dir=tmp_path / "run",
        tasks=1,
        gpus=1,
        container=tmp_path / "my image.sif",
        binds=[tmp_path / "data", tmp_path / "run"],
    )
    binds = ["--bind", str(tmp_path / "run"), "--bind", str(tmp_path / "data")]
    image = str(tmp_path / "my image.sif")
    assert job.command() == ["apptainer", "exec", "--nv", *binds, image, "remora", "worker", str(tmp_path / "run")]
    assert "'" + image + "'" in job.script()
    with pytest.raises(ConfigError, match="--output of a batch script"):
        ArrayJob(name="a", run_dir=tmp_path / 'a"b', tasks=1).script()


FAKE_APPTAINER = """#!/bin/bash
echo "apptainer $*" >> "$LOG"
trap 'sleep 0.3; echo told >> "$LOG"; exit 143' USR1
trap 'echo ended >> "$LOG"; exit 143' TERM
echo ready >> "$LOG"
for _ in $(seq 600); do sleep 0.05; done
"""


@pytest.mark.parametrize(
    ("number", "said", "queued"), [(signal.SIGUSR1, "told", True), (signal.SIGTERM, "ended", False)]
)
def test_the_script_hands_signals_on_and_queues_again_near_the_limit(
    tmp_path: Path, number: int, said: str, queued: bool
) -> None:
    """Where a scheduler preempts or cancels (SIGTERM), it is the scheduler that decides what comes next."""
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    for name, text in (("apptainer", FAKE_APPTAINER), ("scontrol", '#!/bin/sh\necho "scontrol $*" >> "$LOG"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    script = tmp_path / "array.sbatch"
    script.write_text(ArrayJob(name="a", run_dir=tmp_path, tasks=1, container=tmp_path / "image.sif").script())
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "LOG": str(log), "SLURM_JOB_ID": "12"}
    shell = subprocess.Popen(["bash", str(script)], env=environment, start_new_session=True)
    end = time.monotonic() + 60
    while not (log.exists() and "ready" in log.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(shell.pid, number)  # to the shell alone, as --signal=B: has it
    assert shell.wait(60) == 143
    lines = log.read_text().splitlines()[2:]
    assert lines == [said, *(["scontrol requeue 12"] if queued else [])]


def test_a_recipe_is_prepared_with_all_its_studies(study: Path, tmp_path: Path) -> None:
    model, data = study.parent / "model", study.parent / "moods.csv"
    recipe = tmp_path / "two.yaml"
    recipe.write_text(
        "recipe: {title: Two, summary: Two., citation: none, columns: [accuracy]}\n"
        f"shared: {{model: {json.dumps(str(model))}, data: {json.dumps(str(data))}, kind: train, methods: [lora]}}\n"
        "studies:\n  few: {protocol: {seeds: 1, lr: 1.0e-3}}\n  many: {protocol: {seeds: 9, lr: 1.0e-3}}\n"
    )
    run_dir = tmp_path / "run"
    assert run_cli(["slurm", str(recipe), "--out", str(run_dir)]) == 0
    assert directives(run_dir / "array.sbatch")["array"] == "0-3"  # nine trials, at most four in a pack, packs by twos
    assert sorted(path.parent.name for path in run_dir.glob("*/study.yaml")) == ["few", "many"]
    assert (run_dir / "recipe.yaml").is_file()
