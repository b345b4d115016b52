"""Learning curves: score and loss over epochs, a panel per row."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from remora.report.multiples import Line, colour_of, small_multiples
from remora.results.summary_schema import Curve, EpochMean, StudySummary
from remora.results.wording import RAW_METRICS


def learning_curves(summary: StudySummary, what: str) -> Figure | None:
    """A grid of learning curves over epochs; None when nothing was trained.

    Args:
        summary: the study.
        what: "score" for the headline metric on validation (with its range over seeds), "loss" for the training loss.
    """
    curves = [curve for curve in summary.curves if any(_value(point, what) is not None for point in curve.points)]
    if not curves:
        return None
    scale = 100.0 if what == "score" and summary.data.validation_metric not in RAW_METRICS else 1.0
    lines = {curve.label: _line(curve, what, scale) for curve in curves}
    best = set(summary.recommendation.best_set)
    figure, panels = small_multiples(lines, best, "epoch")
    for curve in curves:
        axes = panels[curve.label]
        if what == "score":
            _range(axes, curve, scale, colour_of(curve.label, best))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes = next(iter(panels.values()))
    if max(len(xs) for xs, _ in lines.values()) == 1:
        axes.set_xlim(0.5, 1.5)
    everything = [y for _, ys in lines.values() for y in ys]
    if what == "loss":
        axes.set_ylim(bottom=0, top=_ceiling(everything))
    return figure


def _value(point: EpochMean, what: str) -> float | None:
    return point.score if what == "score" else point.train_loss


def _line(curve: Curve, what: str, scale: float) -> Line:
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
