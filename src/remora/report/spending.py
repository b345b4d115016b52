"""What the methods cost: parameters, time, memory, disk; and quality against each."""

from remora.report.blocks import Block, Picture, Section, Table, Text
from remora.report.drawings import Drawings
from remora.report.findings import name_row
from remora.results.summary_schema import StudySummary
from remora.results.wording import count, duration, number, size

TRADEOFFS = {
    "parameters": "Quality against trained parameters. The head is counted: all methods train it.",
    "time": "Quality against the time of one training step of a single trial that has the machine to itself.",
    "memory": "Quality against the peak memory of a training step, base model included.",
}


def costs(summary: StudySummary, drawn: Drawings) -> Section:
    """The cost table and where the memory goes."""
    rows = [
        name_row(
            row,
            [
                _params(row.adapter_params),
                _params(row.head_params),
                _params(row.base_params),
                duration(row.step_seconds),
                count(row.examples_per_second),
                number(row.steps) if row.steps else "–",
                duration(row.train_seconds),
                size(row.peak_bytes),
                size(row.adapter_bytes),
            ],
        )
        for row in summary.rows
        if row.method != "majority"
    ]
    heads = [
        "method",
        "adapter",
        "head",
        "base",
        "step",
        "examples/s",
        "steps",
        "training time",
        "peak memory",
        "on disk",
    ]
    lead = "Trained parameters are split into adapter, head and weights of the base trained in place. "
    lead += "A step is one training step of a single trial with the whole machine, measured after training; of two "
    lead += "turns the faster."
    foot = "Training time is derived: steps × step. Time spent in this study was shared by the trials that trained "
    foot += "together. Loading, evaluation and tuning are not in it."
    if summary.study_seconds is not None:
        foot += f" The whole study took {duration(summary.study_seconds)}."
    blocks: list[Block] = [Text(text=lead), Table(heads=heads, rows=rows), Text(text=foot, quiet=True)]
    if "memory" in drawn:
        caption = "Peak memory of one training step by part. What the measured parts leave is activations and the rest."
        caption += _saved(summary)
        blocks.append(Picture(name="memory", shows="peak memory by part", caption=caption))
    return Section(id="costs", title="What it costs", blocks=blocks)


def tradeoffs(summary: StudySummary, drawn: Drawings) -> Section | None:
    """Quality against each cost; None when there is nothing to plot."""
    pictures = [
        Picture(name=f"tradeoff-{cost}", shows=f"quality against {cost}", caption=caption)
        for cost, caption in TRADEOFFS.items()
        if f"tradeoff-{cost}" in drawn
    ]
    if not pictures:
        return None
    lead = "Up and to the left is better. Filled points on the line are not beaten on both axes by any other method; "
    lead += "blue ones may be the best. A triangle at the bottom lies below the drawn range."
    return Section(id="tradeoffs", title="Quality against cost", blocks=[Text(text=lead), *pictures])


def _saved(summary: StudySummary) -> str:
    """What holding the base in 4 bits saves, in a sentence; empty where no row does."""
    for row in summary.rows:
        if row.memory is not None and row.memory.dense_base is not None:
            held, dense = size(row.memory.base), size(row.memory.dense_base)
            return f" A base quantised to NF4 takes {held} where it would take {dense}."
    return ""


def _params(value: int) -> str:
    return count(value) if value else "–"
