"""The files a study writes while it runs, as strict models; the summary (`results.json`) is in `summary_schema`.

    study.json              Study       once, before the first trial: what runs, on what, under which protocol
    data.json               DataInfo    once, before the first trial: splits with hashes, notes, lengths
    trials/<id>/result.json TrialResult per trial, written last: a trial without it did not finish
    costs.json              Costs       once, after the last trial: solo step time, peak memory, the machine
    incidents.json          Incidents   when something went wrong that the study survived

Metric values are fractions (0.91, not 91). JSON has no NaN and no Infinity: a number that is not finite is null.
Paths are relative to the run directory, so that it can be moved.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from remora.data.metric_names import validation_metric

Purpose = Literal["tuning", "final", "baseline"]
Status = Literal["done", "diverged", "failed", "stopped"]
TaskKind = Literal[
    "classification",
    "regression",
    "multiple-choice",
    "token-classification",
    "coreference",
    "prompt-classification",
    "summarization",
]
Setting = JsonValue


def finite(value: float | None) -> float | None:
    """The number as JSON can hold it: None where it is not finite."""
    return value if value is not None and math.isfinite(value) else None


class Record(BaseModel):
    """A frozen record that knows all its fields and holds finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True)


class Versioned(Record):
    """A whole file: carries the version of its schema under the key `schema`."""

    schema_version: Literal[1] = Field(default=1, alias="schema")


# ---------------------------------------------------------------- trials/<id>/result.json


class CurvePoint(Record):
    """The state of a trial at the end of an epoch: mean training loss of that epoch, and validation."""

    step: int
    epoch: float
    train_loss: float | None
    validation_loss: float | None = None
    validation: dict[str, float] = {}


class Rung(Record):
    """A comparison with the row's other tuning trials after `step` of `num_steps`, under ``protocol.stop=halving``.

    `score` and `loss` are this trial's headline metric and loss on validation there; `went_on` is trial -> score of
    those that trained on. A trial that is not among them was stopped.
    """

    step: int
    num_steps: int
    score: float | None
    loss: float | None
    went_on: dict[str, float | None]


class ParamCount(Record):
    """Trained scalars: what the method added, the head, and base weights trained in place (full fine-tuning)."""

    adapter: int
    head: int
    base_trained: int = 0


class GradNorm(Record):
    """Norms of the whole gradient before clipping, over the steps of a trial."""

    mean: float | None
    min: float | None
    max: float | None


class Pack(Record):
    """The pack a trial was trained in; `wall_seconds` of a trial is time shared with its other lanes.

    `tokens_per_pass` is less than the configuration's where memory ran out and passes were cut.
    """

    id: str
    lanes: int
    tokens_per_pass: int | None = None


class TrialResult(Versioned):
    """One trial: method, hyperparameters and seed on the study's data set, and what came out.

    `label` is the row it belongs to. `metrics` is split -> metric -> value; "test" is there only when `purpose` is
    not "tuning". `losses` has "train" (mean of the last epoch), "validation", "test". `hyperparameters` holds "lr"
    and every setting of the method. `examples` counts the examples seen in training over all epochs. `truncated` is
    split -> number of texts cut to this trial's length budget. `adapter_bytes` is null where there is no adapter.
    A trial with status "stopped" has rungs, and no metrics: it was not trained to its end. `variants` holds, by name,
    the metrics of other forms of the same adapter (DyLoRA's ranks).
    """

    trial: str
    purpose: Purpose
    method: str
    label: str
    family: str
    hyperparameters: dict[str, Setting]
    seed: int
    stream: str = ""
    status: Status
    error: str | None = None
    metrics: dict[str, dict[str, float]] = {}
    variants: dict[str, dict[str, dict[str, float]]] = {}
    losses: dict[str, float | None] = {}
    curve: tuple[CurvePoint, ...] = ()
    rungs: tuple[Rung, ...] = ()
    params: ParamCount
    steps: int = 0
    examples: int = 0
    undertrained: bool = False
    grad_norm: GradNorm | None = None
    truncated: dict[str, int] = {}
    wall_seconds: float = 0.0
    pack: Pack | None = None
    adapter_bytes: int | None = None


# ---------------------------------------------------------------- data.json


class SplitInfo(Record):
    """One split: rows, content hash, the file (base name) it came from, label -> count (empty for regression)."""

    rows: int
    hash: str
    source: str
    label_counts: dict[str, int] = {}


class DataNote(Record):
    """Something counted while reading, such as duplicates or overlap; the message holds the count."""

    kind: str
    message: str
    count: int


class Lengths(Record):
    """Training texts in tokens before truncation to `max_length`; `truncated` counts the texts cut, in all splits.

    `unread` counts the tagged words beyond that. Documents are read in windows of `max_length`; `split` counts the
    sentences that are longer than one.
    """

    mean: float
    p50: float
    p95: float
    max: int
    truncated: int
    max_length: int
    unread: int = 0
    split: int = 0


class DataInfo(Versioned):
    """The data set: the headline metric comes first in `metrics`; `label_names` is in the order of the scores.

    `documents` are the beginnings of the first test rows, where these are documents to summarize.
    """

    name: str
    task: TaskKind
    hash: str
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    label_names: tuple[str, ...] = ()
    metric: str
    metrics: tuple[str, ...]
    positive_class: str | None = None
    splits: dict[str, SplitInfo]
    notes: tuple[DataNote, ...] = ()
    lengths: Lengths | None = None
    documents: tuple[str, ...] = ()

    @property
    def validation_metric(self) -> str:
        """The metric on validation that chooses hyperparameters and checkpoints."""
        return validation_metric(self.task, self.metric)


# ---------------------------------------------------------------- costs.json


class Machine(Record):
    """The machine in general terms; no host name, no path. `kernels`: whether the compiled ones were used."""

    cpu: str
    cores: int
    memory_gb: float
    torch: str
    dtype: str
    accelerator: str | None = None
    kernels: bool = False


class MemoryBreakdown(Record):
    """Where the peak of a training step goes, in bytes; the last field is what the others leave.

    `base` is as it is held; `dense_base` is what a quantised one would take if it were not, null for a dense one.
    """

    base: int
    dense_base: int | None = None
    adapter: int
    gradients: int
    optimizer: int
    activations_and_rest: int


class MemorySample(Record):
    """The most memory that a training step had, and when it ended, in seconds since training began."""

    seconds: float
    bytes: int


class RowCost(Record):
    """The cost of one training step of a row's method alone on the machine; null where it was not measured.

    `memory_trace` has every step of that measurement, the first ones included.
    """

    step_seconds: float | None = None
    examples_per_second: float | None = None
    peak_bytes: int | None = None
    breakdown: MemoryBreakdown | None = None
    memory_trace: tuple[MemorySample, ...] = ()


class Costs(Versioned):
    """Costs by row label, the machine, and the wall time of the whole study."""

    machine: Machine
    rows: dict[str, RowCost]
    study_seconds: float


# ---------------------------------------------------------------- incidents.json


class Incidents(Versioned):
    """What went wrong and was survived, such as a damaged checkpoint passed over: a sentence -> how often."""

    counts: dict[str, int] = {}


# ---------------------------------------------------------------- study.json


class ModelInfo(Record):
    """The base model: `params` counts its weights, `revision` is the Hub commit if any.

    `sha256` is over its weights in `dtype`, before they were quantised where `quantization` is not "none".
    """

    name: str
    architecture: str
    params: int
    sha256: str
    dtype: str
    quantization: Literal["none", "nf4"] = "none"
    revision: str | None = None
    max_length: int


class RowPlan(Record):
    """A row of the comparison before it ran: its settings without the learning rate, and the rates tried.

    `lrs` is empty for a row that is not tuned. `changes_base` marks full fine-tuning.
    """

    method: str
    label: str
    family: str
    settings: dict[str, Setting] = {}
    lrs: tuple[float, ...] = ()
    note: str = ""
    changes_base: bool = False


class ProtocolInfo(Record):
    """The protocol as it ran. `tuning_seed` and `seeds` are the seeds used; `reference` is the row compared against."""

    mode: Literal["fair", "published"] = "fair"
    epochs: int
    batch_size: int
    seeds: tuple[int, ...]
    tuning_trials: int
    tuning_seed: int | None = None
    stop: Literal["none", "halving"] = "none"
    schedule: str = "linear"
    warmup: float = 0.06
    clip: float = 1.0
    weight_decay: float = 0.01
    base_dropout: bool = True
    select: Literal["last", "best-validation"] = "last"
    margin: float = 1.0
    prefer: Literal["quality", "size", "speed"] = "quality"
    reference: str | None = None
    cuts: tuple[str, ...] = ()


class Study(Versioned):
    """What runs: one entry in `rows` per row of the comparison, baselines included, in the order asked for.

    `kind` is compare, train or sweep. `fingerprint` is the hash of the resolved study file. `command` is the line the
    user typed or an equal one. `versions` maps a package (and "python") to its version. `reductions` says in words what
    was reduced so that the study fits into memory; the settings it came to are in study.yaml.
    """

    name: str
    kind: str
    fingerprint: str
    command: str = ""
    created: str = ""
    model: ModelInfo
    protocol: ProtocolInfo
    rows: tuple[RowPlan, ...]
    reductions: tuple[str, ...] = ()
    versions: dict[str, str] = {}
