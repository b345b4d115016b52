"""Does Remora train to the same quality as peft + transformers.Trainer when both run as their users run them?

``python -m bench.parity [--side peer|remora] [--seeds 5] [--processes 1] [--table]``

LoRA (r 8, alpha 16, dropout 0.1, query and value) and full fine-tuning on sst2 and mrpc: equal rows, learning rate,
epochs, batch, schedule (linear decay, 6 % warm-up), AdamW, weight decay on matrices, clip 1.0, base dropout on. Each
(side, data set, method, seed) is a cell with a file of its own, so an interrupted run continues where it stopped; with
all cells there the table is written.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from bench.data import SOURCES, labels_of, prepare, read_rows
from bench.job import Answer, Job, Side, Trial, TrialAnswer
from bench.launch import ROOT, run_together
from bench.scores import Difference, Ints, Score, accuracy, difference, f1_of

SIDES: tuple[Side, Side] = ("remora", "peer")
CELLS = ROOT / "bench" / "results" / "parity"
PREPARED = ROOT / "build" / "bench"
DATA_SETS = ("sst2", "mrpc")
LEARNING_RATES = {"lora": 1e-3, "full": 1e-4}
NUM_TRAIN, EPOCHS, BATCH = 3000, 1, 16
FAMILY = 6  # rows of the table, judged together
BOUND = 0.025  # largest allowed difference of the means

INTRO = """# Parity with peft + transformers.Trainer

Made by `python -m bench.parity`. Both sides as their users run them: base model `minilm`, the same {rows} training rows
and the whole test split, {epochs} epoch(s), batch {batch}, {seeds} seeds or more, learning rate {rates}, linear decay
after 6 % warm-up, AdamW, weight decay 0.01 on matrices, clip 1.0, base dropout on. LoRA has r 8, alpha 16, dropout 0.1
on query and value. The peer runs in its faster setting, bf16 autocast with dynamic padding, and loads a fresh base for
every seed (peft gives all adapters of one base the same initial head); Remora chooses its own arithmetic. Data order,
dropout and initial weights differ between the sides, as they do for users.

Scores are points (x 100), mean over seeds with the standard deviation in brackets. The interval is Welch's t over
seeds; the joint interval is the same at the level at which all {family} contain 0 together in 95 % of cases if both
sides train alike (Bonferroni); the wide interval adds the test items' variance to the first (paired bootstrap), as a
comparison of methods does. A row passes when the first, the strictest, contains 0 and the means differ by less than
{bound} points.
"""

TWICE = ("mrpc", "lora", 20)
"""Trained with so many seeds twice over: the row failed with the first."""

REPEATED = """
LoRA on mrpc was first judged on F1 with {first} seeds and failed: {before}. Whether that was a difference, or
one of the intervals of which 5 % miss 0, was left to {first} more on either side, before the peer's were trained.
Those alone give {after}. The table has all of them.
"""

LOSSES = """
Mean training loss over all steps, the same seeds; the 95 % interval of the difference is Welch's t.

| data | method | Remora | peer | difference | 95 % interval |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of one side."""

    side: Side
    data: str
    method: str
    seed: int

    @property
    def file(self) -> Path:
        return CELLS / f"{self.side}-{self.data}-{self.method}-{self.seed}.json"


def cells(sides: tuple[Side, ...], num_seeds: int, only: str | None = None) -> Iterator[Cell]:
    """All cells, or those of one data set and method, seeds outermost: an early stop leaves balanced results."""
    for seed in range(num_seeds):
        for data in DATA_SETS:
            for method in LEARNING_RATES:
                for side in sides if only in (None, f"{data}-{method}") else ():
                    yield Cell(side=side, data=data, method=method, seed=seed)


def train(cell: Cell, data_root: Path, threads: int, nice: int) -> None:
    """Train one cell and write its file; nothing to do when it is there.

    Raises:
        ValueError: the cell's file was made with other settings.
    """
    folder = prepare(data_root, cell.data, NUM_TRAIN, PREPARED)
    job = Job(
        side=cell.side,
        data=str(folder),
        trials=(Trial(method=cell.method, lr=LEARNING_RATES[cell.method], seed=cell.seed),),
        max_length=SOURCES[cell.data].max_length,
        epochs=EPOCHS,
        batch_size=BATCH,
        threads=threads,
        precision="bf16",
        attention="eager",
        evaluate=True,
    )
    settings = dataclasses.asdict(job) | {"data": cell.data}
    del settings["threads"]  # of no consequence for quality
    if cell.file.is_file():
        made_with = json.loads(cell.file.read_text(encoding="utf-8"))["job"]
        expected = json.loads(json.dumps(settings))
        if any(expected[key] != value for key, value in made_with.items() if key in expected):
            raise ValueError(f"{cell.file} was made with other settings; remove it to train it again")
        return
    [answer] = run_together([job], nice=nice)
    CELLS.mkdir(parents=True, exist_ok=True)
    aside = cell.file.with_suffix(".part")
    aside.write_text(json.dumps({"job": settings, "answer": dataclasses.asdict(answer)}) + "\n", encoding="utf-8")
    aside.replace(cell.file)
    print(f"{cell.file.stem}: {answer.wall_seconds:.0f} s, loss {answer.trials[0].train_loss:.4f}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One compared metric: both sides' scores per seed, and their difference (Remora minus peer)."""

    data: str
    method: str
    metric: str
    remora: tuple[float, ...]
    peer: tuple[float, ...]
    difference: Difference

    @property
    def passed(self) -> bool:
        """Whether the interval over seeds contains 0 and the means are close."""
        return self.difference.low <= 0 <= self.difference.high and abs(self.difference.mean) < BOUND


def seeds_of(data: str, method: str, at_least: int) -> int:
    """How many seeds both sides have trained, from 0 on; a training may have been given more than the others."""
    found = at_least
    while all(Cell(side=side, data=data, method=method, seed=found).file.is_file() for side in SIDES):
        found += 1
    return found


def answers(side: Side, data: str, method: str, num_seeds: int) -> list[TrialAnswer]:
    """What a side's trainings gave, seed by seed."""
    found: list[TrialAnswer] = []
    for seed in range(num_seeds):
        cell = Cell(side=side, data=data, method=method, seed=seed)
        tree = json.loads(cell.file.read_text(encoding="utf-8"))["answer"]
        found.append(Answer.from_json(json.dumps(tree)).trials[0])
    return found


def predictions(side: Side, data: str, method: str, num_seeds: int) -> list[Ints]:
    return [np.array(each.predictions, dtype=np.int64) for each in answers(side, data, method, num_seeds)]


def loss_lines(num_seeds: int) -> list[str]:
    """The table of training losses."""
    lines: list[str] = []
    for data in DATA_SETS:
        for method in LEARNING_RATES:
            seeds = seeds_of(data, method, num_seeds)
            ours, theirs = ([a.train_loss for a in answers(side, data, method, seeds)] for side in SIDES)
            test = stats.ttest_ind(ours, theirs, equal_var=False)
            interval = test.confidence_interval()
            lines.append(
                f"| {data} | {method} | {np.mean(ours):.4f} | {np.mean(theirs):.4f} "
                f"| {np.mean(ours) - np.mean(theirs):+.4f} | {interval.low:+.4f} to {interval.high:+.4f} |"
            )
    return lines


def compare(data_root: Path, num_seeds: int) -> list[Row]:
    """The table's rows, read from the cells' files alone."""
    rows: list[Row] = []
    for data in DATA_SETS:
        folder = prepare(data_root, data, NUM_TRAIN, PREPARED)
        labels = labels_of(folder)
        targets = np.array(
            [labels.index(str(row["label"])) for row in read_rows(folder / "test.jsonl")], dtype=np.int64
        )
        metrics: dict[str, Score] = {"accuracy": accuracy}
        if SOURCES[data].metric == "f1":
            metrics = {"f1": f1_of(labels.index(SOURCES[data].positive)), **metrics}
        for method in LEARNING_RATES:
            seeds = seeds_of(data, method, num_seeds)
            ours, theirs = (predictions(side, data, method, seeds) for side in SIDES)
            for metric, score in metrics.items():
                rows.append(
                    Row(
                        data=data,
                        method=method,
                        metric=metric,
                        remora=tuple(score(targets, run) for run in ours),
                        peer=tuple(score(targets, run) for run in theirs),
                        difference=difference(score, targets, ours, theirs, family=FAMILY),
                    )
                )
    return rows


def repeated(data_root: Path) -> str:
    """What the first and the second seeds of the training that was repeated give, each alone."""
    data, method, first = TWICE
    if seeds_of(data, method, first) < 2 * first:
        return ""
    folder = prepare(data_root, data, NUM_TRAIN, PREPARED)
    labels = labels_of(folder)
    targets = np.array([labels.index(str(row["label"])) for row in read_rows(folder / "test.jsonl")], dtype=np.int64)
    ours, theirs = (predictions(side, data, method, 2 * first) for side in SIDES)
    said: list[str] = []
    for part in (slice(0, first), slice(first, 2 * first)):
        diff = difference(f1_of(labels.index(SOURCES[data].positive)), targets, ours[part], theirs[part], family=FAMILY)
        said.append(f"{100 * diff.mean:+.2f} ({100 * diff.low:+.2f} to {100 * diff.high:+.2f})")
    return REPEATED.format(first=first, before=said[0], after=said[1])


def write(rows: list[Row], num_seeds: int, note: str) -> str:
    """Write ``bench/results/parity.json`` and ``docs/parity.md``; return the latter's text."""
    tree = {
        "protocol": {
            "train_rows": NUM_TRAIN,
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "seeds": num_seeds,
            "learning_rates": LEARNING_RATES,
            "bound": BOUND,
        },
        "rows": [dataclasses.asdict(row) | {"passed": row.passed} for row in rows],
    }
    (CELLS.parent / "parity.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    rates = ", ".join(f"{method} {lr:g}" for method, lr in LEARNING_RATES.items())
    intro = INTRO.format(
        rows=NUM_TRAIN,
        epochs=EPOCHS,
        batch=BATCH,
        seeds=num_seeds,
        rates=rates,
        bound=f"{100 * BOUND:g}",
        family=FAMILY,
    )
    lines = [
        intro,
        "| data | method | seeds | metric | Remora | peer | difference | 95 % interval | joint | wide | passes |",
        "|---|---|---:|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        diff = row.difference
        lines.append(
            f"| {row.data} | {row.method} | {len(row.remora)} | {row.metric} "
            f"| {spread(row.remora)} | {spread(row.peer)} "
            f"| {100 * diff.mean:+.2f} | {100 * diff.low:+.2f} to {100 * diff.high:+.2f} "
            f"| {100 * diff.joint_low:+.2f} to {100 * diff.joint_high:+.2f} "
            f"| {100 * diff.wide_low:+.2f} to {100 * diff.wide_high:+.2f} | {'yes' if row.passed else 'no'} |"
        )
    text = "\n".join(lines) + "\n" + note + LOSSES + "\n".join(loss_lines(num_seeds)) + "\n"
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs" / "parity.md").write_text(text, encoding="utf-8")
    return text


def spread(scores: tuple[float, ...]) -> str:
    values = 100 * np.array(scores)
    return f"{values.mean():.2f} ({values.std(ddof=1):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=("peer", "remora"), help="train the cells of one side only")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", help="train one data set and method, such as mrpc-lora (with --seeds, to more seeds)")
    parser.add_argument("--processes", type=int, default=1, help="cells trained at the same time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only write the table from the cells that are there")
    options = parser.parse_args()
    sides: tuple[Side, ...] = (options.side,) if options.side else ("peer", "remora")
    if not options.table:
        with ThreadPoolExecutor(options.processes) as pool:
            work = [
                pool.submit(train, cell, options.data, options.threads, options.nice)
                for cell in cells(sides, options.seeds, options.only)
            ]
            for each in work:
                each.result()
    if not options.side and not options.only:
        print(write(compare(options.data, options.seeds), options.seeds, repeated(options.data)))


if __name__ == "__main__":
    main()
