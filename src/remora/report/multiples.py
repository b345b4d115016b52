"""Small multiples: one panel per row of a study, that row in colour over all others in grey."""

from collections.abc import Collection, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from remora.report.canvas import PALETTE, WIDTH, new_figure
from remora.results.names import shown

COLUMNS = 3
PANEL_INCHES = 1.12
TITLE_LIMIT = 18

Line = tuple[list[float], list[float]]
"""Places on the horizontal and on the vertical axis."""


def small_multiples(
    lines: Mapping[str, Line], best: Collection[str], across: str, *, left: float = 0.42
) -> tuple[Figure, dict[str, Axes]]:
    """A grid of panels with common axes.

    Args:
        lines: by label, in the order of the panels; at least one.
        best: labels drawn in the colour of those that may be the best.
        across: what the horizontal axis is.
        left: room for the numbers of the vertical axis, in inches.

    Returns:
        The figure, and the panel of every label.
    """
    num_rows = -(-len(lines) // COLUMNS)
    height = PANEL_INCHES * num_rows + 0.42
    figure = new_figure(height)
    grid = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - 0.08 / WIDTH, bottom=0.42 / height, top=1 - 0.24 / height, hspace=0.42, wspace=0.10
    )
    every: list[Axes] = list(grid.flat)
    for axes in every[len(lines) :]:
        axes.set_visible(False)
    panels = dict(zip(lines, every, strict=False))
    for place, (label, axes) in enumerate(panels.items()):
        for other, (xs, ys) in lines.items():
            if other != label:
                axes.plot(xs, ys, color=PALETTE["grid"], linewidth=1, zorder=1)
        xs, ys = lines[label]
        axes.plot(xs, ys, color=colour_of(label, best), marker="o" if len(xs) < 12 else "", markersize=3, zorder=3)
        axes.set_title(shown(label, TITLE_LIMIT), loc="left", fontsize=8.5, fontweight="bold", pad=3)
        axes.locator_params(axis="y", nbins=4)
        axes.tick_params(labelsize=8)
        if place + COLUMNS >= len(lines):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(across, fontsize=8)
    return figure, panels


def colour_of(label: str, best: Collection[str]) -> str:
    """The colour of a row's own line."""
    return PALETTE["accent"] if label in best else PALETTE["ink"]
