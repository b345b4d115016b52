"""Trains many short trials in one worker and prints what the process holds as it goes: memory, handles, threads.

Run as a program of its own: ``python -m tests.faults.many_trials RUN_DIR NUM EVERY``; RUN_DIR has a study.yaml.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from remora.config.load import read_study
from remora.results.store import PACKS
from remora.study.context import open_context
from remora.study.leases import Leases
from remora.study.machine import give_memory_back
from remora.study.rows import study_rows
from remora.study.trials import TrialMaker
from remora.study.worker import work

LANES = 4


def jobs(run_dir: Path, num: int, every: int) -> Iterator[str]:
    """Packs for a worker; before some of them, a line about the process."""
    context = open_context(read_study(run_dir / "study.yaml"))
    rows = [row for row in study_rows(context.config, context.base) if row.method is not None]
    trials = [TrialMaker(context).final(row, 1e-3)[0] for row in rows]
    del context
    process, leases = psutil.Process(), Leases(run_dir / PACKS)
    for start in range(0, num + 1, LANES):
        if start % every == 0:
            give_memory_back()
            held = {"rss": process.memory_info().rss, "files": process.num_fds(), "threads": process.num_threads()}
            print(json.dumps({"trials": start, **held}), flush=True)
        if start == num:
            return
        pack = []
        for number in range(start, start + LANES):
            trial = trials[number % len(trials)]
            pack.append(replace(trial, spec=replace(trial.spec, id=f"{trial.spec.id}-{number}", seed=number)))
        lease = leases.take(f"pack{start}")
        assert lease is not None
        job = {"pack": f"pack{start}", "slots": LANES, "parts": 1, "trials": [t.to_json() for t in pack], "done": []}
        yield json.dumps({**job, "lease": asdict(lease.ticket)})
        lease.end("done")


def main() -> None:
    run_dir, num, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

    def say(event: dict[str, object]) -> None:
        assert event.get("status", "done") == "done", event

    work(run_dir, 1, jobs(run_dir, num, every), say)


if __name__ == "__main__":
    main()
