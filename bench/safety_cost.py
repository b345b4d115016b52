"""What safety costs while training: checkpoints of a pack, and the checks of losses and gradients.

``python -m bench.safety_cost [--saves 8] [--data FOLDER]`` trains a pack of eight LoRA trials and one of full
fine-tuning, writes a checkpoint every few steps, and notes how long each step and each checkpoint took. A study writes
one a minute, or less often where that would be more than `Keeper.MOST_SHARE` of its time, so the share of checkpoints
follows from the seconds of one. The checks are timed by themselves, as often as a step of the pack makes them.
Written to ``bench/results/safety_cost.json``, from which `make test-faults` makes a table of docs/reliability.md.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.data import SOURCES, prepare
from bench.job import Job, Trial
from bench.launch import ROOT
from bench.remora_side import specs, study_config
from remora.config.schema import EngineConfig
from remora.engine.checkpoint import Keeper, State
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import NoEvents, TrialSpec
from remora.study.context import open_context
from remora.study.machine import settle

DATA, WARMUP_STEPS, EVERY = "sst2", 5, 6
PACKS = {
    "eight LoRA trials": tuple(Trial(seed=seed) for seed in range(8)),
    "full fine-tuning": (Trial(method="full", lr=5e-5, settings={}),),
}
FILE = ROOT / "bench" / "results" / "safety_cost.json"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one pack.

    Args:
        checkpoint_bytes: of its state.
        checkpoint_seconds: of each checkpoint written, all of it on disk.
        step_seconds: the median step of all lanes together.
        check_seconds: the checks of such a step.
        checkpoint_share: of the run time that goes into checkpoints at the pace of a study.
        check_share: of a step.
    """

    checkpoint_bytes: int
    checkpoint_seconds: list[float]
    step_seconds: float
    check_seconds: float
    checkpoint_share: float
    check_share: float


class _Timed(Keeper):
    """A checkpoint every few steps; notes how long each took."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0.0)
        self.asked = 0
        self.seconds: list[float] = []
        self.bytes = 0

    @property
    def due(self) -> bool:
        self.asked += 1
        return self.asked > WARMUP_STEPS and self.asked % EVERY == 0

    def save(self, state: State) -> None:
        start = time.perf_counter()
        super().save(state)
        self.seconds.append(time.perf_counter() - start)
        self.bytes = sum(value.nbytes for value in state.tensors.values())


class _Steps(NoEvents):
    """Notes when the last lane of each step was told of."""

    def __init__(self, last: str) -> None:
        self._last = last
        self.times: list[float] = []

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        if spec.id == self._last:
            self.times.append(time.perf_counter())


def measure(data_root: Path, trials: tuple[Trial, ...], saves: int) -> Cost:
    """Train one pack on one thread."""
    job = Job(
        side="remora",
        data=str(prepare(data_root, DATA, 3000, ROOT / "build" / "bench")),
        trials=trials,
        max_length=SOURCES[DATA].max_length,
        max_steps=WARMUP_STEPS + EVERY * saves,
    )
    torch.set_num_threads(1)
    context = open_context(study_config(job))
    data = context.trial_data()
    settle()
    planned = specs(job, len(data.split("train", 0)))
    watch = _Steps(planned[-1].id)
    with Driver(context.base) as driver, tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        keeper = _Timed(Path(folder) / "checkpoints")
        for outcome in run_pack(driver, data, planned, slots=len(planned), events=watch, keeper=keeper):
            if not 0 < outcome.grad_norm["min"] <= outcome.grad_norm["max"] < math.inf:
                raise RuntimeError(f"{outcome.spec.id}: gradient norms {outcome.grad_norm}")
    between = [after - before for before, after in zip(watch.times[:-1], watch.times[1:], strict=True)]
    plain = [seconds for number, seconds in enumerate(between, 2) if number > WARMUP_STEPS and (number - 1) % EVERY]
    step, one = statistics.median(plain), statistics.median(keeper.seconds)
    pause = max(EngineConfig().checkpoint_seconds, one / Keeper.MOST_SHARE)
    checks = len(planned) * check_seconds()
    return Cost(
        checkpoint_bytes=keeper.bytes,
        checkpoint_seconds=[round(seconds, 4) for seconds in keeper.seconds],
        step_seconds=step,
        check_seconds=checks,
        checkpoint_share=one / (pause + one),
        check_share=checks / step,
    )


def check_seconds(rounds: int = 2000) -> float:
    """What one lane's step spends on asking whether its loss and its gradient norm are finite."""
    loss, norm = torch.tensor(0.7), torch.tensor(1.3)
    start = time.perf_counter()
    for _ in range(rounds):
        _ = ~(torch.isfinite(norm) & torch.isfinite(loss))
        _ = math.isfinite(0.7) and math.isfinite(1.3)
    return (time.perf_counter() - start) / rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=8, help="checkpoints of each pack")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args()
    found = {name: measure(options.data, trials, options.saves) for name, trials in PACKS.items()}
    text = json.dumps({name: asdict(cost) for name, cost in found.items()}, indent=1)
    FILE.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
