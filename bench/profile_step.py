"""Where the time of a training step goes: torch's profiler over the steps of one pack.

``python -m bench.profile_step [--case sweep8] [--lanes 4] [--threads 1] [--steps 30] [--rows 25] [--keep]`` prints the
operations by their own time, as shares of the profiled steps. ``--keep`` writes the shares of their kinds into
``bench/results/profile.json``, which docs/benchmarks.md shows.
"""

import argparse
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from bench.cases import CASES
from bench.data import SOURCES, prepare
from bench.job import Job
from bench.launch import ROOT
from bench.remora_side import specs, study_config
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import NoEvents, TrialSpec
from remora.study.context import open_context
from remora.study.machine import settle

WARMUP_STEPS = 10
FILE = ROOT / "bench" / "results" / "profile.json"
KINDS = {
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm"),
    "attention": ("_NativeAttend", "_Attend", "aten::_softmax", "aten::_softmax_backward_data"),
    "low-rank terms": ("_ChangedLinear",),
    "activations": ("_Activation",),
    "layer norms": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "dropout of hidden states": ("_NativeDropout",),
    "copies and sums": ("aten::copy_", "aten::add", "aten::add_", "aten::fill_", "aten::cat", "aten::index_select"),
    "optimizer": ("aten::_fused_adamw_", "aten::linalg_vector_norm"),
}
"""Operations by what they are for; the backward node of one of our own belongs to it. All else is "the rest"."""


def kinds(own_time: Mapping[str, float]) -> dict[str, float]:
    """Shares of the whole time by kind of operation.

    Args:
        own_time: of each operation, by the profiler's name.
    """
    total = math.fsum(own_time.values())
    shares: dict[str, float] = {}
    for kind, names in KINDS.items():
        every = {*names, *(f"{name}Backward" for name in names if name.startswith("_"))}
        shares[kind] = math.fsum(own_time.get(name, 0.0) for name in every) / total
    return {**shares, "the rest": 1 - math.fsum(shares.values())}


class _Window(NoEvents):
    """Profiles the first lane's steps after the warm-up."""

    def __init__(self, profiler: profile) -> None:
        self.profiler = profiler

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        if spec.id == "trial-0" and step == WARMUP_STEPS:
            self.profiler.start()
        elif spec.id == "trial-0" and step == num_steps:
            self.profiler.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=[case.name for case in CASES], default="sweep8")
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", type=int, default=25, help="lines to print")
    parser.add_argument("--keep", action="store_true", help="write the shares for docs/benchmarks.md")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    case = next(case for case in CASES if case.name == options.case)
    job = Job(
        side="remora",
        data=str(prepare(options.data, case.data, 3000, ROOT / "build" / "bench")),
        trials=case.trials[: options.lanes],
        max_length=SOURCES[case.data].max_length,
        max_steps=WARMUP_STEPS + options.steps,
        threads=options.threads,
        base_dropout=case.base_dropout,
    )
    context = open_context(study_config(job))
    data = context.trial_data()
    settle()
    profiler = profile(activities=[ProfilerActivity.CPU])
    with Driver(context.base) as driver:
        todo = specs(job, len(data.split("train", 0)))
        for _ in run_pack(driver, data, todo, slots=len(todo), events=_Window(profiler)):
            pass
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = math.fsum(event.self_cpu_time_total for event in events)
    steps = options.steps
    print(
        f"{case.name}, {len(todo)} lanes, {options.threads} thread(s): {total / steps / 1000:.1f} ms a step, profiled"
    )
    for event in events[: options.rows]:
        share = event.self_cpu_time_total / total
        per_step = event.self_cpu_time_total / steps / 1000
        print(f"{share:6.1%} {per_step:8.2f} ms {event.count / steps:7.1f} calls  {event.key}")
    if options.keep:
        kept: dict[str, object] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
        kept[case.name] = {
            "lanes": len(todo),
            "threads": options.threads,
            "seconds": total / steps / 1e6,
            "shares": kinds({event.key: event.self_cpu_time_total for event in events}),
        }
        FILE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
