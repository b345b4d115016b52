"""Successive halving across interruptions: what decides in a pack, and what trials finished before have recorded."""

import math
from collections.abc import Sequence
from pathlib import Path

from remora.engine.rungs import Halving, Rung
from remora.results import schema
from remora.results.schema import finite
from remora.results.store import read_result
from remora.study.trials import PlannedTrial


def halvings(run_dir: Path, trials: Sequence[PlannedTrial], num_validation: int) -> list[Halving]:
    """What decides which of some trials stop: one for each row that halves, with what its finished trials recorded.

    Args:
        run_dir: the run directory; every rival that is not among `trials` has its result there.
        trials: to be trained now.
        num_validation: rows of the validation split.
    """
    present = {trial.spec.id for trial in trials}
    found: list[Halving] = []
    for rivals in dict.fromkeys(trial.rivals for trial in trials if trial.rivals):
        finished = {
            name: [_rung(record) for record in read_result(run_dir, name).rungs]
            for name in rivals
            if name not in present
        }
        found.append(Halving(rivals, num_validation, finished))
    return found


def rung_record(rung: Rung) -> schema.Rung:
    """A rung as `result.json` holds it."""
    return schema.Rung(
        step=rung.step,
        num_steps=rung.num_steps,
        score=finite(rung.score),
        loss=finite(rung.loss),
        went_on={name: finite(score) for name, score in rung.went_on.items()},
    )


def _rung(record: schema.Rung) -> Rung:
    return Rung(
        step=record.step,
        num_steps=record.num_steps,
        score=_number(record.score),
        loss=_number(record.loss),
        went_on={name: _number(score) for name, score in record.went_on.items()},
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
