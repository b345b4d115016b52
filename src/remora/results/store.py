"""A run directory on disk: atomic writes, trial ids, and reading it back.

`result.json` is the commit mark of a trial: it is written last, so a trial folder without it is unfinished work.
"""

import hashlib
import json
import os
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from remora.errors import DataError
from remora.paths import flush
from remora.results.schema import Costs, DataInfo, Incidents, Study, TrialResult

STUDY_FILE = "study.json"
DATA_FILE = "data.json"
COSTS_FILE = "costs.json"
INCIDENTS_FILE = "incidents.json"
TRIALS = "trials"
CHECKPOINTS = "checkpoints"
"""Where packs in training keep theirs; gone when the study is done."""
PACKS = "packs"
"""Where packs are on offer while a study trains, and who has them; what stays is who coordinated."""
RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.parquet"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)

M = TypeVar("M", bound=BaseModel)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader, also one after a crash, sees the old content or the new, never a part.

    Args:
        path: the file; its folder is made when missing.
        content: all of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids would not do: two machines that share the folder may have the same.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with aside.open("xb") as file:  # never through a link that lies there
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    flush(path.parent)


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, atomically; equal records give equal bytes."""
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_record(path: Path, kind: type[M]) -> M:
    """Read a record.

    Args:
        path: a JSON file.
        kind: the model it must fit.

    Raises:
        DataError: the file is missing or does not fit; names the file and the first field that is wrong.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing", "the study did not get that far, or this is no run directory") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file itself"
        raise DataError(
            f"{path}: {where}: {first['msg']}",
            "the file was edited, or written by another version of Remora; run the study again",
        ) from error


def slug(text: str) -> str:
    """A label as a file name of at most 40 characters: lower-case letters, digits and hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "row"


def trial_id(label: str, seed: int, determinants: Mapping[str, object]) -> str:
    """The id of a trial: readable in front, content-addressed at the end.

    Args:
        label: the row's label.
        seed: the trial's seed.
        determinants: everything that determines the trial's result, as plain JSON values.

    Returns:
        For example ``lora-r-8-s0-1f3a9c0b2d``; equal determinants give equal ids, on every machine.
    """
    canonical = json.dumps(determinants, sort_keys=True, separators=(",", ":"), allow_nan=False)
    digest = hashlib.blake2b(canonical.encode(), digest_size=5).hexdigest()
    return f"{slug(label)}-s{seed}-{digest}"


def within(run_dir: Path, *names: str) -> Path:
    """A path in a run directory that is sure to be in it; what is written or read goes through here.

    Args:
        run_dir: the run directory; it may itself be a link.
        names: of folders and a file, from the outside in; nothing need be there.

    Raises:
        DataError: a name that is no plain file name, or a link in the way.
    """
    path = run_dir.joinpath(*names)
    wrong = [name for name in names if not _PLAIN_NAME.fullmatch(name)]
    if wrong:
        raise DataError(f"{run_dir}: {wrong[0]!r} is no name in a run directory", "a file in it was edited")
    if path.resolve() != run_dir.resolve().joinpath(*names):
        raise DataError(f"{path} is, or lies behind, a link that leads to {path.resolve()}", "remove the link")
    return path


def trial_dir(run_dir: Path, trial: str) -> Path:
    """The folder of a trial.

    Raises:
        DataError: the id would lead out of the run directory.
    """
    return within(run_dir, TRIALS, trial)


def is_finished(run_dir: Path, trial: str) -> bool:
    """Whether a trial has its commit mark."""
    return (trial_dir(run_dir, trial) / RESULT_FILE).is_file()


def write_result(run_dir: Path, result: TrialResult) -> None:
    """Write the commit mark of a trial; call it after everything else of that trial is on disk."""
    write_record(trial_dir(run_dir, result.trial) / RESULT_FILE, result)


def read_result(run_dir: Path, trial: str) -> TrialResult:
    """Read one trial's result."""
    return read_record(trial_dir(run_dir, trial) / RESULT_FILE, TrialResult)


def add_incident(run_dir: Path, text: str) -> None:
    """Note for the report that something went wrong that the study survives.

    Args:
        run_dir: the run directory.
        text: one sentence.
    """
    counts = dict(_read_incidents(run_dir).counts)
    counts[text] = counts.get(text, 0) + 1
    write_record(run_dir / INCIDENTS_FILE, Incidents(counts=counts))


def _read_incidents(run_dir: Path) -> Incidents:
    path = run_dir / INCIDENTS_FILE
    return read_record(path, Incidents) if path.is_file() else Incidents()


@dataclass(frozen=True, kw_only=True)
class RunDirectory:
    """What a run directory holds, read and checked. `trials` are the finished ones, in the order of their ids.

    `unfinished` are the ids of trial folders without a commit mark; `costs` is None before they were measured.
    `incidents` is what went wrong on the way: a sentence -> how often.
    """

    path: Path
    study: Study
    data: DataInfo
    costs: Costs | None
    trials: tuple[TrialResult, ...]
    unfinished: tuple[str, ...]
    incidents: Mapping[str, int]

    def of(self, label: str, purpose: str) -> tuple[TrialResult, ...]:
        """The trials of one row and purpose, by seed and id."""
        found = [trial for trial in self.trials if trial.label == label and trial.purpose == purpose]
        return tuple(sorted(found, key=lambda trial: (trial.seed, trial.trial)))

    def adapter(self, trial: TrialResult) -> str | None:
        """The path of a trial's adapter relative to the run directory, or None where it has none."""
        here = f"{TRIALS}/{trial.trial}/adapter"
        return here if (self.path / here).is_dir() else None


def read_run(run_dir: Path) -> RunDirectory:
    """Read a run directory.

    Args:
        run_dir: the folder that holds ``study.json`` and ``trials/``.

    Raises:
        DataError: a file is missing, does not fit its schema, or lies in the folder of another trial.
    """
    study = read_record(run_dir / STUDY_FILE, Study)
    data = read_record(run_dir / DATA_FILE, DataInfo)
    costs = read_record(run_dir / COSTS_FILE, Costs) if (run_dir / COSTS_FILE).is_file() else None
    root = run_dir / TRIALS
    ids = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    done = [name for name in ids if is_finished(run_dir, name)]
    trials = tuple(read_result(run_dir, name) for name in done)
    for name, trial in zip(done, trials, strict=True):
        if name != trial.trial:
            raise DataError(
                f"{root / name / RESULT_FILE} is the result of trial {trial.trial!r}",
                "a trial folder was copied or renamed; rename it back or delete it",
            )
    unfinished = tuple(name for name in ids if name not in set(done))
    return RunDirectory(
        path=run_dir,
        study=study,
        data=data,
        costs=costs,
        trials=trials,
        unfinished=unfinished,
        incidents=_read_incidents(run_dir).counts,
    )
