"""Remora against peft + transformers.Trainer, side by side on this machine.

``python -m bench.compare_peers [--case single|sweep8|...] [--json] [--repeats N] [--go-on]``

Both sides are subprocesses that get the same model, rows, batch size, steps and cores. They take turns (Remora, peer,
peer, ..., Remora, peer, ...), the figure of an arrangement is the median over the turns, a ratio is the median of the
ratios turn by turn. The peer as published, several times slower than any other, has one turn. The clock runs inside
training, after the first steps: start-up, loading, tokenization and evaluation are outside it on both sides.

What is measured is kept until its case is done; ``--go-on`` takes it up again after a run that was stopped.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.cases import CASES, DEFAULT_CASES, DEFAULT_PEER, PUBLISHED_PEER, Arrangement, Case, Precision, arrangements
from bench.cases import NUM_TRAIN as TRAIN_ROWS
from bench.data import SOURCES, prepare, targets_of
from bench.job import Job, Trial
from bench.launch import ROOT, run_together
from bench.machine import describe, product_rates, shapes_of
from bench.tables import write_tables

PREPARED = ROOT / "build" / "bench"
RESULTS = ROOT / "bench" / "results"
PROBE_STEPS, PROBE_WARMUP = 30, 5
TEST_ROWS = 400


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The peer's settings that a short probe found fastest."""

    attention: str = "eager"
    loader_workers: int = 0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One run of one arrangement.

    Args:
        examples_per_second: summed over the arrangement's processes.
        tokens_per_second: real tokens.
        tokens_computed_per_second: with padding.
        peak_rss_bytes: summed over processes.
        load_before: one-minute load average when it started.
        grad_norm_min: smallest gradient norm seen (checked to be finite and above zero where it is measured).
        grad_norm_max: largest.
        train_loss: mean loss over the training, mean over trials.
        accuracy: on the test rows after the case's steps, by trial, in a turn that evaluates.
        notes: what the side chose itself.
    """

    examples_per_second: float
    tokens_per_second: float
    tokens_computed_per_second: float
    peak_rss_bytes: int
    load_before: float
    grad_norm_min: float
    grad_norm_max: float
    train_loss: float
    accuracy: dict[str, float]
    notes: dict[str, Any]


class Progress:
    """What is measured of a case so far, on disk.

    Args:
        path: of the file, which exists while the case is not done.
        go_on: whether to take up what another run left there.
    """

    def __init__(self, path: Path, go_on: bool) -> None:
        self._path = path
        self._done: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if go_on and path.is_file() else {}

    def of(self, what: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured under a name, now or before, as a JSON tree."""
        if what not in self._done:
            self._done[what] = measure()
            aside = self._path.with_suffix(".new")
            aside.write_text(json.dumps(self._done), encoding="utf-8")
            aside.replace(self._path)
        return self._done[what]

    def turn(self, what: str, jobs: list[Job], evaluate: bool = False) -> "Turn":
        """A turn of some jobs."""
        return Turn(**self.of(what, lambda: dataclasses.asdict(turn(jobs, evaluate))))

    def finish(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)


def turn(jobs: list[Job], evaluate: bool = False) -> Turn:
    """Run the jobs of one arrangement together and add up their rates.

    Args:
        jobs: of the arrangement.
        evaluate: predict the test rows afterwards; such a turn is not for its rates.

    Raises:
        RuntimeError: a process failed, or saw a gradient norm that is zero or not finite.
    """
    load = os.getloadavg()[0]
    answers = run_together([dataclasses.replace(job, evaluate=evaluate) for job in jobs])
    trials = [trial for answer in answers for trial in answer.trials]
    lowest, highest = min(t.grad_norm_min for t in trials), max(t.grad_norm_max for t in trials)
    if not 0 < lowest <= highest < float("inf"):
        raise RuntimeError(f"gradient norms from {lowest} to {highest}: the benchmark did not train")

    accuracy: dict[str, float] = {}
    for job, answer in zip(jobs, answers, strict=True) if evaluate else ():
        targets = np.array(targets_of(Path(job.data)))
        for trial, done in zip(job.trials, answer.trials, strict=True):
            name = f"{trial.method} lr {trial.lr:g} seed {trial.seed}"
            accuracy[name] = float((targets == np.array(done.predictions)).mean())

    def total(count: str) -> float:
        return sum(getattr(answer, count) / answer.timed_seconds for answer in answers)

    return Turn(
        examples_per_second=total("timed_examples"),
        tokens_per_second=total("timed_tokens_real"),
        tokens_computed_per_second=total("timed_tokens_computed"),
        peak_rss_bytes=sum(answer.peak_rss_bytes for answer in answers),
        load_before=load,
        grad_norm_min=lowest,
        grad_norm_max=highest,
        train_loss=statistics.mean(t.train_loss for t in trials),
        accuracy=accuracy,
        notes=answers[0].notes,
    )


def split_trials(trials: tuple[Trial, ...], num_parts: int) -> list[tuple[Trial, ...]]:
    return [trials[i::num_parts] for i in range(num_parts) if trials[i::num_parts]]


def remora_jobs(case: Case, folder: Path, cores: int) -> list[Job]:
    """Remora's jobs: a sweep runs one single-threaded worker per core, one trial uses all threads."""
    parts = split_trials(case.trials, cores) if case.side_by_side else [case.trials]
    return [
        Job(
            side="remora",
            data=str(folder),
            trials=part,
            model=case.model,
            max_length=SOURCES[case.data].max_length,
            max_steps=case.max_steps,
            warmup_steps=case.warmup_steps,
            threads=1 if case.side_by_side else cores,
            base_dropout=case.base_dropout,
            curve=False,
        )
        for part in parts
    ]


def peer_jobs(case: Case, arrangement: Arrangement, choice: Choice, folder: Path, cores: int) -> list[Job]:
    """The peer's jobs. Its trials run one after the other, so one per process gives the rate of many equal ones."""
    processes = cores if arrangement.side_by_side else 1
    return [
        Job(
            side="peer",
            data=str(folder),
            trials=part[:1] if case.warmup_steps else part,
            model=case.model,
            max_length=SOURCES[case.data].max_length,
            max_steps=case.max_steps,
            warmup_steps=case.warmup_steps,
            precision=arrangement.precision,
            threads=1 if arrangement.side_by_side else cores,
            padding="max_length" if arrangement.published else "dynamic",
            attention="sdpa" if choice.attention == "sdpa" else "eager",
            loader_workers=choice.loader_workers,
            base_dropout=case.base_dropout,
            curve=False,
        )
        for part in split_trials(case.trials, processes)
    ]


def probe(case: Case, folder: Path, cores: int) -> dict[Precision, Choice]:
    """Find the peer's faster attention, then its faster loader, for each precision with short runs."""
    steps, warmup = min(PROBE_STEPS, case.max_steps), min(PROBE_WARMUP, case.warmup_steps or PROBE_WARMUP)
    short = dataclasses.replace(case, max_steps=steps, warmup_steps=warmup)
    chosen: dict[Precision, Choice] = {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        tried: dict[Choice, float] = {}
        arrangement = Arrangement(name="probe", precision=precision, side_by_side=case.side_by_side)

        def best(options: list[Choice], tried: dict[Choice, float], arrangement: Arrangement) -> Choice:
            for option in options:
                if option not in tried:
                    rate = turn(peer_jobs(short, arrangement, option, folder, cores)).examples_per_second
                    say(f"  {arrangement.precision} {option.attention}, {option.loader_workers} loaders {rate:.1f}")
                    tried[option] = rate
            return max(options, key=lambda option: tried[option])

        first = best([Choice(attention="eager"), Choice(attention="sdpa")], tried, arrangement)
        chosen[precision] = best([first, dataclasses.replace(first, loader_workers=2)], tried, arrangement)
    return chosen


def run_case(case: Case, data_root: Path, repeats: int, cores: int, progress: Progress) -> dict[str, Any]:
    """All turns of a case and its ratios, as a JSON tree."""
    folder = prepare(data_root, case.data, TRAIN_ROWS[case.data], PREPARED, num_test=TEST_ROWS)
    say(f"{case.name}: choosing the peer's attention and loader")
    probed = progress.of("probe", lambda: {k: dataclasses.asdict(v) for k, v in probe(case, folder, cores).items()})
    choices = {precision: Choice(**choice) for precision, choice in probed.items()}
    peers = arrangements(case)
    turns: dict[str, list[Turn]] = {"remora": [], **{peer.name: [] for peer in peers}}
    for i in range(repeats):
        for name, jobs in (
            ("remora", remora_jobs(case, folder, cores)),
            *(
                (peer.name, peer_jobs(case, peer, choices[peer.precision], folder, cores))
                for peer in peers
                if not (peer.published and i)
            ),
        ):
            turns[name].append(progress.turn(f"turn {i + 1}: {name}", jobs))
            say(f"  turn {i + 1}: {name}: {turns[name][-1].examples_per_second:.1f} examples/s")
    rates = {name: statistics.median(t.examples_per_second for t in each) for name, each in turns.items()}
    strongest = max((peer.name for peer in peers if not peer.published), key=lambda name: rates[name])

    say("  accuracy of Remora and of the strongest peer")
    by_name = {peer.name: peer for peer in peers}[strongest]
    ours = progress.turn("quality: remora", remora_jobs(case, folder, cores), evaluate=True)
    jobs = peer_jobs(case, by_name, choices[by_name.precision], folder, cores)
    theirs = progress.turn(f"quality: {strongest}", jobs, evaluate=True)

    def ratio(name: str) -> float:
        pairs = zip(turns["remora"], turns[name], strict=False)
        return statistics.median(ours.examples_per_second / theirs.examples_per_second for ours, theirs in pairs)

    tokens = statistics.median(t.tokens_per_second / t.examples_per_second for t in turns["remora"])
    rate_per_core = product_rates(case.model, 1)
    bound = cores * max(rate_per_core.values()) / (tokens * shapes_of(case.model).flops_per_token)
    return {
        "case": case.name,
        "data": case.data,
        "model": case.model,
        "what": case.what,
        "trials": len(case.trials),
        "examples_per_trial": case.num_examples,
        "base_dropout": case.base_dropout,
        "cores": cores,
        "strongest_peer": strongest,
        "test_rows": TEST_ROWS,
        "quality": quality(ours.accuracy, theirs.accuracy),
        "ratio_strongest": ratio(strongest),
        "ratio_default": ratio(DEFAULT_PEER.name),
        "ratio_published": ratio(PUBLISHED_PEER.name),
        "product_rate_per_core": rate_per_core,
        "bound_examples_per_second": bound,
        "fraction_of_bound": {name: rate / bound for name, rate in rates.items()},
        "peer_settings": probed,
        "arrangements": {
            name: {"examples_per_second": rates[name], "turns": [dataclasses.asdict(t) for t in each]}
            for name, each in turns.items()
        },
    }


def quality(ours: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """Mean accuracy over the trials that both sides evaluated, and the peer's 95 % interval over test items."""
    common = sorted(set(ours) & set(theirs))
    mine, peers = (statistics.mean(side[name] for name in common) for side in (ours, theirs))
    half = 1.96 * math.sqrt(peers * (1 - peers) / TEST_ROWS)
    low, high = peers - half, peers + half
    return {"trials": common, "remora": mine, "peer": peers, "low": low, "high": high, "inside": low <= mine <= high}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [case.name for case in CASES]
    parser.add_argument(
        "--case", action="append", choices=known, help="may be repeated; default: " + ", ".join(DEFAULT_CASES)
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="threads or processes each side may use")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--go-on", action="store_true", help="keep what a run that was stopped has measured")
    options = parser.parse_args()
    machine = describe()
    results: list[dict[str, Any]] = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if case.name in (options.case or DEFAULT_CASES):
            progress = Progress(PREPARED / f"{case.name}.progress.json", options.go_on)
            measured = run_case(case, options.data, options.repeats, options.cores, progress)
            result = {"machine": machine, **measured}
            (RESULTS / f"{case.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            progress.finish()
            results.append(result)
    text = write_tables(RESULTS, ROOT / "docs", [case.name for case in CASES])
    print(json.dumps(results, indent=1) if options.json else text)


if __name__ == "__main__":
    main()
