"""Round figures in place of what a probe would measure."""

from collections.abc import Sequence
from typing import Any

from remora.study.context import StudyContext
from remora.study.probe import Probe, RowProbe
from remora.study.resident import Resident
from remora.study.rows import study_rows

MB = 2**20


def row_probe(**fields: Any) -> RowProbe:
    given: dict[str, Any] = {"seconds": 1e-3, "kept": MB, "copies": 0, "bytes_per_token": 1024.0, **fields}
    return RowProbe(**given)


def round_probe(context: StudyContext, **fields: Any) -> Probe:
    """A probe of the study's rows: 1 ms and 1 KiB a token, 1 MiB kept, full fine-tuning with a hundred times that."""
    rows: dict[str, RowProbe] = {}
    for row in study_rows(context.config, context.base):
        if row.method is not None and row.method.shares_base:
            rows[row.label] = row_probe(reads_features=row.id == "head", virtual=row.method.num_virtual_tokens)
        elif row.method is not None:
            rows[row.label] = row_probe(kept=100 * MB, copies=10 * MB)
    given: dict[str, Any] = {
        "rows": rows,
        "eval_seconds": 2.5e-4,
        "eval_bytes": 256.0,
        "idle": Resident(own=300 * MB, shared=200 * MB),
        "opening": 1.0,
        "crowding": {1: 1.0, 2: 1.25},
        "seconds": 2.0,
        **fields,
    }
    return Probe(**given)


def mean_tokens(context: StudyContext, splits: Sequence[str]) -> dict[str, float]:
    """Mean tokens of the texts of splits, counted one by one."""
    return {name: sum(map(len, context.encoded(name).ids)) / len(context.encoded(name)) for name in splits}
