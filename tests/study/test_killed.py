"""Studies killed in the middle and taken up again give the bytes of one that ran through."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.effort import examples, tally
from tests.moods import write_data, write_model
from tests.outcomes import outcome

BLOWS = (
    (signal.SIGKILL, -signal.SIGKILL),
    (signal.SIGUSR1, 143),
    (signal.SIGINT, 130),
    (signal.SIGKILL, -signal.SIGKILL),
    (signal.SIGKILL, -signal.SIGKILL),
)
"""What ends a study, and the exit code that follows."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A command line without its run directory: packs of several methods, one of which keeps state of its own."""
    folder = tmp_path_factory.mktemp("study")
    model, data = write_model(folder / "model"), write_data(folder / "moods.csv")
    command = ["compare", "--model", str(model), "--data", str(data), "--methods", "lora,adalora,ia3", "--no-full"]
    return [
        *command,
        "--seeds",
        "1",
        "protocol.tuning_trials=1",
        "protocol.epochs=40",
        "engine.checkpoint_seconds=0.1",
    ]


@pytest.fixture(scope="module")
def whole(study: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    start(study, run_dir).wait()
    return run_dir


def start(study: list[str], run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "remora", *study, "--out", str(run_dir)]
    quiet: dict[str, Any] = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # what was started in the background of a shell has it ignored

    return subprocess.Popen(command, **quiet, start_new_session=True, preexec_fn=heed_interrupts)


def wait_for_checkpoint(run_dir: Path, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a pack has written one since now; False when the study ended first."""
    begun = time.time()
    while process.poll() is None:
        if newest(run_dir) > begun:
            return True
        time.sleep(0.02)
    return False


def newest(run_dir: Path) -> float:
    """When the last checkpoint got its name, which it does when all of it is on disk."""
    return max((path.parent.stat().st_ctime for path in run_dir.glob("checkpoints/*/0*/manifest.json")), default=0.0)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(examples(1, 9)))
def test_killed_interrupted_and_taken_up_again(study: list[str], whole: Path, tmp_path: Path, seed: int) -> None:
    run_dir, rng = tmp_path / "run", random.Random(7 + seed)
    for number, code in BLOWS[: examples(3, 5)]:
        process = start(study, run_dir)
        assert wait_for_checkpoint(run_dir, process), "it ended before it could be killed"
        # A signal that comes while one is written has that one; a later one must have its own.
        time.sleep(rng.uniform(0, 0.3) if number == signal.SIGKILL else 0.3)
        begun = time.time()
        if number == signal.SIGUSR1:
            process.send_signal(number)  # as a scheduler does
        else:
            os.killpg(process.pid, number)  # as a terminal does, or the kernel
        assert process.wait() == code
        if number != signal.SIGKILL:
            assert time.time() - begun < 10
            assert newest(run_dir) >= begun - 0.01, "none was written for the signal"
    assert start(study, run_dir).wait() == 0
    assert outcome(run_dir) == outcome(whole)
    assert len(outcome(whole)) > 20
    assert not (run_dir / "checkpoints").exists()
    tally("kills survived", 3)  # of the full form, the only one that is tallied
