"""Learning curves as small multiples: one panel per row, that row in colour over all others in grey."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from remora.report.canvas import PALETTE, WIDTH, new_figure
from remora.results.names import shown
from remora.results.summary_schema import Curve, EpochMean, StudySummary
from remora.results.wording import RAW_METRICS

COLUMNS = 3
PANEL_INCHES = 1.12
TITLE_LIMIT = 18


def learning_curves(summary: StudySummary, what: str) -> Figure | None:
    """A grid of learning curves over epochs; None when nothing was trained.

    Args:
        summary: the study.
        what: "score" for the headline metric on validation (with its range over seeds), "loss" for the training loss.
    """
    curves = [curve for curve in summary.curves if any(_value(point, what) is not None for point in curve.points)]
    if not curves:
        return None
    scale = 100.0 if what == "score" and summary.data.metric not in RAW_METRICS else 1.0
    lines = {curve.label: _line(curve, what, scale) for curve in curves}
    num_rows = -(-len(curves) // COLUMNS)
    height = PANEL_INCHES * num_rows + 0.42
    figure = new_figure(height)
    grid = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=0.42 / WIDTH, right=1 - 0.08 / WIDTH, bottom=0.42 / height, top=1 - 0.24 / height, hspace=0.42, wspace=0.10
    )
    panels: list[Axes] = list(grid.flat)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    best = set(summary.recommendation.best_set)
    for place, (axes, curve) in enumerate(zip(panels, curves, strict=False)):
        for label, (xs, ys) in lines.items():
            if label != curve.label:
                axes.plot(xs, ys, color=PALETTE["grid"], linewidth=1, zorder=1)
        colour = PALETTE["accent"] if curve.label in best else PALETTE["ink"]
        xs, ys = lines[curve.label]
        if what == "score":
            _range(axes, curve, scale, colour)
        axes.plot(xs, ys, color=colour, marker="o" if len(xs) < 12 else "", markersize=3, zorder=3)
        axes.set_title(shown(curve.label, TITLE_LIMIT), loc="left", fontsize=8.5, fontweight="bold", pad=3)
        axes.locator_params(axis="y", nbins=4)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        if place + COLUMNS >= len(curves):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("epoch", fontsize=8)
    axes = panels[0]
    if max(len(xs) for xs, _ in lines.values()) == 1:
        axes.set_xlim(0.5, 1.5)
    everything = [y for _, ys in lines.values() for y in ys]
    if what == "loss":
        axes.set_ylim(bottom=0, top=_ceiling(everything))
    return figure


def _value(point: EpochMean, what: str) -> float | None:
    return point.score if what == "score" else point.train_loss


def _line(curve: Curve, what: str, scale: float) -> tuple[list[float], list[float]]:
    found = [(point.epoch, _value(point, what)) for point in curve.points]
    there = [(x, scale * y) for x, y in found if y is not None]
    return [x for x, _ in there], [y for _, y in there]


def _range(axes: Axes, curve: Curve, scale: float, colour: str) -> None:
    points = [p for p in curve.points if p.score_low is not None and p.score_high is not None]
    low = [scale * (p.score_low or 0.0) for p in points]
    high = [scale * (p.score_high or 0.0) for p in points]
    axes.fill_between([p.epoch for p in points], low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _ceiling(values: Sequence[float]) -> float:
    """The top of the loss axis: a single exploding point does not flatten everything else."""
    ordered = sorted(values)
    usual = ordered[int(0.95 * (len(ordered) - 1))]
    return 1.08 * min(ordered[-1], 2 * usual) or 1.0
