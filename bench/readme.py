"""Puts the table and the picture of a finished run into README.md: ``python -m bench.readme RUN_DIR``.

Everything between the two marks is replaced; nothing in it is typed by hand.
"""

import argparse
import re
import shutil
from pathlib import Path

from remora.results.schema import Costs
from remora.results.store import COSTS_FILE, read_record, read_run
from remora.results.summary import summary_of
from remora.results.wording import count, duration, interval, points, rate, size

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
BLOCK = re.compile(r"(<!-- run: begin -->\n).*?(<!-- run: end -->)", re.DOTALL)


def block(run_dir: Path) -> str:
    """The table, the verdict and the picture of a run as Markdown.

    Args:
        run_dir: a finished run directory.
    """
    run = read_run(run_dir)
    summary = summary_of(run)
    costs = read_record(run_dir / COSTS_FILE, Costs)
    lines = [
        f"| method | {summary.data.metric} | 95 % interval | trained | of these head | step alone | memory | lr |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in summary.rows:
        lr = row.hyperparameters.get("lr")
        name = f"**{row.label}**" if row.in_best_set else row.label
        cells = [
            points(row.mean, row.metric),
            interval(row.low, row.high, row.metric),
            count(row.trained_params) if row.trained_params else "–",
            count(row.head_params) if row.head_params else "–",
            duration(row.step_seconds),
            size(row.peak_bytes),
            rate(float(lr)) if isinstance(lr, int | float) else "–",
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    sizes = {name: split.rows for name, split in run.data.splits.items()}
    made = (
        f"`{run.study.command or 'remora ' + run.study.name}` on {costs.machine.cores} cores "
        f"({costs.machine.cpu}, base in {costs.machine.dtype}): {summary.trials.tuning} tuning and "
        f"{summary.trials.final} final trials, {sizes['train']} training, {sizes['validation']} validation and "
        f"{sizes['test']} test rows, {duration(costs.study_seconds)} in all. Bold: may be the best (95 %)."
    )
    verdict = "> " + summary.recommendation.text
    picture = "![quality of every method with its 95 % interval](docs/figures/demo-ranking.svg)"
    return "\n\n".join(["\n".join(lines), made, verdict, picture]) + "\n"


def main() -> None:
    """Replace the block in README.md and copy the picture."""
    parser = argparse.ArgumentParser(prog="bench.readme", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    run_dir: Path = parser.parse_args().run_dir
    readme = ROOT / "README.md"
    text = readme.read_text()
    assert BLOCK.search(text), "README.md has lost its marks"
    FIGURES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run_dir / "figures" / "ranking.svg", FIGURES / "demo-ranking.svg")
    readme.write_text(BLOCK.sub(lambda found: found[1] + block(run_dir) + found[2], text))


if __name__ == "__main__":
    main()
