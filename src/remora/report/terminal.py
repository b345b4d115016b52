"""The ranking as a table for the terminal."""

from rich.table import Table
from rich.text import Text

from remora.report.names import shown
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import count, duration, interval, metric_name, points, rate, signed, size


def render_rows(summary: StudySummary) -> Table:
    """The rows of a study as a rich table, best first.

    Args:
        summary: the study.

    Returns:
        A table for ``rich.console.Console.print``. Rows of the best set are bold, baselines dim; a star marks the
        recommendation. Labels are text, never markup.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", collapse_padding=True)
    compared = any(row.versus_reference for row in summary.rows)
    table.add_column("method", no_wrap=True, overflow="ellipsis", min_width=8)
    table.add_column(metric_name(summary.data.metric), justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    if compared:
        table.add_column(f"vs {shown(summary.protocol.reference or '', 16)}", justify="right", no_wrap=True)
    for head in ("params", "step", "memory", "lr"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for row in summary.rows:
        style = "bold" if row.in_best_set else "dim" if row.role == "baseline" else ""
        cells = _cells(row, summary, compared=compared)
        table.add_row(*(Text(cell, style=style) for cell in cells))
    return table


def _cells(row: Row, summary: StudySummary, *, compared: bool) -> list[str]:
    star = "* " if row.label == summary.recommendation.label and summary.recommendation.decidable else "  "
    versus = row.versus_reference
    lr = row.hyperparameters.get("lr")
    remarks = [f"{row.failed} failed"] if row.failed else []
    remarks += ["undertrained"] if row.undertrained else []
    return [
        star + shown(row.label, 32),
        points(row.mean, row.metric),
        interval(row.low, row.high, row.metric),
        *([signed(versus.difference) if versus and row.role != "baseline" else ""] if compared else []),
        count(row.trained_params) if row.trained_params else "–",
        duration(row.step_seconds),
        size(row.peak_bytes),
        rate(float(lr)) if isinstance(lr, int | float) else "–",
        ", ".join(remarks),
    ]
