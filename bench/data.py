"""The rows both sides see: a fixed draw of training rows, other rows for validation, and the whole test file."""

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remora.seeds import numpy_rng

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Columns and metric of one data set; the label is always in the column ``label``.

    Args:
        text: text columns, one or two.
        metric: headline metric: ``accuracy`` or ``f1``.
        positive: the label counted by ``f1``.
        max_length: tokens kept of each example.
        folder: of the data set; the source's own name when empty.
        prompt: what a row's text becomes: a template with `{text}`, and the words of the text that are kept.
    """

    text: tuple[str, ...]
    metric: str = "accuracy"
    positive: str = ""
    max_length: int = 128
    folder: str = ""
    prompt: tuple[str, int] | None = None

    def row(self, row: Row) -> Row:
        """The columns of a row that are trained on."""
        kept = {key: row[key] for key in (*self.text, "label")}
        if self.prompt is None:
            return kept
        template, num_words = self.prompt
        return {key: template.format(text=" ".join(str(kept[key]).split()[:num_words])) for key in self.text} | {
            "label": kept["label"]
        }


# The layout of the Alpaca data: instruction, input, response. With 58 words of a review, about 100 tokens.
ALPACA = "### Instruction:\nIs this film review positive or negative?\n\n### Input:\n{text}\n\n### Response:\n"


SOURCES = {
    "sst2": Source(text=("sentence",)),
    "mrpc": Source(text=("sentence1", "sentence2"), metric="f1", positive="equivalent"),
    "imdb": Source(text=("text",), max_length=256),
    "imdb-prompts": Source(text=("text",), folder="imdb", prompt=(ALPACA, 58)),
}


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON Lines file, gzip-compressed or not; lines end at ``\\n`` only."""
    if path.suffix == ".gz":
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    else:
        text = path.read_bytes().decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def prepare(
    root: Path, name: str, num_train: int, cache: Path, num_validation: int = 300, num_test: int | None = None
) -> Path:
    """Write the fixed draw of a data set once and return its folder.

    Args:
        root: the folder of data sets.
        name: a key of ``SOURCES``.
        num_train: training rows drawn without replacement.
        cache: where prepared folders live.
        num_validation: further training rows for validation; nobody trains on them.
        num_test: first rows of a fixed draw of the test file; all of it, in its order, when None.

    Returns:
        A folder named after the data set with ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``.
    """
    source = SOURCES[name]
    folder = cache / "-".join([name, str(num_train), *([] if num_test is None else [str(num_test)])]) / name
    if (folder / "test.jsonl").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    files = root / (source.folder or name)
    train = read_rows(files / "train.jsonl.gz")
    if len(train) < num_train + num_validation:
        raise ValueError(f"{name} has {len(train)} training rows, {num_train + num_validation} are needed")
    order = numpy_rng(0, "bench", name).permutation(len(train))
    test = read_rows(files / "test.jsonl.gz")
    if num_test is not None:
        test = [test[i] for i in numpy_rng(0, "bench test", name).permutation(len(test))[:num_test]]
    splits = {
        "train": [train[i] for i in order[:num_train]],
        "validation": [train[i] for i in order[num_train : num_train + num_validation]],
        "test": test,  # last: its presence marks a complete folder
    }
    for split, rows in splits.items():
        kept = [source.row(row) for row in rows]
        aside = folder / f"{split}.jsonl.part"
        aside.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        os.replace(aside, folder / f"{split}.jsonl")
    return folder


def targets_of(folder: Path) -> list[int]:
    """The test rows' labels as indices into the sorted names."""
    labels = labels_of(folder)
    return [labels.index(str(row["label"])) for row in read_rows(folder / "test.jsonl")]


def labels_of(folder: Path) -> tuple[str, ...]:
    """Sorted label names of a prepared folder's training rows."""
    return tuple(sorted({str(row["label"]) for row in read_rows(folder / "train.jsonl")}))
