"""The honest cost of one method: a training step of one trial with the whole machine to itself.

Run as ``python -m remora.study.solo RUN_DIR --threads N`` by `study.processes`: takes planned trials as JSON lines on
standard input, one after the other, and prints one JSON object for each. Loading, evaluation and the first steps are
outside what is measured. Rows take turns (`ROUNDS`), and the faster turn counts: whatever else the machine does can
only slow a step, and it must not slow one row alone. On Linux each trial has a child that begins with what the process
has imported and opened (starting Python takes longer than the steps); elsewhere, and on GPUs, which no child may use
once its parent has, a process of its own.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from remora.results.schema import MemoryBreakdown, MemorySample, RowCost
from remora.study.processes import Process, Start, die_with, spawn
from remora.study.trials import PlannedTrial

if TYPE_CHECKING:
    from remora.study.context import StudyContext

Row = TypeVar("Row")

_WARM_UP = 2
_STEPS = 6
NUM_STEPS = _WARM_UP + _STEPS
ROUNDS = 2
"""Turns of each row; every other round goes backwards."""


class Solo:
    """Measures what rows cost, in a process that does nothing else; use as a context manager.

    Args:
        run_dir: of the study.
        threads: all cores.
        start: starts the process.
    """

    def __init__(self, run_dir: Path, threads: int, start: Start = spawn) -> None:
        self._run_dir = run_dir
        self._threads = threads
        self._start = start
        self._process: Process | None = None

    def __enter__(self) -> "Solo":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def measure(self, trial: PlannedTrial) -> RowCost:
        """Cost of a row's training step.

        Args:
            trial: one of the row's final trials.

        Returns:
            Empty costs when the process failed; the study goes on without them.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(trial.to_json()) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        answer = json.loads(line or "{}")
        if not answer.get("goes_on"):
            self._end()
        return RowCost.model_validate(answer.get("cost", {}))

    def _started(self) -> Process:
        process = self._start("solo", [str(self._run_dir), "--threads", str(self._threads)], self._threads)
        assert process.stderr is not None
        process.stderr.close()
        return process

    def _end(self) -> None:
        """End the process, at once if it is in the middle of something."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):
                    stream.close()
            self._process = None


def in_turns(rows: Sequence[Row]) -> list[Row]:
    """The order in which rows are measured."""
    return [row for number in range(ROUNDS) for row in (rows[::-1] if number % 2 else rows)]


def faster(one: RowCost, other: RowCost) -> RowCost:
    """The measurement with the shorter step; one that failed has none."""
    return min(one, other, key=lambda cost: math.inf if cost.step_seconds is None else cost.step_seconds)


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


def _solo(context: "StudyContext", trial: PlannedTrial, pages: Mapping[str, int]) -> RowCost:
    """Train some steps and say what they cost.

    Args:
        context: of the study.
        trial: of a row.
        pages: what the parent has in RAM of libraries and the base. Of these a child has only what it has touched
            itself, but a process of its own would have them all.
    """
    import numpy as np

    from remora.engine.driver import Driver
    from remora.engine.loop import run_pack
    from remora.engine.trial import Examples
    from remora.study.machine import compute_device, give_memory_back, settle
    from remora.study.packs import LONE_PARTS
    from remora.study.resident import file_pages, peak_bytes, reset_peak

    config = context.config
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
    touched = file_pages() if pages else {}
    untouched = sum(max(0, size - touched.get(place, 0)) for place, size in pages.items())
    trace = tuple(MemorySample(seconds=each.seconds, bytes=each.bytes + untouched) for each in watch.trace)
    peak = max(watch.before, *(sample.bytes for sample in watch.trace), read_peak()) + untouched
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
        memory_trace=trace,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``python -m remora.study.solo``."""
    parser = argparse.ArgumentParser(prog="remora.study.solo")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parent", type=int, default=os.getppid())
    given = parser.parse_args(arguments)
    die_with(given.parent)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # whatever libraries print must not mix with the answers
        os.dup2(nowhere, stream.fileno())
    serve(given.run_dir, given.threads, sys.stdin, out, given.parent)


def serve(run_dir: Path, threads: int, jobs: Iterable[str], out: TextIO, parent: int) -> None:
    """Measure trials until there are no more, or only one where no child can do it.

    Args:
        run_dir: of the study.
        threads: to train with.
        jobs: planned trials as lines of JSON.
        out: where a line of JSON goes for each.
        parent: of this process, perhaps a nursery.
    """
    import torch

    from remora.config.load import read_study
    from remora.study.context import open_context
    from remora.study.machine import compute_device
    from remora.study.resident import file_pages

    torch.set_num_threads(1)  # OpenMP's threads, once started, would be missing in a child
    context = open_context(read_study(run_dir / "study.yaml"))
    forks = sys.platform == "linux" and compute_device(context.config.engine).type == "cpu"
    for line in jobs:
        trial = PlannedTrial.from_json(json.loads(line))
        if not forks:
            torch.set_num_threads(threads)
            print(json.dumps({"cost": _solo(context, trial, {}).model_dump(mode="json"), "goes_on": False}), file=out)
            return
        pages = _with_those_of(parent, file_pages())
        child = os.fork()
        if child == 0:
            _be_measured(context, trial, threads, pages, out)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            print(json.dumps({"cost": {}, "goes_on": True}), file=out)


def _with_those_of(parent: int, pages: Mapping[str, int]) -> dict[str, int]:
    """Add what a nursery has in RAM of the files that its child has inherited from it, at the same places."""
    from remora.study.resident import file_pages

    theirs: Mapping[str, int] = {}
    with suppress(OSError):  # which some containers do not show
        theirs = file_pages(parent)
    return {place: max(size, theirs.get(place, 0)) for place, size in pages.items()}


def _be_measured(
    context: "StudyContext", trial: PlannedTrial, threads: int, pages: Mapping[str, int], out: TextIO
) -> NoReturn:
    """What a child does; it ends without running what its parent runs when that ends."""
    import torch

    code = 1
    try:
        torch.set_num_threads(threads)
        cost = _solo(context, trial, pages)
        print(json.dumps({"cost": cost.model_dump(mode="json"), "goes_on": True}), file=out, flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
