"""The ranking as a table for the terminal."""

from rich.table import Table
from rich.text import Text

from remora.results.names import shown
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import count, duration, interval, listing, metric_name, points, rate, signed, size, stops

CAPTION = "bold: may be the best (95 %)   *: recommended   !: see the warnings"
METRIC_HEADS = {"matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman", "mse": "MSE"}


def render_rows(summary: StudySummary) -> Table:
    """The rows of a study as a rich table, best first.

    Args:
        summary: the study.

    Returns:
        A table for ``rich.console.Console.print``. Rows of the best set are bold, baselines dim; a star marks the
        recommendation, an exclamation mark a row with warnings. Labels are text, never markup.
    """
    table = Table(box=None, pad_edge=False, header_style="dim", collapse_padding=True)
    compared = any(row.versus_reference for row in summary.rows)
    lines = [_cells(row, summary, compared=compared) for row in summary.rows]
    heads = [METRIC_HEADS.get(summary.data.metric, metric_name(summary.data.metric)), "95 % interval"]
    heads += [f"vs {shown(summary.compared.reference or '', 12)}"] if compared else []
    heads += ["params", "step", "memory", "lr"]
    table.add_column("  method", no_wrap=True, overflow="ellipsis", min_width=10)
    for place, head in enumerate(heads, 1):
        # Numbers are never shortened: a narrow terminal takes the room from names.
        width = max(len(head), *(len(line[place]) for line in lines))
        table.add_column(head, justify="right", no_wrap=True, min_width=width)
    table.caption = "\n".join([CAPTION, *_stopped(summary)])
    table.caption_justify = "left"
    for row, line in zip(summary.rows, lines, strict=True):
        style = "bold" if row.in_best_set else "dim" if row.role == "baseline" else ""
        table.add_row(*(Text(cell, style=style) for cell in line))
    return table


def _stopped(summary: StudySummary) -> list[str]:
    """What halving stopped: one line for rows to which the same happened, a line of its own for every other."""
    lines: dict[str, list[str]] = {}
    for row in summary.tuning:
        shares = [trial.stopped_at for trial in row.trials if trial.stopped_at is not None]
        if shares:
            lines.setdefault(stops(shares), []).append(shown(row.label, 32))
    return [
        f"tuning trials stopped: {what} of the steps "
        + ("in every row" if len(labels) == len(summary.tuning) else f"({listing(labels)})")
        for what, labels in lines.items()
    ]


def _cells(row: Row, summary: StudySummary, *, compared: bool) -> list[str]:
    star = "* " if row.label == summary.recommendation.label and summary.recommendation.decidable else "  "
    versus = row.versus_reference
    lr = row.hyperparameters.get("lr")
    warned = any(warning.label == row.label for warning in summary.warnings)
    return [
        f"{star}{shown(row.label, 32)}{' !' if warned else ''}",
        points(row.mean, row.metric),
        interval(row.low, row.high, row.metric),
        *([signed(versus.difference) if versus and row.role != "baseline" else ""] if compared else []),
        count(row.trained_params) if row.trained_params else "–",
        duration(row.step_seconds),
        size(row.peak_bytes),
        rate(float(lr)) if isinstance(lr, int | float) else "–",
    ]
