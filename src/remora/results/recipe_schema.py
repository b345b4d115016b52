"""`recipe.json`: what a folder of several studies is about; each study is a run directory inside it.

Values of published numbers are as measured ones are held: fractions, seconds, bytes, numbers of parameters.
"""

from typing import Literal

from remora.results.schema import Record, Setting, Versioned
from remora.results.summary_schema import Row, StudySummary

RECIPE_FILE = "recipe.json"
COSTS = (
    "train_seconds",
    "step_seconds",
    "examples_per_second",
    "peak_bytes",
    "adapter_params",
    "trained_params",
    "trained_share",
    "train_loss",
)
"""Measures of a row that are no metric on test; `trained_share` is of the base's parameters and the head's."""
OF_STUDY = ("train_rows", "model", "data")
"""What a table can run over beside the settings of rows, and `row`, their label: the same for all rows of a study."""


class Published(Record):
    """A number of the publication: of which study, which row (by label) and which measure of it."""

    study: str
    row: str
    measure: str
    value: float
    note: str = ""


class PictureSpec(Record):
    """A figure of the recipe's report.

    `bars` shows each of the measures for every row, study by study. `heat` shows the measures of a study over two
    settings of its rows, a panel per value of a third. `curves` shows validation score and training loss by epoch,
    `memory` the memory of training over time. `table` is like `heat`, of all studies together and in numbers with
    intervals; its settings may also be those of `OF_STUDY`, and `y` is down the side.
    """

    kind: Literal["bars", "heat", "curves", "memory", "table"]
    studies: tuple[str, ...]
    measures: tuple[str, ...] = ()
    x: str = ""
    y: str = ""
    panel: str = ""
    caption: str


class RecipeInfo(Record):
    """What a recipe is about.

    `chosen` says what the publication leaves open and what was taken, or where the recipe departs from it; `needs` what
    a machine must have; `small` what its small form changes. `columns` are the measures of the table that has all rows.
    """

    title: str
    summary: str
    citation: str
    chosen: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    small: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    pictures: tuple[PictureSpec, ...] = ()


class RecipeRun(Versioned):
    """A recipe as it was run: `changes` are a study's settings that differ from the recipe's own full form."""

    name: str
    info: RecipeInfo
    small: bool
    command: str
    studies: tuple[str, ...]
    changes: dict[str, tuple[str, ...]]


def setting_of(summary: StudySummary, row: Row, setting: str) -> Setting:
    """What a setting, of the row or one of `OF_STUDY`, or `row` itself, is for a row; None where it has none."""
    if setting == "train_rows":
        return summary.data.splits["train"].rows
    if setting in OF_STUDY:
        return summary.model.name if setting == "model" else summary.data.name
    if setting == "row":
        return row.label
    return row.hyperparameters.get(setting)


def measured(summary: StudySummary, row: Row, measure: str) -> float | None:
    """What a row has of a measure: a metric on test, mean over seeds, or one of `COSTS`; None where it has none."""
    if measure == "train_loss":
        losses = [seed.train_loss for seed in row.per_seed if seed.train_loss is not None]
        return sum(losses) / len(losses) if losses else None
    if measure == "trained_share":
        return row.trained_params / (summary.model.params + row.head_params) if row.trained_params else None
    if measure in COSTS:
        value = getattr(row, measure)
        return None if value is None else float(value)
    return row.metrics.get(measure)
