"""`results.json`: the summary of a study, the only input of the report's text and tables.

Metric values are fractions; `margin` alone is in points (hundredths). Rows come best first, baselines in their place.
"""

from typing import Literal

from remora.results.schema import (
    DataInfo,
    Machine,
    MemoryBreakdown,
    MemorySample,
    ModelInfo,
    ProtocolInfo,
    Record,
    Setting,
    Status,
    Versioned,
)

Role = Literal["method", "reference", "baseline"]


class SeedOutcome(Record):
    """One final trial of a row: its metrics on test, and what it ended with on validation."""

    trial: str
    seed: int
    status: Status
    test: dict[str, float]
    validation: dict[str, float]
    train_loss: float | None
    undertrained: bool


class Versus(Record):
    """A row minus the reference on the headline metric.

    [`low`, `high`] holds with 95 % for all comparisons at once; `p_adjusted` is corrected for their number (Holm's
    method when the reference was fixed beforehand, see `Compared`); `p` is the p-value of this comparison alone.
    """

    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float


class Row(Record):
    """A row of the comparison.

    `mean` is over the seeds that finished, [`low`, `high`] its 95 % interval for new seeds and new test items, all
    null when no seed finished. `seeds` counts the trials that finished, `failed` the others. `train_seconds` is
    derived: steps times the solo step. `adapter` is the adapter of the seed with the best validation score.
    `undertrained` counts the seeds whose training loss was still falling. `loss` is the simultaneous upper bound on
    what the row loses to the best.
    """

    method: str
    label: str
    family: str
    role: Role
    note: str = ""
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    failed: int
    adapter_params: int
    head_params: int
    base_params: int
    step_seconds: float | None
    examples_per_second: float | None
    peak_bytes: int | None
    memory: MemoryBreakdown | None
    memory_trace: tuple[MemorySample, ...] = ()
    adapter_bytes: int | None
    steps: int
    train_seconds: float | None
    hyperparameters: dict[str, Setting]
    adapter: str | None
    metrics: dict[str, float]
    per_seed: tuple[SeedOutcome, ...]
    in_best_set: bool
    loss: float | None
    versus_reference: Versus | None
    undertrained: int

    @property
    def trained_params(self) -> int:
        """All scalars that training changes: adapter, head and base."""
        return self.adapter_params + self.head_params + self.base_params


class TuningTrial(Record):
    """One tuning trial: the learning rate tried and its validation score and loss.

    `stopped_at` is the share of the steps at which halving stopped it; score and loss are then those of that step.
    """

    lr: float
    hyperparameters: dict[str, Setting]
    status: Status
    score: float | None
    loss: float | None
    chosen: bool
    stopped_at: float | None = None


class Tuning(Record):
    """The tuning of one row, by learning rate; `edge` says that the chosen rate is the smallest or largest tried.

    `steps` were trained in all its trials; `steps_saved` more would have been, had halving stopped none.
    """

    label: str
    trials: tuple[TuningTrial, ...]
    edge: Literal["", "lowest", "highest"] = ""
    steps: int = 0
    steps_saved: int = 0


class EpochMean(Record):
    """A learning curve's point: means over seeds, and the range of the validation score over seeds."""

    epoch: float
    train_loss: float | None
    validation_loss: float | None
    score: float | None
    score_low: float | None
    score_high: float | None


class Curve(Record):
    """The learning curve of a row over its final trials; the score is the headline metric on validation."""

    label: str
    points: tuple[EpochMean, ...]


class Variant(Record):
    """Another form of a row's trained adapters, such as a smaller rank: headline metric, means over seeds."""

    name: str
    validation: float | None
    test: float | None
    test_low: float | None
    test_high: float | None


class Variants(Record):
    """All forms of a row's adapters that one training gave; `test_low` and `test_high` are the range over seeds."""

    label: str
    forms: tuple[Variant, ...]


class ClassScore(Record):
    """Precision, recall and F1 of one class on test, means over seeds; `support` is its number of test rows."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


class WrittenExample(Record):
    """A test document, how it begins, with what is written about it; `untrained` is null where that was not asked."""

    document: str
    references: tuple[str, ...]
    untrained: str | None
    summary: str


class Detail(Record):
    """A closer look at one row on test: per class for classification, target against prediction for regression.

    `confusion[i][j]` is the mean number of test rows of class i predicted as class j, over seeds; for spans it counts
    words, and its last row and column are those of no span, called `outside`. For coreference `classes` are
    the metrics, and there is no confusion. `scatter` holds pairs of target and prediction (mean over seeds), `written`
    some examples of summaries.
    """

    label: str
    why: str
    classes: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[float, ...], ...] = ()
    scatter: tuple[tuple[float, float], ...] = ()
    outside: str | None = None
    written: tuple[WrittenExample, ...] = ()


class Recommendation(Record):
    """The verdict. `label` is null when nothing can be recommended; `decidable` says whether the data decides.

    `reason` is best, non-inferior, only-method, undecided, one-seed or no-result. `loss` bounds what `label` loses to
    the best, `optimism` is by how much the best mean is expected to flatter its row, both fractions. `need_items` or
    `need_seeds`, with `need_both` only together, would decide. `text` is the verdict in plain English, `next_steps`
    what to do about it.
    """

    label: str | None
    method: str | None
    decidable: bool
    reason: str
    text: str
    loss: float | None
    optimism: float | None
    need_items: int | None
    need_seeds: int | None
    need_both: bool
    margin: float
    prefer: Literal["quality", "size", "speed"]
    best: str | None
    best_set: tuple[str, ...]
    adapter: str | None
    lr: float | None
    next_steps: tuple[str, ...] = ()


class Warning(Record):
    """Something a reader must know before trusting a number; `label` names the row it is about."""

    kind: str
    message: str
    label: str | None = None


class TrialCounts(Record):
    """How many trials finished, by purpose, and how many did not; halving ended the `stopped` ones."""

    tuning: int
    final: int
    baseline: int
    stopped: int = 0
    diverged: int
    failed: int
    unfinished: int


class Variance(Record):
    """The variance components behind the intervals, as standard deviations of the headline metric.

    `seed_sd` is one seed's, pooled over methods, with `seed_dof` degrees of freedom; `item_sd` a mean's over test
    items, `item_difference_sd` that of the difference of two methods.
    """

    seed_sd: float | None = None
    seed_dof: float | None = None
    item_sd: float | None = None
    item_difference_sd: float | None = None


class Compared(Record):
    """What the rows are compared with: `reference` was fixed beforehand ("holm") or has the highest mean ("max-t").

    `detectable` is the true difference that would be found with 80 % probability (median over methods).
    """

    reference: str | None = None
    adjustment: Literal["holm", "max-t"] = "holm"
    detectable: float | None = None


class StudySummary(Versioned):
    """Everything the report says, as data."""

    name: str
    kind: str
    fingerprint: str
    command: str
    created: str
    model: ModelInfo
    data: DataInfo
    protocol: ProtocolInfo
    machine: Machine | None
    versions: dict[str, str]
    study_seconds: float | None
    trials: TrialCounts
    variance: Variance
    compared: Compared
    recommendation: Recommendation
    rows: tuple[Row, ...]
    tuning: tuple[Tuning, ...]
    curves: tuple[Curve, ...]
    variants: tuple[Variants, ...] = ()
    detail: Detail | None
    warnings: tuple[Warning, ...]

    def row(self, label: str) -> Row:
        """The row with this label."""
        return next(row for row in self.rows if row.label == label)
