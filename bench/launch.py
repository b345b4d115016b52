"""Starts both sides as subprocesses, one alone or several side by side that begin their timed regions together."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bench.job import Answer, Job
from remora.study.processes import process_environment

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {"peer": "bench.peer", "remora": "bench.remora_side"}


def run_together(jobs: Sequence[Job], nice: int = 0) -> list[Answer]:
    """Run jobs at the same time, each in its own process.

    Args:
        jobs: when there are several, each waits after its warm-up until all are ready.
        nice: added niceness of the processes.

    Returns:
        One answer per job, in order.

    Raises:
        RuntimeError: a process failed; the message ends with what it printed on standard error.
    """
    gated = [replace(job, gate=len(jobs) > 1) for job in jobs]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_files:
        running: list[tuple[subprocess.Popen[str], Path, Path]] = []
        try:
            for i, job in enumerate(gated):
                asked, answered, errors = (Path(scratch) / f"{name}-{i}" for name in ("job", "answer", "errors"))
                asked.write_text(job.to_json(), encoding="utf-8")
                command = [sys.executable, "-m", PROGRAMS[job.side], str(asked), str(answered)]
                stderr = open_files.enter_context(errors.open("w", encoding="utf-8"))
                process = subprocess.Popen(
                    ["nice", "-n", str(nice), *command] if nice else command,
                    cwd=ROOT,
                    env=environment(job),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                )
                running.append((process, answered, errors))
            if len(jobs) > 1:
                for process, _, _ in running:
                    wait_for_ready(process)
                for process, _, _ in running:
                    assert process.stdin is not None
                    process.stdin.write("go\n")
                    process.stdin.flush()
            return [finish(*each) for each in running]
        finally:
            for process, _, _ in running:
                if process.poll() is None:
                    process.kill()
                process.communicate()


def environment(job: Job) -> dict[str, str]:
    """Remora's workers as its own launcher starts them; the peer as its users start it, with the job's threads."""
    if job.side == "remora":
        return process_environment(job.threads)
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": str(job.threads),
    }


def wait_for_ready(process: subprocess.Popen[str]) -> None:
    """Return when the process prints ``ready``, or when it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "ready":
            return


def finish(process: subprocess.Popen[str], answered: Path, errors: Path) -> Answer:
    process.communicate()
    if process.returncode != 0 or not answered.is_file():
        tail = errors.read_text(encoding="utf-8")[-3000:]
        raise RuntimeError(f"a benchmark process ended with status {process.returncode}:\n{tail}")
    return Answer.from_json(answered.read_text(encoding="utf-8"))
