"""The memory of training: where that of a step goes, one stacked bar per row, and how it goes on over time."""

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from remora.report.canvas import PALETTE, WIDTH, new_figure, quiet_grid
from remora.report.multiples import small_multiples
from remora.results.names import shown
from remora.results.schema import MemoryBreakdown
from remora.results.summary_schema import StudySummary
from remora.results.wording import size

ROW_INCHES = 0.29
LABEL_LIMIT = 22
CHARACTER_INCHES = 0.075
PARTS = (
    ("base", "base model", "blue"),
    ("adapter", "adapter and head", "green"),
    ("gradients", "gradients", "orange"),
    ("optimizer", "optimizer state", "pink"),
    ("activations_and_rest", "activations and the rest", "sky"),
)


def memory_bars(summary: StudySummary) -> Figure | None:
    """Peak memory of a training step by part, largest consumer last; None where it was not measured."""
    rows = [(row, row.memory) for row in summary.rows if row.memory is not None and row.peak_bytes]
    if not rows:
        return None
    labels = [shown(row.label, LABEL_LIMIT) for row, _ in rows]
    left = 0.15 + CHARACTER_INCHES * max(len(label) for label in labels)
    height = ROW_INCHES * len(rows) + 1.0
    figure = new_figure(height)
    axes = figure.add_axes(
        (left / WIDTH, 0.42 / height, (WIDTH - left - 0.75) / WIDTH, ROW_INCHES * len(rows) / height)
    )
    start = [0.0] * len(rows)
    for field, name, colour in PARTS:
        sizes = [float(_part(memory, field)) for _, memory in rows]
        axes.barh(range(len(rows)), sizes, left=start, height=0.62, color=PALETTE[colour], label=name)
        start = [at + more for at, more in zip(start, sizes, strict=True)]
    for y, (row, _) in enumerate(rows):
        axes.annotate(
            size(row.peak_bytes), (start[y], y), (5, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), labels)
    for text in axes.get_yticklabels():
        text.set_color(PALETTE["ink"])
    axes.set_xlim(0, 1.04 * max(start))
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value) if value > 0 else "0"))
    quiet_grid(axes, "x")
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        fontsize=8,
        handlelength=1,
        columnspacing=1.4,
        borderpad=0.2,
    )
    return figure


def memory_curves(summary: StudySummary) -> Figure | None:
    """The high-water mark of every step of a trial alone over the time since it began; None where none was measured."""
    rows = [row for row in summary.rows if row.memory_trace]
    if not rows:
        return None
    lines = {
        row.label: ([s.seconds for s in row.memory_trace], [float(s.bytes) for s in row.memory_trace]) for row in rows
    }
    figure, panels = small_multiples(lines, summary.recommendation.best_set, "seconds of training", left=0.62)
    for axes in panels.values():
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: size(value) if value > 0 else "0"))
        axes.set_ylim(bottom=0, top=1.08 * max(y for _, ys in lines.values() for y in ys))
    return figure


def _part(memory: MemoryBreakdown, field: str) -> int:
    parts: dict[str, int] = memory.model_dump()
    return max(parts[field], 0)
