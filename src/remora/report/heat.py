"""Heat maps of a grid of settings: a measure of rows over two settings, a panel per value of a third."""

from collections.abc import Iterable, Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from remora.report.canvas import PALETTE, WIDTH, new_figure
from remora.report.measures import measure_name, measure_text
from remora.results.recipe_schema import PictureSpec, measured
from remora.results.schema import Setting
from remora.results.summary_schema import Row, StudySummary

CELL_INCHES = 0.3


def heat_map(summary: StudySummary, spec: PictureSpec) -> Figure | None:
    """A row of panels per measure; None when no row has the settings.

    Args:
        summary: the study.
        spec: names the settings of the axes and panels, and the measures.
    """
    rows = [row for row in summary.rows if spec.x in row.hyperparameters and spec.y in row.hyperparameters]
    if not rows:
        return None
    xs, ys = _values(rows, spec.x), _values(rows, spec.y)
    panels = _values(rows, spec.panel) if spec.panel else [None]
    block = CELL_INCHES * len(ys) + 0.75
    total = block * len(spec.measures)
    figure = new_figure(total)
    colours = LinearSegmentedColormap.from_list("heat", [PALETTE["paper"], PALETTE["sky"]])
    left, width = 0.75, (WIDTH - 0.85) / len(panels)
    for line, measure in enumerate(spec.measures):
        found = {
            (_at(row, spec), panel): measured(summary, row, measure) for row in rows for panel in [_panel(row, spec)]
        }
        there = [value for value in found.values() if value is not None]
        if not there:
            continue
        for place, panel in enumerate(panels):
            bottom = total - (line + 1) * block + 0.4
            axes = figure.add_axes(
                ((left + place * width) / WIDTH, bottom / total, (width - 0.1) / WIDTH, CELL_INCHES * len(ys) / total)
            )
            grid = [[found.get(((setting_text(x), setting_text(y)), setting_text(panel))) for x in xs] for y in ys]
            shades = [[float("nan") if value is None else value for value in line_] for line_ in grid]
            axes.imshow(shades, cmap=colours, aspect="auto", vmin=min(there), vmax=max(there))
            for y, cells in enumerate(grid):
                for x, value in enumerate(cells):
                    axes.text(x, y, measure_text(measure, value), ha="center", va="center", fontsize=7.5)
            axes.set_xticks(range(len(xs)), [setting_text(x) for x in xs], fontsize=8)
            axes.set_yticks(range(len(ys)), [setting_text(y) for y in ys] if place == 0 else [""] * len(ys), fontsize=8)
            axes.set_xlabel(spec.x, fontsize=8)
            if place == 0:
                axes.set_ylabel(spec.y, fontsize=8)
            title = f"{spec.panel} {setting_text(panel)}" if spec.panel else ""
            axes.set_title(
                ", ".join(part for part in (measure_name(measure) if place == 0 else "", title) if part),
                loc="left",
                fontsize=8,
                pad=3,
            )
    return figure


def _values(rows: Sequence[Row], setting: str) -> list[Setting]:
    """The values a setting has, numbers in their order."""
    return in_order(row.hyperparameters.get(setting) for row in rows)


def in_order(settings: Iterable[Setting]) -> list[Setting]:
    """Each value once, numbers in their order."""
    return sorted(
        {setting_text(value): value for value in settings}.values(),
        key=lambda value: (
            not isinstance(value, int | float),
            value if isinstance(value, int | float) else 0.0,
            str(value),
        ),
    )


def _at(row: Row, spec: PictureSpec) -> tuple[str, str]:
    return setting_text(row.hyperparameters[spec.x]), setting_text(row.hyperparameters[spec.y])


def _panel(row: Row, spec: PictureSpec) -> str:
    return setting_text(row.hyperparameters.get(spec.panel) if spec.panel else None)


def setting_text(value: Setting) -> str:
    """A setting's value, short."""
    return f"{value:g}" if isinstance(value, float) else str(value)
