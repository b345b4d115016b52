"""`results.csv` and `results.parquet`: one row per trial, all trials, every metric a column."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from remora.results.aggregate import stopped_at
from remora.results.schema import TrialResult
from remora.results.spreadsheets import neutral
from remora.results.store import RunDirectory
from remora.results.summary_schema import StudySummary

if TYPE_CHECKING:
    import pyarrow as pa

Value = str | int | float | bool | None


def trial_table(run: RunDirectory, summary: StudySummary) -> dict[str, list[Value]]:
    """Column -> values, one per trial: rows in the order of the ranking, tuning before final trials.

    Args:
        run: the run directory.
        summary: its summary, for the order and the costs.
    """
    order = {row.label: place for place, row in enumerate(summary.rows)}
    stages = {"tuning": 0, "final": 1, "baseline": 1}
    trials = sorted(run.trials, key=lambda t: (order.get(t.label, len(order)), stages[t.purpose], t.seed, t.trial))
    metrics = list(summary.data.metrics)
    metrics += sorted({m for t in trials for split in t.metrics.values() for m in split} - set(metrics))
    records = [_record(trial, summary, metrics) for trial in trials]
    names = list(records[0]) if records else []
    return {name: [record[name] for record in records] for name in names}


def _record(trial: TrialResult, summary: StudySummary, metrics: Sequence[str]) -> dict[str, Value]:
    lr = trial.hyperparameters.get("lr")
    other = {name: value for name, value in trial.hyperparameters.items() if name != "lr"}
    record: dict[str, Value] = {
        "study": summary.name,
        "model": summary.model.name,
        "data": summary.data.name,
        "method": trial.method,
        "label": trial.label,
        "family": trial.family,
        "purpose": trial.purpose,
        "seed": trial.seed,
        "stream": trial.stream,
        "status": trial.status,
        "lr": float(lr) if isinstance(lr, int | float) else None,
        "settings": json.dumps(other, sort_keys=True, ensure_ascii=False),
    }
    for split in ("validation", "test"):
        values = trial.metrics.get(split, {})
        record |= {f"{split}_{metric}": values.get(metric) for metric in metrics}
        record[f"{split}_loss"] = trial.losses.get(split)
    return record | {
        "train_loss": trial.losses.get("train"),
        "undertrained": trial.undertrained,
        "adapter_params": trial.params.adapter,
        "head_params": trial.params.head,
        "base_params": trial.params.base_trained,
        "adapter_bytes": trial.adapter_bytes,
        "steps": trial.steps,
        "stopped_at": rung.step / rung.num_steps if (rung := stopped_at(trial)) else None,
        "examples": trial.examples,
        "wall_seconds": trial.wall_seconds,
        "error": trial.error,
        "trial": trial.trial,
    }


def to_csv(table: dict[str, list[Value]]) -> str:
    """The table as CSV (RFC 4180, empty for missing); text that a spreadsheet would run gets an apostrophe in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(neutral(name) for name in table)
    for values in zip(*table.values(), strict=True):
        writer.writerow(neutral(value) if isinstance(value, str) else value for value in values)
    return out.getvalue()


def to_parquet(table: dict[str, list[Value]]) -> bytes:
    """The table as Parquet, text as it is, columns typed; a column without any value is of floats."""
    import pyarrow as pa  # which starts a thread; `study.processes` says why that is to be late
    import pyarrow.parquet as pq

    columns = {name: _typed(values) for name, values in table.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _typed(values: Sequence[Value]) -> "pa.Array":
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if (kinds <= {int, float} and float in kinds) or not kinds:
        return pa.array(values, pa.float64())
    return pa.array(values)
