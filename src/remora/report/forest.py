"""Forest plots: every row's mean, or difference to the reference, with its 95 % interval, best on top."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remora.report.canvas import PALETTE, WIDTH, new_figure, quiet_grid
from remora.results.names import shown
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import RAW_METRICS, metric_name, points, signed

ROW_INCHES = 0.29
LABEL_LIMIT = 22
CHARACTER_INCHES = 0.075
VALUES_INCHES = 1.72
# A row further below the best than this (fraction of the metric) is an arrow at the edge: it would squeeze the others.
WINDOW = 0.08
# The level of adjusted p-values below which a difference is called clear.
CLEAR = 0.05


def ranking_forest(summary: StudySummary) -> Figure | None:
    """Mean and interval of every row that has a mean, seeds as small ticks; None when no row has one."""
    rows = [row for row in summary.rows if row.mean is not None]
    if not rows:
        return None
    metric = summary.data.metric
    scale = _scale(metric)
    figure, axes = _frame(rows, "mean")
    reference = next((row.mean for row in rows if row.role == "reference"), None)
    if reference is not None:
        axes.axvline(scale * reference, color=PALETTE["faint"], linewidth=1, dashes=(4, 3))
    low, high = window(rows, metric)
    for y, row in enumerate(rows):
        colour = PALETTE["accent"] if row.in_best_set else PALETTE["muted"]
        value = row.mean or 0.0
        if not low <= value <= high:
            axes.plot(
                scale * (low if value < low else high), y, "<" if value < low else ">", color=colour, clip_on=False
            )
        else:
            _bar(axes, y, scale, row.low, row.high, colour)
            seeds = [scale * outcome.test[metric] for outcome in row.per_seed if metric in outcome.test]
            axes.plot(seeds, [y] * len(seeds), "|", color=colour, markersize=8, markeredgewidth=0.9, alpha=0.6)
            face = PALETTE["paper"] if row.role == "baseline" else colour
            axes.plot(scale * value, y, "o", color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.5)
        _values(axes, y, points(row.mean, metric), row.low, row.high, lambda x: points(x, metric))
    pad = 0.04 * (high - low)
    axes.set_xlim(scale * (low - pad), scale * (high + pad))
    axes.set_xlabel(metric_name(metric) + ("" if scale == 1 else ", points") + " on test")
    return figure


def reference_forest(summary: StudySummary) -> Figure | None:
    """Every row's difference to the reference with its simultaneous interval; None without a reference."""
    rows = [row for row in summary.rows if row.versus_reference is not None and row.role != "baseline"]
    if not rows:
        return None
    metric = summary.data.metric
    scale = _scale(metric)
    say = signed if scale > 1 else _raw
    figure, axes = _frame(rows, "diff.")
    axes.axvline(0, color=PALETTE["muted"], linewidth=1)
    for y, row in enumerate(rows):
        versus = row.versus_reference
        assert versus is not None
        clear = versus.p_adjusted < CLEAR
        colour = PALETTE["accent"] if clear else PALETTE["muted"]
        _bar(axes, y, scale, versus.low, versus.high, colour)
        face = colour if clear else PALETTE["paper"]
        axes.plot(
            scale * versus.difference, y, "o", color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.5
        )
        _values(axes, y, say(versus.difference), versus.low, versus.high, say)
    unit = f"points of {metric_name(metric)}" if scale > 1 else metric_name(metric)
    axes.set_xlabel(f"difference to {shown(summary.compared.reference or '', LABEL_LIMIT)}, {unit}")
    return figure


def _frame(rows: Sequence[Row], first: str) -> tuple[Figure, Axes]:
    """Axes with one line per row, first row on top, labels at the left and room for numbers at the right."""
    labels = [shown(row.label, LABEL_LIMIT) for row in rows]
    left = 0.15 + CHARACTER_INCHES * max(len(label) for label in labels)
    height = ROW_INCHES * len(rows) + 0.75
    figure = new_figure(height)
    box = (left / WIDTH, 0.45 / height, (WIDTH - left - VALUES_INCHES) / WIDTH, ROW_INCHES * len(rows) / height)
    axes = figure.add_axes(box)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), labels)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_color(PALETTE["muted"] if row.role == "baseline" else PALETTE["ink"])
        text.set_fontweight("bold" if row.in_best_set else "normal")
    axes.spines["left"].set_visible(False)
    quiet_grid(axes, "x")
    axes.spines["bottom"].set_visible(True)
    axes.locator_params(axis="x", nbins=5)
    heading: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "color": PALETTE["muted"],
        "fontsize": 8,
    }
    axes.annotate(first, xy=(1, 1), xytext=(40, 4), ha="right", va="bottom", **heading)
    axes.annotate("95 % interval", xy=(1, 1), xytext=(50, 4), va="bottom", **heading)
    return figure, axes


def _values(
    axes: Axes, y: int, value: str, low: float | None, high: float | None, say: Callable[[float | None], str]
) -> None:
    at: dict[str, Any] = {
        "xy": (1.0, y),
        "xycoords": axes.get_yaxis_transform(),
        "textcoords": "offset points",
        "va": "center",
    }
    axes.annotate(value, xytext=(40, 0), ha="right", fontweight="bold", **at)
    if low is not None and high is not None:
        axes.annotate(f"{say(low)} to {say(high)}", xytext=(50, 0), color=PALETTE["muted"], **at)


def _bar(axes: Axes, y: int, scale: float, low: float | None, high: float | None, colour: str) -> None:
    if low is not None and high is not None:
        axes.plot((scale * low, scale * high), (y, y), color=colour, linewidth=2.2, solid_capstyle="round")


def window(rows: Sequence[Row], metric: str) -> tuple[float, float]:
    """The range of the metric to draw: all rows near the best with their intervals and seeds."""
    best = rows[0].mean or 0.0
    halves = [(row.high - row.low) / 2 for row in rows if row.high is not None and row.low is not None]
    reach = max(WINDOW, 6 * median(halves)) if halves else 1.0
    near = [row for row in rows if row.mean is not None and (metric in RAW_METRICS or best - row.mean <= reach)]
    values = [x for row in near for x in (row.mean, row.low, row.high) if x is not None]
    values += [outcome.test[metric] for row in near for outcome in row.per_seed if metric in outcome.test]
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.01, high + 0.01)


def _scale(metric: str) -> float:
    return 1.0 if metric in RAW_METRICS else 100.0


def _raw(value: float | None) -> str:
    return points(value, "mse")
