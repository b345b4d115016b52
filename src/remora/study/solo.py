"""The honest cost of one method: a training step of one trial with the whole machine, in a fresh process.

Run as ``python -m remora.study.solo RUN_DIR --threads N`` with one planned trial as JSON on standard input; prints one
JSON object. Loading, evaluation and the first steps are outside what is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from remora.results.schema import MemoryBreakdown, MemorySample, RowCost
from remora.study.launch import worker_environment
from remora.study.trials import PlannedTrial

_WARM_UP = 2
_STEPS = 6
NUM_STEPS = _WARM_UP + _STEPS


def measure(run_dir: Path, trial: PlannedTrial, threads: int) -> RowCost:
    """Cost of a row's training step, measured in a process of its own.

    Args:
        run_dir: of the study.
        trial: one of the row's final trials.
        threads: all cores.

    Returns:
        Empty costs when the process failed; the study goes on without them.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", "remora.study.solo", str(run_dir), "--threads", str(threads)],
        input=json.dumps(trial.to_json()),
        capture_output=True,
        text=True,
        env=worker_environment(threads),
        check=False,
    )
    if done.returncode != 0:
        return RowCost()
    return RowCost.model_validate_json(done.stdout.splitlines()[-1])


class _Watch:
    """Notes how long each step took, when it ended and the most memory it had.

    Args:
        read_peak: gives the high-water mark since the last call.
    """

    def __init__(self, read_peak: Callable[[], int]) -> None:
        self._read_peak = read_peak
        self._begun = self._start = time.perf_counter()
        self.seconds: list[float] = []
        self.trace: list[MemorySample] = []
        self.before = 0
        """The high-water mark before the first step, where adapters are made."""

    def started(self, spec: Any, num_steps: int) -> None:
        self.before = self._read_peak()
        self._begun = self._start = time.perf_counter()

    def step(self, spec: Any, step: int, num_steps: int, loss: float) -> None:
        end = time.perf_counter()
        self.seconds.append(end - self._start)
        self.trace.append(MemorySample(seconds=end - self._begun, bytes=self._read_peak()))
        self._start = time.perf_counter()

    def epoch(self, spec: Any, point: Any) -> None:
        pass


def _solo(run_dir: Path, threads: int, trial: PlannedTrial) -> RowCost:
    import numpy as np
    import torch

    from remora.config.load import read_study
    from remora.engine.driver import Driver
    from remora.engine.loop import run_pack
    from remora.engine.trial import Examples
    from remora.study.context import open_context
    from remora.study.machine import compute_device, give_memory_back, settle
    from remora.study.packs import LONE_PARTS
    from remora.study.resident import peak_bytes, reset_peak

    torch.set_num_threads(threads)
    config = read_study(run_dir / "study.yaml")
    context = open_context(config)
    on_device = context.base_on(compute_device(config.engine), trial.quantization)
    data = context.trial_data()
    batch = trial.spec.batch_size

    def few(split: str, room: int) -> Examples:
        whole = data.split(split, room)
        num = min(len(whole), NUM_STEPS * batch)
        chosen = np.linspace(0, len(whole) - 1, num).astype(int)
        return whole.subset(chosen)

    spec = replace(trial.spec, epochs=NUM_STEPS, max_steps=NUM_STEPS, curve=False, select="last", splits=())

    def read_peak() -> int:
        peak = peak_bytes(on_device.device)
        reset_peak(on_device.device)
        return peak

    watch = _Watch(read_peak)
    settle()
    give_memory_back()
    reset_peak(on_device.device)
    with Driver(on_device) as driver:
        (outcome,) = run_pack(
            driver,
            replace(data, split=few),
            [spec],
            slots=1,
            parts=LONE_PARTS,
            tokens_per_pass=config.engine.pass_tokens,
            read_every=1,
            events=watch,
        )
    steps = watch.seconds[_WARM_UP:]
    if not steps:
        return RowCost()
    peak = max(watch.before, *(sample.bytes for sample in watch.trace), read_peak())
    seconds = statistics.median(steps)
    base = on_device.num_bytes
    trained = 4 * sum(outcome.num_params.values())
    known = base + 4 * trained
    return RowCost(
        step_seconds=seconds,
        examples_per_second=min(batch, len(few("train", 0))) / seconds,
        peak_bytes=peak,
        breakdown=MemoryBreakdown(
            base=base,
            dense_base=on_device.dense_bytes if on_device.quantization != "none" else None,
            adapter=trained,
            gradients=trained,
            optimizer=2 * trained,
            activations_and_rest=max(0, peak - known),
        ),
        memory_trace=tuple(watch.trace),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m remora.study.solo``."""
    parser = argparse.ArgumentParser(prog="remora.study.solo")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    trial = PlannedTrial.from_json(json.loads(sys.stdin.read()))
    print(_solo(given.run_dir, given.threads, trial).model_dump_json())


if __name__ == "__main__":
    main()
