"""How training went: learning curves, tuning, and a closer look at one method's errors."""

from remora.report.blocks import (
    Block,
    Bullets,
    Cell,
    Chip,
    ChipRow,
    ChipTable,
    Heading,
    Mark,
    Matrix,
    MatrixRow,
    Picture,
    Section,
    Table,
    TableRow,
    Text,
)
from remora.report.drawings import Drawings
from remora.results.names import shown
from remora.results.summary_schema import Detail, StudySummary, Tuning, TuningTrial
from remora.results.wording import (
    NONE,
    RAW_METRICS,
    capital,
    listing,
    metric_name,
    number,
    percent,
    plural,
    points,
    rate,
    stops,
)

NAME = 40
CLASS = 28
MAX_MATRIX = 24
MAX_PAIRS = 15
TEXT = 700


def curves(summary: StudySummary, drawn: Drawings) -> Section | None:
    """Validation score and training loss per epoch; None when nothing was trained."""
    blocks: list[Block] = []
    if "curves-score" in drawn:
        name = metric_name(summary.data.validation_metric)
        caption = f"{capital(name)} on validation after every epoch: mean over seeds, band from the lowest to the "
        caption += "highest seed. Grey: the other methods. Test is never looked at during training."
        shows = f"{name} on validation per epoch"
        blocks += [Heading(text="Validation score"), Picture(name="curves-score", shows=shows, caption=caption)]
    if "curves-loss" in drawn:
        caption = "Mean training loss of every epoch, mean over seeds. A curve that still falls steeply at the end "
        caption += "belongs to a method that was given too few epochs."
        shows = "training loss per epoch"
        blocks += [Heading(text="Training loss"), Picture(name="curves-loss", shows=shows, caption=caption)]
    return Section(id="curves", title="Learning curves", blocks=blocks) if blocks else None


def tuning(summary: StudySummary) -> Section | None:
    """Every tuning trial; None when nothing was tuned."""
    if not summary.tuning:
        return None
    rows = [
        ChipRow(
            head=shown(row.label, NAME),
            title=shown(row.label, 400),
            chips=[_chip(trial, summary.data.validation_metric) for trial in row.trials],
            marks=_marks(row),
        )
        for row in summary.tuning
    ]
    most = max(len(row.trials) for row in summary.tuning)
    name = metric_name(summary.data.validation_metric)
    lead = f"Every method had the same budget: {plural(most, 'tuning trial')}, each with a learning rate from the "
    lead += f"method's own range. The highest {name} on validation was chosen (ties by validation loss). "
    lead += "The final trials use it with other seeds."
    lead += f" {text}" if (text := halved(summary)) else ""
    heads = ("method", "learning rate and validation score of every trial, the chosen one framed")
    return Section(id="tuning", title="Tuning", blocks=[Text(text=lead), ChipTable(heads=heads, rows=rows)])


def variants(summary: StudySummary) -> Section | None:
    """The scores of other forms of trained adapters, such as smaller ranks; None when no method has any."""
    if not summary.variants:
        return None
    metric = summary.data.validation_metric
    lead = f"One training gave all of these: the same adapters, cut to a smaller form. {capital(metric_name(metric))}"
    lead += f"{'' if metric in RAW_METRICS else ' in points'}, mean over seeds; choose by validation."
    blocks: list[Block] = [Text(text=lead)]
    for row in summary.variants:
        rows = [
            TableRow(
                head=shown(form.name, NAME),
                cells=[
                    points(form.validation, metric),
                    points(form.test, metric),
                    f"{points(form.test_low, metric)} to {points(form.test_high, metric)}",
                ],
            )
            for form in row.forms
        ]
        heads = [shown(row.label, NAME), "validation", "test", "test, range over seeds"]
        blocks.append(Table(heads=heads, rows=rows))
    return Section(id="variants", title="Smaller forms of the same adapters", blocks=blocks)


def halved(summary: StudySummary) -> str:
    """What successive halving did to the tuning, as sentences; nothing where it stopped no trial."""
    saved, taken = sum(row.steps_saved for row in summary.tuning), sum(row.steps for row in summary.tuning)
    if not saved:
        return ""
    shares = sorted({trial.stopped_at for row in summary.tuning for trial in row.trials if trial.stopped_at})
    return (
        f"Successive halving compared the trials of a method on validation at {listing([percent(s) for s in shares])} "
        "of their steps and stopped the worse half, for all methods alike; a trial that was stopped could not be "
        f"chosen. It saved {number(saved)} of {number(saved + taken)} tuning steps, {percent(saved / (saved + taken))}."
    )


def _marks(row: Tuning) -> list[Mark]:
    stopped = [trial.stopped_at for trial in row.trials if trial.stopped_at is not None]
    marks = [Mark(text=f"stopped: {stops(stopped)} of the steps")] if stopped else []
    return [*marks, Mark(text=f"{row.edge} rate", warn=True)] if row.edge else marks


def _chip(trial: TuningTrial, metric: str) -> Chip:
    if trial.stopped_at is not None:
        note = f"stopped at {percent(trial.stopped_at)}"
        return Chip(name=rate(trial.lr), value=points(trial.score, metric), note=note, style="stopped")
    if trial.status != "done":
        return Chip(name=rate(trial.lr), value=trial.status, style="lost")
    note = "chosen" if trial.chosen else ""
    return Chip(
        name=rate(trial.lr), value=points(trial.score, metric), note=note, style="chosen" if trial.chosen else ""
    )


def detail(summary: StudySummary, drawn: Drawings) -> Section | None:
    """Per class and confusion matrix, or target against prediction, of one method; None when there is none."""
    look = summary.detail
    if look is None:
        return None
    name = shown(look.label, NAME)
    if look.written:
        return Section(id="detail", title=f"What {name} writes", blocks=_written(summary, look))
    lead = f"{name}, {look.why}, on test; means over seeds."
    blocks: list[Block] = [Text(text=lead)]
    if "scatter" in drawn:
        caption = "One dot per test row; on the dashed line prediction and target agree."
        blocks.append(Picture(name="scatter", shows="prediction against target", caption=caption))
    if look.classes:
        rows = [
            TableRow(
                head=shown(item.label, NAME),
                title=shown(item.label, 400),
                cells=[points(item.precision), points(item.recall), points(item.f1), number(item.support)],
            )
            for item in look.classes
        ]
        heads = ["class", "test rows"] if look.outside is None else ["entity", "test entities"]
        if not look.confusion:
            heads = ["metric", "to be found"]
        blocks.append(Table(heads=[heads[0], "precision", "recall", "F1", heads[1]], rows=rows))
        if look.confusion:
            blocks += _matrix(look) if len(look.classes) <= MAX_MATRIX else _pairs(look)
    return Section(id="detail", title=f"A closer look at {name}", blocks=blocks)


def _written(summary: StudySummary, look: Detail) -> list[Block]:
    """Some documents with their references and what is written about them."""
    name = shown(look.label, NAME)
    before = next((row.label for row in summary.rows if row.method == "untrained"), "untrained")
    lead = (
        f"The first test documents, how they begin, and what {name}, {look.why}, writes about them with its first seed."
    )
    blocks: list[Block] = [Text(text=lead)]
    for place, example in enumerate(look.written, 1):
        texts = [("Document:", example.document), *(("Reference:", text) for text in example.references)]
        texts += [] if example.untrained is None else [(f"{shown(before, NAME)}:", example.untrained or NONE)]
        texts.append((f"{name}:", example.summary or NONE))
        blocks += [Heading(text=f"Test document {place}"), Bullets(items=[(who, shown(t, TEXT)) for who, t in texts])]
    return blocks


def _matrix(look: Detail) -> list[Block]:
    names = _names(look)
    heads = [shown(name, CLASS) for name in names]
    rows: list[MatrixRow] = []
    for name, counts in zip(names, look.confusion, strict=True):
        total = sum(counts) or 1.0
        # The root lifts small shares: a confusion of 2 % should be seen.
        cells = [Cell(text=_rounded(value), share=(value / total) ** 0.5) for value in counts]
        rows.append(MatrixRow(head=shown(name, CLASS), title=shown(name, 400), cells=cells))
    what = "test rows" if look.outside is None else "words of the test split"
    lead = f"Rows: the true class. Columns: the predicted class. Numbers: {what}, mean over seeds. "
    lead += "Shade: share of the row's class."
    return [
        Heading(text="Confusion matrix"),
        Text(text=lead, quiet=True),
        Matrix(corner="true", heads=heads, rows=rows),
    ]


def _names(look: Detail) -> list[str]:
    """Of the rows and columns of the confusion matrix."""
    return [*(item.label for item in look.classes), *([] if look.outside is None else [look.outside])]


def _pairs(look: Detail) -> list[Block]:
    """The most frequent confusions, for more classes than a matrix can show."""
    names = _names(look)
    found = [
        (value, names[i], names[j])
        for i, counts in enumerate(look.confusion)
        for j, value in enumerate(counts)
        if i != j and value
    ]
    found.sort(key=lambda item: (-item[0], item[1], item[2]))
    rows = [
        TableRow(head=shown(true, NAME), cells=[shown(guess, NAME), _rounded(n)])
        for n, true, guess in found[:MAX_PAIRS]
    ]
    return [
        Heading(text="Most frequent confusions"),
        Table(heads=["true class", "predicted as", "test rows" if look.outside is None else "words"], rows=rows),
    ]


def _rounded(value: float) -> str:
    return number(value) if value == int(value) else f"{value:.1f}"
