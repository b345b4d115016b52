"""Writes docs/reliability.md: what is promised and how often the full fault tests tried it, from their own counts.

    python scripts/reliability_page.py TALLY

TALLY is the file to which the tests wrote (``make test-faults``); every figure is a sum of its lines. A promise whose
tests wrote nothing makes this fail: the page holds no figure that no run gave. What safety costs comes from
``bench/results/safety_cost.json`` (``python -m bench.safety_cost``).
"""

import json
import platform
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
COST = ROOT / "bench" / "results" / "safety_cost.json"

PROMISES = (
    ("A study that is killed gives the same bytes when it is taken up again", "kills survived"),
    ("A study whose disk fills up ends with one error and gives the same bytes with more room", "full disks survived"),
    ("Data files: the right rows, or one error that says where", "nasty data files"),
    ("Data files damaged at random are read or refused", "data files damaged at random"),
    ("Study files damaged at random are read or refused", "study files damaged at random"),
    ("Settings damaged at random are read or refused", "settings damaged at random"),
    ("Names from outside stay inside", "names tried"),
    ("Files that can run code do not", "files with payloads that did not run"),
    ("Memory, handles and threads do not creep", "short trials in one process without creep"),
)
"""What is promised, and the key under which its tests count."""


def read_tally(path: Path) -> Counter[str]:
    """The counts of a run, summed by key."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        entry: dict[str, object] = json.loads(line)
        counts[str(entry["what"])] += int(str(entry["count"]))
    return counts


def page(counts: Mapping[str, int], machine: str, costs: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as Markdown.

    Args:
        counts: by key of `PROMISES`.
        machine: on which they were made, in general terms.
        costs: of packs by name, as `bench.safety_cost` writes them.

    Raises:
        SystemExit: a promise was not tried.
    """
    missing = [what for _, what in PROMISES if not counts.get(what)]
    if missing:
        raise SystemExit(f"the run counted nothing for: {', '.join(missing)}")
    rows = [f"| {promise} | {counts[what]:,} {what} |" for promise, what in PROMISES]
    return "\n".join(
        [
            "# What Remora survives",
            "",
            "Written by `make test-faults` from the counts of its own tests; every figure is what one full run tried",
            f"and passed ({machine}). The tests are in `tests/faults` and `tests/study/test_killed.py`; who is",
            "trusted with what is in [SECURITY.md](../SECURITY.md).",
            "",
            "| promise | tried |",
            "|---|---|",
            *rows,
            "",
            "## What it costs",
            "",
            "Made by `python -m bench.safety_cost` on one thread. A study writes a checkpoint a minute, or less often",
            "where one takes long, so that they stay within one per cent of its time; one is on disk, with its",
            "hashes, before training goes on. The checks ask of every step whether loss and gradients are finite.",
            "",
            "| pack | state | a checkpoint | a step | checkpoints | checks |",
            "|---|---|---|---|---|---|",
            *(_cost_row(name, cost) for name, cost in costs.items()),
            "",
        ]
    )


def _cost_row(name: str, cost: Mapping[str, Any]) -> str:
    seconds = statistics.median(cost["checkpoint_seconds"])
    cells = [
        name,
        f"{cost['checkpoint_bytes'] / 1e6:.1f} MB",
        f"{1000 * seconds:.0f} ms",
        f"{1000 * cost['step_seconds']:.0f} ms",
        f"{100 * cost['checkpoint_share']:.2f} % of the time",
        f"{100 * cost['check_share']:.2f} % of the time",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the page."""
    machine = f"{platform.system()}, Python {platform.python_version()}"
    costs = json.loads(COST.read_text(encoding="utf-8"))
    PAGE.write_text(page(read_tally(Path(sys.argv[1])), machine, costs), encoding="utf-8")


if __name__ == "__main__":
    main()
