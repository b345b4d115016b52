"""How good the costs are that a study announces: runs studies and sets what was estimated beside what was measured.

``python -m bench.check_estimates [--case small ...] [--data FOLDER]`` asks ``remora`` for the plan of every case
(``--dry-run``), runs it, samples the memory of all its processes, and writes ``bench/results/estimates.json`` and
``docs/estimates.md``. ``--table`` writes the page from the results that are there.

Peak memory is the sum over the coordinator and its workers of the most that each held for itself while there were
workers, and what they mapped of files (libraries, the base), once. Processes that measure solo steps run when the
workers are gone and do not count, nor does the coordinator's probe, which is over when they come.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.launch import ROOT
from bench.machine import describe
from remora.results.wording import duration, size

FILE = ROOT / "bench" / "results" / "estimates.json"
PAGE = ROOT / "docs" / "estimates.md"
EVERY_SECONDS = 0.05
COMMON = ("compare", "--model", "minilm", "--seeds", "2")
CASES: dict[str, tuple[str, ...]] = {
    "small": (*COMMON, "--data", "sst2", "--methods", "lora,bitfit", "--no-full", "data.train_limit=300",
              "data.validation_limit=100", "data.test_limit=100", "protocol.tuning_trials=2"),
    "full": (*COMMON, "--data", "sst2", "--methods", "lora,bitfit", "data.train_limit=300", "data.test_limit=400"),
    "long": (*COMMON, "--data", "imdb", "--methods", "lora,dora", "--no-full", "data.train_limit=200",
             "data.validation_limit=100", "data.test_limit=200", "protocol.tuning_trials=2"),
    "demo": ("demo",),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One study, estimated and measured.

    Args:
        case: its name.
        command: without the program.
        trials: number of trials.
        seconds, bytes: of wall time and of peak memory, estimated and measured.
        load: average number of running processes on the machine in the minute before.
    """

    case: str
    command: tuple[str, ...]
    trials: int
    estimated_seconds: float
    measured_seconds: float
    estimated_bytes: int
    measured_bytes: int
    load: float


class Watch:
    """Memory of a process and its workers, sampled."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._own: dict[int, int] = {}
        self._shared = 0

    def look(self) -> None:
        """Take one sample; processes that just ended are passed over."""
        try:
            workers = [one for one in self._root.children(recursive=True) if one.name() == "remora-worker"]
        except psutil.Error:
            return
        for process in [self._root, *workers] if workers else []:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in status.splitlines())
            if "VmHWM" not in fields:  # it has ended
                continue
            held = {name: 1024 * int(fields[name].split()[0]) for name in ("VmHWM", "RssAnon", "RssFile", "RssShmem")}
            shared = held["RssFile"] + held["RssShmem"]
            own = held["RssAnon"] if process is self._root else held["VmHWM"] - shared
            self._own[process.pid] = max(self._own.get(process.pid, 0), own)
            self._shared = max(self._shared, shared)

    @property
    def peak(self) -> int:
        """Bytes."""
        return sum(self._own.values()) + self._shared

    @property
    def parts(self) -> dict[str, Any]:
        """The peak's parts, for a look at what an estimate missed."""
        return {"own": list(self._own.values()), "shared": self._shared}


def check(case: str, data_root: Path) -> Check:
    """Estimate a case and run it."""
    arguments = [str(data_root / part) if part in ("sst2", "imdb") else part for part in CASES[case]]
    command = [sys.executable, "-m", "remora", *arguments]
    load = os.getloadavg()[0]
    planned = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=True)
    plan = json.loads(planned.stdout)
    out = Path(tempfile.mkdtemp())
    try:
        start = time.monotonic()
        with (out / "said").open("w") as said:
            study = subprocess.Popen([*command, "--out", str(out / "run"), "--json"], stdout=said, stderr=said)
            watch = Watch(study.pid)
            while study.poll() is None:
                watch.look()
                time.sleep(EVERY_SECONDS)
        seconds = time.monotonic() - start
        if study.returncode != 0:
            raise RuntimeError(f"{case} ended with code {study.returncode}: {(out / 'said').read_text()[-2000:]}")
    finally:
        shutil.rmtree(out)
    print(f"{case}: {watch.parts}", file=sys.stderr)
    return Check(
        case=case,
        command=CASES[case],
        trials=plan["trials"],
        estimated_seconds=plan["seconds"],
        measured_seconds=seconds,
        estimated_bytes=plan["peak_bytes"],
        measured_bytes=watch.peak,
        load=load,
    )


def page(checks: Sequence[Check], machine: dict[str, Any]) -> str:
    """docs/estimates.md."""
    lines = [
        "# How good the announced costs are",
        "",
        "Generated by `python -m bench.check_estimates`; do not edit. Before a study Remora takes a few real passes of",
        "it and says what it will cost. Here whole studies were run after that. Peak memory is the sum over the",
        "coordinator and its workers of what each held at most for itself, and what they map of files once. Time goes",
        "with how busy the machine is: the load before a study counts the processes that were running.",
        "",
        f"Machine: {machine['cores']} cores ({machine['architecture']}), {machine['memory_gib']} GiB, "
        f"torch {machine['torch']}.",
        "",
        "| study | trials | time, estimated | measured | ratio | peak memory, estimated | measured | ratio | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in checks:
        lines.append(
            f"| {one.case} | {one.trials} | {duration(one.estimated_seconds)} | {duration(one.measured_seconds)} "
            f"| {one.estimated_seconds / one.measured_seconds:.2f} | {size(one.estimated_bytes)} "
            f"| {size(one.measured_bytes)} | {one.estimated_bytes / one.measured_bytes:.2f} | {one.load:.1f} |"
        )
    lines += ["", *(f"* {one.case}: `remora {' '.join(one.command)}`" for one in checks)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), action="append", help="may be repeated; all by default")
    parser.add_argument("--table", action="store_true", help="only write the page")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"checks": []}
    checks: dict[str, Check] = {}
    for entry in known["checks"]:
        fields: dict[str, Any] = {**entry, "command": tuple(entry["command"])}
        checks[entry["case"]] = Check(**fields)
    if not options.table:
        known["machine"] = describe()
        for case in options.case or list(CASES):
            checks[case] = check(case, options.data)
            print(json.dumps(asdict(checks[case])))
    ordered = [checks[case] for case in CASES if case in checks]
    known["checks"] = [asdict(one) for one in ordered]
    FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(ordered, known["machine"]), encoding="utf-8")


if __name__ == "__main__":
    main()
