"""The first sections of the report: the verdict, what to read first, the ranking, the comparison with the reference."""

from collections.abc import Sequence

from remora.report.blocks import (
    Answer,
    Block,
    Bullets,
    Fact,
    Facts,
    Heading,
    Mark,
    Picture,
    Section,
    Table,
    TableRow,
    Text,
)
from remora.report.forest import CLEAR
from remora.results.names import shown
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import (
    NONE,
    RAW_METRICS,
    capital,
    count,
    duration,
    interval,
    listing,
    metric_name,
    p_value,
    plural,
    points,
    rate,
    signed,
    size,
)

NAME = 40
MAX_METRICS = 2


def name_row(row: Row, cells: Sequence[str], marks: Sequence[Mark] = ()) -> TableRow:
    """A table row about a row of the comparison: members of the best set bold, baselines grey."""
    head = shown(row.label, NAME)
    style = "best" if row.in_best_set else "aside" if row.role == "baseline" else ""
    return TableRow(
        head=head, title="" if head == row.label else shown(row.label, 400), cells=cells, marks=marks, style=style
    )


def learning_rate(row: Row) -> str:
    """The learning rate of a row's final trials."""
    value = row.hyperparameters.get("lr")
    return rate(float(value)) if isinstance(value, int | float) else NONE


def verdict(summary: StudySummary) -> Section:
    """What to take, why, and its numbers."""
    advice = summary.recommendation
    blocks = [
        Text(text=advice.text),
        *([Bullets(items=[("", step) for step in advice.next_steps])] if advice.next_steps else []),
    ]
    label = advice.label or advice.best
    if label is None:
        return Section(id="verdict", title="Verdict", blocks=[Answer(text="Nothing to compare"), *blocks], style="open")
    row = summary.row(label)
    facts = Facts(items=_facts(row, summary))
    if summary.kind == "train" or sum(row.role != "baseline" for row in summary.rows) == 1:
        answer, title, style = f"{shown(label)}: {points(row.mean, row.metric)}", "Result", ""
    elif advice.label and advice.decidable:
        answer, title, style = f"Take {shown(label)}", "Recommendation", ""
    else:
        answer, title, style = "Not decidable yet", "Recommendation", "open"
    return Section(id="verdict", title=title, blocks=[Answer(text=answer), *blocks, facts], style=style)


def _facts(row: Row, summary: StudySummary) -> list[Fact]:
    who = shown(row.label, 24)
    unit = "" if row.metric in RAW_METRICS else " points"
    facts = [
        Fact(
            name=f"{metric_name(row.metric)} of {who}",
            value=points(row.mean, row.metric) + unit,
            note=f"95 % interval {interval(row.low, row.high, row.metric)}" if row.low is not None else "",
        )
    ]
    if row.trained_params:
        parts = [(row.adapter_params, "adapter"), (row.head_params, "head"), (row.base_params, "base")]
        note = " + ".join(f"{count(number)} {part}" for number, part in parts if number)
        facts.append(Fact(name="trained parameters", value=count(row.trained_params), note=note))
    if row.train_seconds is not None and row.step_seconds is not None:
        note = f"{row.steps} steps × {duration(row.step_seconds)}, derived"
        facts.append(Fact(name="training time, alone", value=duration(row.train_seconds), note=note))
    if row.peak_bytes is not None:
        note = f"adapter on disk: {size(row.adapter_bytes)}" if row.adapter_bytes else ""
        facts.append(Fact(name="peak memory", value=size(row.peak_bytes), note=note))
    if row.hyperparameters.get("lr") is not None:
        how = "tuned on validation" if any(tuning.label == row.label for tuning in summary.tuning) else "given"
        facts.append(Fact(name="learning rate", value=learning_rate(row), note=how))
    return facts


def read_first(summary: StudySummary) -> Section | None:
    """All warnings; None when there are none."""
    if not summary.warnings:
        return None
    about: dict[tuple[str, str], list[str]] = {}
    for warning in summary.warnings:
        labels = about.setdefault((warning.kind, warning.message), [])
        labels += [shown(warning.label, NAME)] if warning.label else []
    items = [
        (f"{listing(labels)}:" if labels else "", _sentence(shown(message, 400)))
        for (_, message), labels in about.items()
    ]
    return Section(id="warnings", title="Read this first", blocks=[Bullets(items=items)])


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "…", "?", "!")) else f"{text}."


def ranking(summary: StudySummary) -> Section:
    """All rows, best first."""
    metrics = summary.data.metrics[:MAX_METRICS]
    heads = ["method", *(metric_name(metric) for metric in metrics), "95 % interval", "single seeds", "lr"]
    rows = [
        name_row(
            row,
            [
                *(points(row.metrics.get(metric), metric) for metric in metrics),
                interval(row.low, row.high, row.metric),
                "  ".join(points(seed.test.get(row.metric), row.metric) for seed in row.per_seed) or NONE,
                learning_rate(row),
            ],
            _marks(row, summary),
        )
        for row in summary.rows
    ]
    tied = len(summary.recommendation.best_set)
    lead = f"{capital(metric_name(summary.data.metric))} on {plural(summary.data.splits['test'].rows, 'test row')}"
    lead += f", means over {plural(len(summary.protocol.seeds), 'seed')}."
    if tied > 1:
        lead += f" The {tied} rows in bold cannot be told apart: they are the 95 % confidence set of the best."
    elif tied == 1:
        lead += " The row in bold is the best, with 95 % confidence."
    caption = "Dot: mean over seeds. Bar: 95 % interval for new seeds and new test rows. Ticks: single seeds. "
    caption += "Blue: may be the best. Hollow: baselines. An arrow points to a row outside the drawn range."
    reference = next((row.label for row in summary.rows if row.role == "reference"), None)
    if reference:
        caption += f" Dashed line: {shown(reference, NAME)}."
    foot = "Intervals hold for the hyperparameters chosen in tuning; tuning again could choose others. "
    if any(metric not in RAW_METRICS for metric in metrics):
        foot += "Scores are points: hundredths of the metric. "
    foot += "To compare two rows, do not compare intervals: look for bold rows, or at the differences below."
    notes = [f"{shown(row.label, NAME)}: {shown(row.note, 200)}" for row in summary.rows if row.note]
    foot += f" Notes: {'; '.join(notes)}." if notes else ""
    blocks: list[Block] = [
        Text(text=lead),
        Picture(name="ranking", shows="mean and 95 % interval of every row", caption=caption),
        Table(heads=heads, rows=rows),
        Text(text=foot, quiet=True),
    ]
    if len(summary.data.metrics) > MAX_METRICS:
        every = summary.data.metrics
        rows = [name_row(row, [points(row.metrics.get(metric), metric) for metric in every]) for row in summary.rows]
        blocks += [Heading(text="All metrics"), Table(heads=["method", *map(metric_name, every)], rows=rows)]
    return Section(id="ranking", title="Ranking", blocks=blocks)


def _marks(row: Row, summary: StudySummary) -> list[Mark]:
    marks: list[Mark] = []
    if row.label == summary.recommendation.label and summary.recommendation.decidable:
        marks.append(Mark(text="recommended"))
    if row.role == "reference":
        marks.append(Mark(text="reference"))
    if row.failed:
        marks.append(Mark(text=f"{row.failed} of {row.seeds + row.failed} failed", warn=True))
    if row.undertrained:
        marks.append(Mark(text="undertrained", warn=True))
    return marks


def against_reference(summary: StudySummary) -> Section | None:
    """Differences to the reference, Holm-corrected; None without a reference."""
    rows = [row for row in summary.rows if row.versus_reference is not None and row.role != "baseline"]
    if not rows or not summary.compared.reference:
        return None
    name = shown(summary.compared.reference, NAME)
    holm = summary.compared.adjustment == "holm"
    say = _raw if summary.data.metric in RAW_METRICS else signed
    table: list[TableRow] = []
    for row in rows:
        versus = row.versus_reference
        assert versus is not None
        clear = versus.p_adjusted < CLEAR
        verdict = (
            "no clear difference" if not clear else "better" if _better(versus.difference, row.metric) else "worse"
        )
        span = f"{say(versus.low)} to {say(versus.high)}"
        table.append(name_row(row, [say(versus.difference), span, p_value(versus.p_adjusted), verdict]))
    lead = f"Difference of every method to {name} on the same test rows and seeds. The 95 % intervals hold for all "
    lead += "comparisons at once; p-values are "
    lead += "Holm-corrected. " if holm else f"adjusted (max-t over all pairs), since {name} was picked for its mean. "
    lead += "No clear difference does not mean equal"
    if summary.compared.detectable is not None and summary.data.metric not in RAW_METRICS:
        lead += (
            f": a true difference of {points(summary.compared.detectable)} points would be found with 80 % probability"
        )
    lead += "."
    caption = "Filled blue: a clear difference (adjusted p below 0.05). Hollow grey: no clear difference."
    return Section(
        id="reference",
        title=f"Against {name}",
        blocks=[
            Text(text=lead),
            Picture(name="reference", shows=f"difference of every method to {name}", caption=caption),
            Table(
                heads=["method", "difference", "95 % interval", "p (Holm)" if holm else "p (max-t)", "finding"],
                rows=table,
            ),
        ],
    )


def _better(difference: float, metric: str) -> bool:
    return (difference < 0) if metric in RAW_METRICS else (difference > 0)


def _raw(value: float | None) -> str:
    return points(value, "mse")
