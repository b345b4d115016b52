"""Whether lanes are evaluated faster together than one by one: passes of as many tokens, of four lanes or of one.

``python -m bench.evaluation [--repeats 7] [--data FOLDER]`` writes ``bench/results/evaluation.json`` and prints the
table that docs/benchmarks.md will show (`python -m bench.compare_peers` writes that page). One thread; both take turns.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bench.cases import NUM_TRAIN, lora_trials
from bench.data import SOURCES, prepare
from bench.job import Job
from bench.launch import ROOT
from bench.remora_side import specs, study_config
from bench.tables import evaluation_table
from remora.engine.driver import EVAL_TOKENS, Driver
from remora.engine.lanes import Lane
from remora.engine.layout import token_chunks
from remora.study.context import open_context
from remora.study.machine import settle

SETS, LANES, WARMUP = ("sst2", "mrpc", "imdb"), 4, 2
ROUNDING = 0.05
"""How far logits may differ whose sums were rounded to bfloat16 in another order."""
FILE = ROOT / "bench" / "results" / "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What was measured on one data set.

    Args:
        data: its name.
        lanes: LoRA adapters that read every row.
        rows: of the validation split.
        apart: seconds for all lanes one by one, one figure a repeat.
        together: seconds for all lanes in the same passes.
    """

    data: str
    lanes: int
    rows: int
    apart: list[float]
    together: list[float]


def read_all(driver: Driver, lanes: Sequence[Lane], tokens_per_pass: int) -> list[np.ndarray]:
    """The logits (rows, C) of every lane on validation; all lanes of `lanes` stand in each pass."""
    examples = lanes[0].data.split("validation", 0)
    out = [np.empty((len(examples), lane.head.num_outputs), np.float32) for lane in lanes]
    with torch.no_grad():
        for chosen in token_chunks(examples.all_ids, tokens_per_pass // len(lanes)):
            batches = [lane.batch(examples, chosen, np.arange(len(chosen)), 0) for lane in lanes]
            layout = driver.lay_out(batches, training=False)
            rows, _ = driver.read(layout, [lane.adapter for lane in lanes])
            for lane, logits, part in zip(lanes, out, rows.chunk(len(lanes)), strict=True):
                logits[chosen] = lane.outputs(part, None, None).float().numpy()
    return out


def measure(data_root: Path, data: str, repeats: int) -> Evaluated:
    """Evaluate the same lanes both ways in turn.

    Raises:
        RuntimeError: the two ways do not give the same logits.
    """
    trials = lora_trials(LANES)
    folder = prepare(data_root, data, NUM_TRAIN[data], ROOT / "build" / "bench")
    job = Job(side="remora", data=str(folder), trials=trials, max_length=SOURCES[data].max_length)
    context = open_context(study_config(job))
    texts = context.trial_data()
    turns: list[tuple[float, float]] = []
    with Driver(context.base) as driver:
        lanes = [Lane(spec, driver, texts) for spec in specs(job, len(texts.split("train", 0)))]
        for _ in range(WARMUP + repeats):
            start = time.perf_counter()
            alone = [read_all(driver, [lane], EVAL_TOKENS)[0] for lane in lanes]
            middle = time.perf_counter()
            joint = read_all(driver, lanes, EVAL_TOKENS)
            turns.append((middle - start, time.perf_counter() - middle))
            if max(float(np.abs(a - b).max()) for a, b in zip(alone, joint, strict=True)) > ROUNDING:
                raise RuntimeError("lanes evaluated together give other logits")
    apart, together = ([turn[i] for turn in turns[WARMUP:]] for i in range(2))
    return Evaluated(data=data, lanes=LANES, rows=len(texts.split("validation", 0)), apart=apart, together=together)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settle()
    found = [asdict(measure(options.data, data, options.repeats)) for data in SETS]
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(evaluation_table(found))


if __name__ == "__main__":
    main()
