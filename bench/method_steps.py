"""How long a step of each method takes beside a step of LoRA: one trial alone on one thread, methods in turn.

``python -m bench.method_steps [--repeats 5] [--steps 12] [--data FOLDER]`` writes ``bench/results/method_steps.json``
and prints the table that docs/benchmarks.md will show (`python -m bench.compare_peers` writes that page).
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import torch

from bench.cases import SETTINGS
from bench.data import SOURCES, prepare
from bench.job import Job, Trial
from bench.launch import ROOT
from bench.remora_side import specs, study_config
from bench.tables import method_table
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import NoEvents, TrialSpec
from remora.study.context import open_context
from remora.study.machine import settle

DATA, WARMUP_STEPS = "sst2", 3
FILE = ROOT / "bench" / "results" / "method_steps.json"


class Clock(NoEvents):
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        self.times.append(time.perf_counter())


def measure(data_root: Path, repeats: int, steps: int) -> dict[str, list[float]]:
    """Median seconds of a step for each method, one per repeat; all methods in turn within a repeat."""
    trials = tuple(Trial(method=method, lr=1e-4, settings=dict(settings)) for method, settings in SETTINGS.items())
    job = Job(
        side="remora",
        data=str(prepare(data_root, DATA, 3000, ROOT / "build" / "bench")),
        trials=trials,
        max_length=SOURCES[DATA].max_length,
        max_steps=WARMUP_STEPS + steps,
    )
    torch.set_num_threads(1)
    context = open_context(study_config(job))
    data = context.trial_data()
    settle()
    found: dict[str, list[float]] = {trial.method: [] for trial in trials}
    with Driver(context.base) as driver:
        for _ in range(repeats):
            for spec in specs(job, len(data.split("train", 0))):
                clock = Clock()
                (outcome,) = run_pack(driver, data, [spec], slots=1, events=clock)
                if not 0 < outcome.grad_norm["min"] <= outcome.grad_norm["max"] < float("inf"):
                    raise RuntimeError(f"{spec.method}: gradient norms {outcome.grad_norm}")
                each = [after - before for before, after in zip(clock.times[:-1], clock.times[1:], strict=True)]
                found[spec.method].append(statistics.median(each[WARMUP_STEPS - 1 :]))
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What the file holds."""

    data: str
    batch_size: int
    steps: int
    seconds: dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args()
    found = measure(options.data, options.repeats, options.steps)
    measured = Measured(data=DATA, batch_size=16, steps=options.steps, seconds=found)
    FILE.write_text(json.dumps(dataclasses.asdict(measured), indent=1) + "\n", encoding="utf-8")
    print(method_table(found))


if __name__ == "__main__":
    main()
