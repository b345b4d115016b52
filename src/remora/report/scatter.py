"""Regression: the mean prediction over seeds against the target, one dot per test row."""

from matplotlib.figure import Figure

from remora.report.canvas import PALETTE, new_figure
from remora.results.summary_schema import StudySummary


def target_scatter(summary: StudySummary) -> Figure | None:
    """Prediction against target of the row looked at closely; None for classification."""
    detail = summary.detail
    if detail is None or not detail.scatter:
        return None
    targets = [target for target, _ in detail.scatter]
    guesses = [guess for _, guess in detail.scatter]
    figure = new_figure(4.2)
    axes = figure.add_axes((0.1, 0.12, 0.87, 0.85))
    ends = (min(targets), max(targets))
    axes.plot(ends, ends, color=PALETTE["faint"], linewidth=1, dashes=(4, 3))
    axes.plot(targets, guesses, "o", color=PALETTE["accent"], markersize=3.2, markeredgewidth=0, alpha=0.45)
    axes.set_xlabel("target")
    axes.set_ylabel("prediction, mean over seeds")
    axes.grid(visible=True)
    return figure
