"""Bars of several studies: a row of panels per study, a panel per measure, a bar per method."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from remora.report.canvas import PALETTE, WIDTH, new_figure, quiet_grid
from remora.report.measures import measure_name, measure_text
from remora.results.names import shown
from remora.results.recipe_schema import measured
from remora.results.summary_schema import Row, StudySummary

ROW_INCHES = 0.27
LABEL_LIMIT = 20
CHARACTER_INCHES = 0.075
HEAD_INCHES = 0.42


def measure_bars(summaries: Mapping[str, StudySummary], measures: Sequence[str]) -> Figure | None:
    """A figure of panels; None when no row has any of the measures.

    Args:
        summaries: the studies by name, in order.
        measures: what to show of every row, see `results.recipe_schema.measured`.
    """
    shown_rows = {name: _rows(summary, measures) for name, summary in summaries.items()}
    shown_rows = {name: rows for name, rows in shown_rows.items() if rows}
    if not shown_rows:
        return None
    longest = max(len(shown(row.label, LABEL_LIMIT)) for rows in shown_rows.values() for row in rows)
    left = 0.15 + CHARACTER_INCHES * longest
    heights = [ROW_INCHES * len(rows) + HEAD_INCHES for rows in shown_rows.values()]
    total = sum(heights) + 0.1
    figure = new_figure(total)
    width = (WIDTH - left - 0.1) / len(measures)
    top = total
    for (name, rows), height in zip(shown_rows.items(), heights, strict=True):
        for place, measure in enumerate(measures):
            box = (left + place * width, top - height, width - 0.12, ROW_INCHES * len(rows))
            axes = figure.add_axes((box[0] / WIDTH, box[1] / total, box[2] / WIDTH, box[3] / total))
            _panel(axes, summaries[name], rows, measure)
            axes.set_title(measure_name(measure), loc="left", fontsize=7.5, color=PALETTE["muted"], pad=2)
            if place == 0:
                axes.set_yticks(range(len(rows)), [shown(row.label, LABEL_LIMIT) for row in rows])
                for text in axes.get_yticklabels():
                    text.set_color(PALETTE["ink"])
                if len(shown_rows) > 1:
                    figure.text(0.01, (top - height + box[3] + 0.06) / total, shown(name, 24), fontweight="bold")
            else:
                axes.set_yticks([])
        top -= height
    return figure


def _rows(summary: StudySummary, measures: Sequence[str]) -> list[Row]:
    return [row for row in summary.rows if any(measured(summary, row, measure) is not None for measure in measures)]


def _panel(axes: Axes, summary: StudySummary, rows: Sequence[Row], measure: str) -> None:
    values = [measured(summary, row, measure) for row in rows]
    there = [(y, value) for y, value in enumerate(values) if value is not None]
    colours = [PALETTE["faint"] if rows[y].role == "baseline" else PALETTE["sky"] for y, _ in there]
    axes.barh([y for y, _ in there], [value for _, value in there], height=0.66, color=colours)
    headline = measure == summary.data.metric
    for y, value in there:
        low, high = rows[y].low, rows[y].high
        if headline and low is not None and high is not None:
            axes.plot([low, high], [y, y], color=PALETTE["ink"], linewidth=1)
        axes.annotate(
            measure_text(measure, value), (0, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5
        )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(min([0.0, *(value for _, value in there)]), 1.05 * max([*(value for _, value in there), 1e-12]))
    axes.locator_params(axis="x", nbins=2)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: measure_text(measure, value) if value else "0"))
    quiet_grid(axes, "x")
