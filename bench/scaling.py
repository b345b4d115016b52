"""Whether time grows as the work does: once, twice and four times the examples; and 64 trials as lanes of one study.

``python -m bench.scaling [--repeats 3] [--steps 40] [--data FOLDER]`` writes ``bench/results/scaling.json`` and prints
the tables that docs/benchmarks.md will show (`python -m bench.compare_peers` writes that page). Sizes take turns.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cases import NUM_TRAIN, lora_trials
from bench.data import SOURCES, prepare
from bench.job import Answer, Job
from bench.launch import ROOT, run_together
from bench.tables import scaling_tables

DATA, WARMUP_STEPS, LANES = "sst2", 5, 4
MANY, MANY_STEPS = 64, 12
FACTORS = (1, 2, 4)
FILE = ROOT / "bench" / "results" / "scaling.json"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """What was measured.

    Args:
        examples: trained inside the timed region, by size.
        seconds: of the timed region, by size, one figure a repeat.
        many_lanes: trials that were lanes of one pack.
        many_seconds: of their timed region.
        many_examples: trained in it.
        many_peak_bytes: resident memory of the process.
    """

    examples: list[int]
    seconds: list[list[float]]
    many_lanes: int
    many_seconds: float
    many_examples: int
    many_peak_bytes: int


def job(folder: Path, num_trials: int, num_steps: int) -> Job:
    """LoRA trials packed in one single-threaded worker, for so many steps after the warm-up."""
    return Job(
        side="remora",
        data=str(folder),
        trials=lora_trials(num_trials) if num_trials <= LANES else lora_trials(1) * num_trials,
        max_length=SOURCES[DATA].max_length,
        max_steps=WARMUP_STEPS + num_steps,
        warmup_steps=WARMUP_STEPS,
        curve=False,
    )


def measure(data: Path, repeats: int, steps: int) -> Scaling:
    """Run all sizes in turn, then the many lanes once.

    Args:
        data: folder of the data sets.
        repeats: turns.
        steps: timed steps of the smallest size.
    """
    folder = prepare(data, DATA, NUM_TRAIN[DATA], ROOT / "build" / "bench")

    def timed(num_trials: int, num_steps: int) -> Answer:
        (answer,) = run_together([job(folder, num_trials, num_steps)])
        return answer

    turns = [[timed(LANES, factor * steps) for factor in FACTORS] for _ in range(repeats)]
    many = timed(MANY, MANY_STEPS)
    return Scaling(
        examples=[answer.timed_examples for answer in turns[0]],
        seconds=[[turn[i].timed_seconds for turn in turns] for i in range(len(FACTORS))],
        many_lanes=len(many.trials),
        many_seconds=many.timed_seconds,
        many_examples=many.timed_examples,
        many_peak_bytes=many.peak_rss_bytes,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args(arguments)
    found = asdict(measure(options.data, options.repeats, options.steps))
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(scaling_tables(found))


if __name__ == "__main__":
    main()
