"""What a command prints about a study: its plan before, its outcome after."""

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remora.results.schema import TaskKind
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import ASKED, duration, size

if TYPE_CHECKING:
    from remora.study.api import StudyPlan

ROW_KEYS = (
    "method",
    "label",
    "metric",
    "mean",
    "low",
    "high",
    "seeds",
    "failed",
    "adapter_params",
    "head_params",
    "step_seconds",
    "peak_bytes",
    "adapter_bytes",
    "hyperparameters",
    "adapter",
)


def plan_json(plan: "StudyPlan") -> dict[str, object]:
    """The plan as ``--json`` shows it."""
    return {
        "trials": plan.num_trials,
        "seconds": plan.seconds,
        "peak_bytes": plan.peak_bytes,
        "trials_per_pack": plan.trials_per_pack,
        "cuts": list(plan.cuts),
        "reductions": list(plan.reductions),
    }


def plan_text(plan: "StudyPlan") -> str:
    """The plan for people: one line of cost, one line for everything that the budget cut or the memory reduced."""
    cost = (
        f"{plan.num_trials} trials, estimated {duration(plan.seconds)}, estimated peak memory "
        f"{size(plan.peak_bytes)}, {plan.trials_per_pack} trials per pack"
    )
    lines = [f"to fit the budget: {cut}" for cut in plan.cuts]
    lines += [f"to fit the memory: {reduction}" for reduction in plan.reductions]
    return "\n".join([f"plan: {cost}", *lines])


def outcome_json(summary: StudySummary, run_dir: Path) -> dict[str, object]:
    """The outcome as ``--json`` of compare, train, run, resume and report shows it.

    Args:
        summary: the summary of the run directory.
        run_dir: where it is.

    Returns:
        ``study, run_dir, report, recommendation, rows``, each row with `ROW_KEYS`.
    """
    report = run_dir / "report.html"
    return {
        "study": summary.name,
        "run_dir": str(run_dir),
        "report": str(report) if report.is_file() else None,
        "recommendation": summary.recommendation.model_dump(mode="json"),
        "rows": [row_json(row) for row in summary.rows],
    }


def row_json(row: Row) -> dict[str, object]:
    """One row with the documented keys and no others."""
    return row.model_dump(mode="json", include=set(ROW_KEYS))


def print_outcome(summary: StudySummary, run_dir: Path, next_command: str) -> None:
    """Print the table, the recommendation, where the report lies and what to type next.

    Args:
        summary: the summary of the run directory.
        run_dir: where it is.
        next_command: a command line to suggest.
    """
    from rich.console import Console

    from remora.report.terminal import render_rows

    terminal = Console()
    # A pipe or a file has no width of its own; there the table takes the room it needs.
    Console(width=terminal.width if terminal.is_terminal else 140).print(render_rows(summary))
    click.echo()
    click.echo(textwrap.fill(summary.recommendation.text, 100, break_on_hyphens=False))
    for step in summary.recommendation.next_steps:
        click.echo(f"  - {step}")
    for warning in summary.warnings:
        about = f"{warning.label}: " if warning.label else ""
        click.echo(f"warning: {about}{warning.message}", err=True)
    click.echo()
    click.echo(f"report: {run_dir / 'report.html'}")
    click.echo(f"next:   {next_command}")


def predict_command(run_dir: Path, task: TaskKind) -> str:
    """The command line that labels a text with what a run recommends."""
    return f"remora predict {shlex.quote(str(run_dir))} {ASKED[task]}"
