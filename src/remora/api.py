"""`remora.compare`: a comparison from Python, on a file, a folder, a card or DataFrames."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from remora.config.load import apply_overrides, build_study
from remora.config.schema import DataConfig
from remora.data.frame import Frame, dataset_from_frame
from remora.data.kinds import FORMS, answer, cells
from remora.results.store import write_atomic

if TYPE_CHECKING:
    from remora.data.dataset import Dataset
    from remora.study.api import StudyResult
    from remora.study.progress import Progress


def compare(
    model: str,
    data: "str | Path | Frame",
    *,
    validation: "Frame | None" = None,
    test: "Frame | None" = None,
    methods: str | Sequence[str] | None = None,
    seeds: int | None = None,
    out: str | Path | None = None,
    progress: "Progress | None" = None,
    **settings: object,
) -> "StudyResult":
    """Compare fine-tuning methods on labelled text.

    Args:
        model: Hub id, folder, GGUF file or alias.
        data: a path, a card's name, a Hub id, or a data frame (pandas, polars, a dict of columns).
        validation: rows that choose hyperparameters, where `data` is a frame; taken from `data` when None.
        test: rows for the final figures, likewise.
        methods: ids with settings, such as ``"lora,lora:rank=16,dora"``, or ``"all"``; the eleven most used when None.
        seeds: final trials per method.
        out: run directory; by default ``runs/<name>-<hash>``.
        progress: told what happens; by default a table on a terminal, lines on standard error elsewhere.
        settings: any other setting, two underscores for the dot: ``protocol__epochs=2, data__train_limit=1000``.

    Returns:
        The study's result: `table()`, `best`, `report(path)`.

    Raises:
        RemoraError: see its subclasses.
    """
    from remora.cli.build import read_methods
    from remora.cli.progress import choose_progress
    from remora.methods.registry import list_methods
    from remora.study.api import run_study

    text = methods if isinstance(methods, str) or methods is None else ",".join(methods)
    is_path = isinstance(data, str | Path)
    tree: dict[str, object] = {
        "kind": "compare",
        "name": (Path(data).name.split(".")[0] or "study") if is_path else "frame",
        "model": {"id": model},
        "data": {"path": str(data) if is_path else "dataframe"},
    }
    if text:
        tree["methods"] = list(read_methods(text))
    given = {key.replace("__", "."): value for key, value in settings.items()}
    if seeds is not None:
        given["protocol.seeds"] = seeds
    overrides = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    config = build_study(apply_overrides(tree, overrides), "remora.compare", [method.name for method in list_methods()])
    if not isinstance(data, str | Path):
        dataset = dataset_from_frame(data, validation=validation, test=test, config=config.data)
        folder = Path(out) if out is not None else Path("runs") / f"frame-{dataset.hash[:8]}"
        out = folder
        section = DataConfig(
            path=str(_write_frames(dataset, folder / "data")),
            text=dataset.text_columns,
            label=dataset.label_column,
            task=dataset.task,
            metric=dataset.metric,
        )
        config = config.model_copy(update={"data": section})
    return run_study(config, Path(out) if out is not None else None, progress=progress or choose_progress(silent=False))


def _write_frames(dataset: "Dataset", folder: Path) -> Path:
    """The splits as JSON Lines, so that workers and a later resume read the same rows."""
    form = FORMS[dataset.task]
    for name, split in dataset.splits.items():
        lines = [
            json.dumps(
                dict(zip(dataset.text_columns, cells(texts, form), strict=True))
                | {dataset.label_column: answer(label, form)}
            )
            for texts, label in zip(split.texts, split.labels, strict=True)
        ]
        write_atomic(folder / f"{name}.jsonl", ("\n".join(lines) + "\n").encode())
    return folder
