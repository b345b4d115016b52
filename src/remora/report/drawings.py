"""All figures of a report, drawn once, by name."""

from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from remora.report.canvas import drawing, to_svg
from remora.report.curves import learning_curves
from remora.report.forest import ranking_forest, reference_forest
from remora.report.memory import memory_bars
from remora.report.pareto import COSTS, pareto
from remora.report.scatter import target_scatter
from remora.results.summary_schema import StudySummary

Drawings = Mapping[str, str]


def draw_all(summary: StudySummary) -> Drawings:
    """Name -> stand-alone SVG document, for every figure this study has data for."""
    plots: dict[str, Callable[[], Figure | None]] = {
        "ranking": lambda: ranking_forest(summary),
        "reference": lambda: reference_forest(summary),
        "memory": lambda: memory_bars(summary),
        "curves-score": lambda: learning_curves(summary, "score"),
        "curves-loss": lambda: learning_curves(summary, "loss"),
        "scatter": lambda: target_scatter(summary),
        **{f"tradeoff-{cost}": _pareto(summary, cost) for cost in COSTS},
    }
    found: dict[str, str] = {}
    with drawing():
        for name, plot in plots.items():
            figure = plot()
            if figure is not None:
                found[name] = to_svg(figure)
    return found


def _pareto(summary: StudySummary, cost: str) -> Callable[[], Figure | None]:
    return lambda: pareto(summary, cost)
