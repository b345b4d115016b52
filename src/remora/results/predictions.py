"""`predictions.parquet`: what one trial predicted for every row of the validation and test split.

Columns: split (string), row (int32, index in the split), target and prediction (string, or double for regression),
scores (list of float, the logits in the order of the label names or of the question's choices).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from remora.data.kinds import ABSENT
from remora.errors import DataError
from remora.results.store import PREDICTIONS_FILE, trial_dir, write_atomic

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("validation", "test")
_NONE = np.float32(ABSENT)


@dataclass(frozen=True, kw_only=True)
class SplitPredictions:
    """Predictions on one split of N rows, row i of the split at place i.

    Args:
        targets: N label names, or N floats for regression. The tags of a sentence's words have blanks between them.
            The clusters of a document are JSON, and so are the references of a summary.
        predictions: the same kind as `targets`.
        scores: (N, C) float32 logits, C = number of labels, 1 for regression, or most choices of a question, with
            `ABSENT` where it has fewer; these are not written. (N, W, C) for words, read back as (N, W C). (N, 0) for
            documents, whose words have hundreds. (N, 3) of written summaries: F1 of ROUGE-1, 2 and L.
    """

    targets: tuple[str, ...] | tuple[float, ...]
    predictions: tuple[str, ...] | tuple[float, ...]
    scores: np.ndarray


def write_predictions(run_dir: Path, trial: str, splits: Mapping[str, SplitPredictions]) -> None:
    """Write a trial's predictions atomically.

    Args:
        run_dir: the run directory.
        trial: the trial's id.
        splits: "validation" and, for final trials and baselines, "test".
    """
    import pyarrow as pa  # which starts a thread; `study.processes` says why that is to be late
    import pyarrow.parquet as pq

    tables = [_table(name, splits[name]) for name in SPLITS if name in splits]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    write_atomic(trial_dir(run_dir, trial) / PREDICTIONS_FILE, sink.getvalue().to_pybytes())


def read_predictions(run_dir: Path, trial: str) -> dict[str, SplitPredictions]:
    """Read a trial's predictions by split.

    Raises:
        DataError: the file is missing or broken, or the rows of a split are not 0..N-1 in order.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = trial_dir(run_dir, trial) / PREDICTIONS_FILE
    try:
        table = pq.read_table(path)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path} cannot be read: {error}", "delete the trial's folder and run the study again"
        ) from None
    splits = np.asarray(table["split"].to_pylist(), dtype=object)
    found: dict[str, SplitPredictions] = {}
    for name in SPLITS:
        part = table.filter(pa.array(splits == name))
        if not part.num_rows:
            continue
        if part["row"].to_pylist() != list(range(part.num_rows)):
            raise DataError(f"{path}: the {name} rows are not 0..{part.num_rows - 1}", "run the trial again")
        found[name] = SplitPredictions(
            targets=tuple(part["target"].to_pylist()),
            predictions=tuple(part["prediction"].to_pylist()),
            scores=_filled(part["scores"].to_pylist()),
        )
    return found


def _table(name: str, part: SplitPredictions) -> "pa.Table":
    import pyarrow as pa

    num_rows = len(part.targets)
    assert num_rows == len(part.predictions) == len(part.scores), "targets, predictions and scores differ in length"
    kind = pa.string() if all(isinstance(value, str) for value in part.targets) else pa.float64()
    return pa.table(
        {
            "split": pa.array([name] * num_rows, pa.string()),
            "row": pa.array(np.arange(num_rows), pa.int32()),
            "target": pa.array(part.targets, kind),
            "prediction": pa.array(part.predictions, kind),
            "scores": pa.array([row[row != _NONE] for row in part.scores.astype(np.float32)], pa.list_(pa.float32())),
        }
    )


def _filled(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Rows of different lengths as one array."""
    filled = np.full((len(rows), max(map(len, rows))), _NONE, np.float32)
    for number, row in enumerate(rows):
        filled[number, : len(row)] = row
    return filled
