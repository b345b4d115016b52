"""What an encoder learns from given labels: a recipe that trains it on these and on true ones, at several sizes.

The recipe is a file like any other, so that its studies can be looked at, changed and run again by themselves. Both
kinds of labels are of the same texts; validation is cut from them too, so that tuning sees no label that a person
without true labels would not have. The test rows have true labels.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

from remora.config.schema import MethodEntry
from remora.config.yaml12 import to_yaml
from remora.data.partition import VALIDATION_ROWS, VALIDATION_SHARE
from remora.data.unlabelled import Unlabelled
from remora.errors import ConfigError
from remora.results.store import write_atomic

RECIPE = "learning.yaml"
STUDIES = "learning"
GIVEN, TRUE = "given-labels", "true-labels"
_FEWEST = 10


def write_learning_recipe(
    folder: Path,
    *,
    model: str,
    methods: Sequence[MethodEntry],
    sizes: Sequence[int],
    rows: Unlabelled,
    labels: Sequence[str],
    test: Unlabelled,
) -> Path:
    """Write data and recipe.

    Args:
        folder: gets ``learning.yaml`` and the data.
        model: the encoder that is to learn.
        methods: how.
        sizes: numbers of training texts; a quarter, half and all of them where empty.
        rows: texts to learn from, with the true labels where they are known.
        labels: those given to them.
        test: texts with true labels.

    Returns:
        The recipe's file.

    Raises:
        ConfigError: fewer texts than the sizes need.
    """
    texts, columns = rows.texts, rows.columns
    most = len(texts) - min(VALIDATION_ROWS, math.ceil(VALIDATION_SHARE * len(texts)))
    if most < _FEWEST or max(sizes, default=0) > most:
        raise ConfigError(
            f"{len(texts)} texts are there to learn from, of which {len(texts) - most} are for validation",
            f"choose --sizes of {most} at most, lower --min-confidence, or label more texts",
        )
    sources = {GIVEN: labels, **({} if rows.truths is None else {TRUE: rows.truths})}
    for name, given in sources.items():
        _write_rows(folder / "data" / name / "train.jsonl", columns, texts, given)
        _write_rows(folder / "data" / name / "test.jsonl", columns, test.texts, test.truths or ())
    chosen = sorted(set(sizes or (max(_FEWEST, most // 4), max(_FEWEST, most // 2), most)))
    named = {"given": GIVEN, "true": TRUE}
    recipe = {
        "recipe": {
            "title": f"What {Path(model).name} learns from given labels",
            "summary": "An encoder is trained on labels that a language model or an adapter gave, and on the true ones"
            " of the same texts where they are known. Both are judged by true labels.",
            "citation": "Remora, remora annotate",
            "pictures": [learning_table()],
        },
        "shared": {
            "model": model,
            "data": {"text": list(columns), "label": "label", "task": "classification"},
            "methods": [entry.model_dump(exclude_defaults=True) for entry in methods],
            "protocol": {"seeds": 3, "full": False},
        },
        "studies": {
            "learns": {
                "vary": {
                    "data.path": {
                        short: str((folder / "data" / name).resolve())
                        for short, name in named.items()
                        if name in sources
                    },
                    "data.train_limit": chosen,
                }
            }
        },
    }
    path = folder / RECIPE
    write_atomic(path, to_yaml(recipe).encode())
    return path


def learning_table() -> dict[str, object]:
    """The table by number of texts and kind of labels, as a recipe has it."""
    caption = "Quality on true labels by number of training texts and by whose labels these have; 95 % intervals."
    what = {"studies": ["learns"], "measures": ["accuracy"], "caption": caption}
    return {"kind": "table", **what, "x": "data", "y": "train_rows", "panel": "row"}


def _write_rows(path: Path, columns: Sequence[str], texts: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
    rows = [
        {**dict(zip(columns, text, strict=True)), "label": label} for text, label in zip(texts, labels, strict=True)
    ]
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
