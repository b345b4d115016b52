"""Quality against a cost: one point per method, labelled directly, and the front that nothing beats on both."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from remora.report.canvas import PALETTE, new_figure, quiet_grid
from remora.report.forest import window
from remora.report.placement import Box, place_labels
from remora.results.names import shown
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import RAW_METRICS, count, duration, metric_name, points, size

HEIGHT = 3.3
LABEL_LIMIT = 22
COSTS = {
    "parameters": ("trained parameters, adapter and head", count),
    "time": ("seconds per training step, alone on the machine", duration),
    "memory": ("peak memory of a training step", size),
}


def cost_of(row: Row, cost: str) -> float | None:
    """The cost of a row on one axis; None where it has none or it was not measured."""
    if cost == "parameters":
        return float(row.trained_params) or None
    return row.step_seconds if cost == "time" else row.peak_bytes


def front(pairs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: none is as cheap and better, or as good and cheaper. By rising cost.

    Args:
        pairs: cost (less is better) and quality (more is better).
    """
    order = sorted(range(len(pairs)), key=lambda i: (pairs[i][0], -pairs[i][1]))
    found: list[int] = []
    for index in order:
        if not found or pairs[index][1] > pairs[found[-1]][1]:
            found.append(index)
    return found


def pareto(summary: StudySummary, cost: str) -> Figure | None:
    """Quality against `cost` ("parameters", "time" or "memory"); None with fewer than two points."""
    metric = summary.data.metric
    scale = 1.0 if metric in RAW_METRICS else 100.0
    found = [(row, cost_of(row, cost)) for row in summary.rows if row.mean is not None and row.method != "untrained"]
    shown_rows = [(row, value) for row, value in found if value]
    if len(shown_rows) < 2:
        return None
    title, say = COSTS[cost]
    figure = new_figure(HEIGHT)
    axes = figure.add_axes((0.105, 0.15, 0.875, 0.82))
    xs = [value for _, value in shown_rows]
    ys = [scale * (row.mean or 0.0) for row, _ in shown_rows]
    _axis(axes, xs, say)
    floor, ceiling = (scale * end for end in window([row for row, _ in shown_rows], metric))
    pad = 0.07 * (ceiling - floor)
    axes.set_ylim(floor - pad, ceiling + pad)
    drawn = [max(y, floor) for y in ys]
    axes.set_xlabel(title)
    axes.set_ylabel(metric_name(metric) + ("" if scale == 1 else ", points"))
    quiet_grid(axes, "y")
    axes.spines["bottom"].set_visible(True)
    best = -1.0 if metric == "mse" else 1.0
    edge = front([(x, best * y) for x, y in zip(xs, ys, strict=True)])
    axes.step(
        [xs[i] for i in edge], [ys[i] for i in edge], where="post", color=PALETTE["faint"], linewidth=1.2, zorder=1
    )
    for index, (row, _) in enumerate(shown_rows):
        colour = PALETTE["accent"] if row.in_best_set else PALETTE["muted"]
        face = colour if index in edge else PALETTE["paper"]
        marker = "o" if drawn[index] == ys[index] else "v"
        spot = axes.plot(xs[index], drawn[index], marker, color=colour, markerfacecolor=face, markersize=6)[0]
        spot.set_markeredgewidth(1.4)
        spot.set_zorder(4)
    labels = [_named(row, drawn[i] == ys[i]) for i, (row, _) in enumerate(shown_rows)]
    _label(figure, axes, labels, xs, drawn)
    return figure


def _axis(axes: Axes, xs: Sequence[float], say: Callable[[float | None], str]) -> None:
    ratio = max(xs) / min(xs)
    if ratio > 8:
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / 1.6, max(xs) * 1.8)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio < 100 else (1.0,), numticks=12))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.12 * max(xs))
        axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: say(value) if value > 0 else "0"))


def _named(row: Row, inside: bool) -> str:
    """A label; a row below the drawn range tells its value."""
    name = shown(row.label, LABEL_LIMIT)
    return name if inside else f"{name} {points(row.mean, row.metric)}"


def _label(figure: Figure, axes: Axes, labels: Sequence[str], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Write each label beside its point, with a thin line where it had to move away."""
    to_inches = figure.dpi_scale_trans.inverted()
    anchors: list[tuple[float, float]] = []
    for x, y in zip(xs, ys, strict=True):
        px, py = to_inches.transform(axes.transData.transform((x, y)))
        anchors.append((72 * float(px), 72 * float(py)))
    corners = to_inches.transform(axes.transAxes.transform(((0, 0), (1, 1)))) * 72
    (left, bottom), (right, top) = corners
    frame = Box(left=float(left), bottom=float(bottom) + 2, width=float(right - left), height=float(top - bottom))
    # 0.6 em per character is wider than any common sans-serif, so real text fits into the box.
    sizes = [(0.58 * 8.5 * len(label), 10.0) for label in labels]
    for label, anchor, box in zip(labels, anchors, place_labels(anchors, sizes, frame), strict=True):
        middle = (box.left + box.width / 2, box.bottom + box.height / 2)
        side = "left" if box.left > anchor[0] else "right" if box.left + box.width < anchor[0] else "center"
        start = {"left": box.left, "right": box.left + box.width, "center": middle[0]}[side]
        gap = max(abs(start - anchor[0]), abs(middle[1] - anchor[1]))
        line = {"arrowstyle": "-", "color": PALETTE["faint"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            label,
            xy=anchor,
            xytext=(start, middle[1]),
            xycoords="figure points",
            textcoords="figure points",
            ha=side,
            va="center",
            fontsize=8.5,
            zorder=3,
            # Hides the grid and the front behind the text.
            bbox={"facecolor": PALETTE["paper"], "edgecolor": "none", "pad": 0.6},
            arrowprops=line if gap > 14 else None,
        )
