"""Measure Remora's statistics: false alarms, coverage, power and decisions; writes docs/statistics.md.

    python -m bench.calibrate_statistics --components bench/results/variance_components.json
    python -m bench.calibrate_statistics --run-dir RUN_DIR --run-dir RUN_DIR ...

The first simulates studies with known truth from fitted variance components (bench.variance_components fits them);
the second counts false alarms in real studies that enter one method twice. Each replaces its own part of the results
file and rewrites the page from that file. About 5 minutes on one core for one component set.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.aa_studies import subsampled, twins
from bench.calibration_cells import Cell, run_cell
from bench.run_scores import read_scores
from bench.simulated_studies import World
from bench.statistics_page import RealStudies, Simulation, page
from bench.variance_components import VarianceComponents, read_components

METRICS = ("macro_f1", "matthews", "pearson", "spearman")
# The metrics that need a real bootstrap are measured at one size.
METRIC_SEEDS, METRIC_ITEMS = 3, 400
# Studies of the size asked for are large: one in so many is run.
NEED_SHARE = 5


def main(arguments: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json.is_file() else {}
    shown = " ".join(part if not Path(part).is_absolute() else Path(part).name for part in given)
    command = f"python -m bench.calibrate_statistics {shown}"
    if options.components is not None:
        results["simulation"] = _simulate(options, command).to_json()
    if options.run_dir:
        results["real"] = _real(options, command).to_json()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"schema": 1, **results}, indent=1) + "\n")
    simulation = Simulation.from_json(results["simulation"]) if "simulation" in results else None
    real = RealStudies.from_json(results["real"]) if "real" in results else None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(simulation, real))
    print(f"wrote {options.out} and {options.json}", file=sys.stderr)


def _parse(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=Path, help="variance components to simulate with")
    parser.add_argument("--only", nargs="+", help="names of the component sets to use; all when left out")
    parser.add_argument("--seeds", nargs="+", type=int, default=[2, 3, 5], help="seeds per method")
    parser.add_argument("--items", nargs="+", type=int, default=[200, 400, 2000], help="test items")
    parser.add_argument("--studies", type=int, default=1000, help="simulated studies per cell")
    parser.add_argument("--validation", type=int, default=500, help="validation items of a repeated tuning")
    parser.add_argument("--run-dir", action="append", type=Path, default=[], help="a real A/A study; may be repeated")
    parser.add_argument("--subsamples", type=int, default=200, help="subsamples of each real pair and size")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path("docs/statistics.md"))
    parser.add_argument("--json", type=Path, default=Path("bench/results/statistics.json"))
    options = parser.parse_args(given)
    if options.components is None and not options.run_dir and not options.json.is_file():
        parser.error(f"give --components, --run-dir or both; without them the page is made from {options.json}")
    return options


def _simulate(options: argparse.Namespace, command: str) -> Simulation:
    source, components = read_components(options.components)
    wanted = [entry for entry in components if options.only is None or entry.name in options.only]
    plans: list[tuple[VarianceComponents, str, int, int, int]] = []
    for entry in wanted:
        for scenario in ("tie", "gap", "tuned"):
            plans += [(entry, scenario, s, n, options.studies) for s in options.seeds for n in options.items]
        # Seeds weigh most where items are many.
        plans += [(entry, "uneven", s, max(options.items), options.studies) for s in options.seeds]
        few = max(options.studies // NEED_SHARE, 1)
        plans += [(entry, "need", max(options.seeds), n, few) for n in options.items]
        plans += [(entry, metric, METRIC_SEEDS, METRIC_ITEMS, options.studies) for metric in METRICS]
    started = time.monotonic()
    cells: list[Cell] = []
    work = [(plan, options.validation, options.seed) for plan in plans]
    # Fresh processes: forking a process that has computed with threaded libraries can hang.
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for number, cell in enumerate(pool.map(_cell, work), start=1):
            cells.append(cell)
            where = f"{cell.components} {cell.scenario} S={cell.seeds} n={cell.items}"
            print(f"{time.monotonic() - started:6.0f} s  {number}/{len(plans)}  {where}", file=sys.stderr, flush=True)
    return Simulation(
        command=command,
        source=source,
        validation=options.validation,
        components=tuple(wanted),
        cells=tuple(cells),
    )


def _cell(work: tuple[tuple[VarianceComponents, str, int, int, int], int, int]) -> Cell:
    (components, scenario, num_seeds, num_items, num_studies), validation, seed = work
    return run_cell(scenario, World(components), num_seeds, num_items, num_studies, validation, seed)


def _real(options: argparse.Namespace, command: str) -> RealStudies:
    runs = [run for path in options.run_dir if (run := read_scores(path)).twins]
    skipped = len(options.run_dir) - len(runs)
    if skipped:
        print(f"{skipped} studies without a method entered twice are left out", file=sys.stderr)
    return RealStudies(
        command=command,
        studies=len(runs),
        times=options.subsamples,
        twins=twins(runs, options.seed),
        subsampled=subsampled(runs, options.seeds, options.items, options.subsamples, options.seed),
    )


if __name__ == "__main__":
    main()
