"""From checked rows to train, validation and test: what is missing is cut from train, then the limits apply."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from remora.config.schema import DataConfig
from remora.data.check import Note, Rows, Texts, text_key
from remora.data.kinds import CLASSES
from remora.data.labels import Labels
from remora.data.split import cut, number_strata, split_seed, subsample
from remora.errors import DataError

VALIDATION_ROWS = 500
VALIDATION_SHARE = 0.2
SINGLE_FILE_SHARES = {"test": 0.2, "validation": 0.1}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Part:
    """The final rows of one split and, in words, where they come from."""

    texts: tuple[Texts, ...]
    labels: tuple[str | float, ...]
    source: str


def partition(
    rows: Mapping[str, Rows], labels: Labels, config: DataConfig, sources: Mapping[str, str]
) -> tuple[dict[str, Part], list[Note]]:
    """Cut missing splits from train, rows with the same text together, and apply the limits.

    Args:
        rows: the checked rows by split; ``train`` at least.
        labels: the decided labels.
        config: limits and the seed of the cuts.
        sources: the file of each split.

    Returns:
        The three parts in the order train, validation, test, and what was cut or left out as notes.

    Raises:
        DataError: train is too small to cut from.
    """
    rest = list(range(len(rows["train"])))
    total = len(rest)
    chosen: dict[str, list[int]] = {}
    notes: list[Note] = []
    wanted = _missing(rows, total)
    for split, count in wanted.items():
        taken = _cut(rows["train"], rest, count, labels, split_seed(config.split_seed, split))
        if not taken:
            raise DataError(
                f"{sources['train']}: {total} rows of train are too few to take a {split} split from",
                f"give more rows, or a {split} file",
            )
        chosen[split] = taken
        rest = sorted(set(rest) - set(taken))
        notes.append(
            Note(kind=f"cut-{split}", message=f"{split} is {len(taken)} rows cut from train", count=len(taken))
        )
    parts: dict[str, Part] = {}
    for split in SPLITS:
        own = split not in chosen
        part = rows[split] if own and split != "train" else rows["train"]
        indices = chosen.get(split, rest if split == "train" else list(range(len(part))))
        source = sources[split] if own else f"{len(indices)} of {total} rows of {sources['train']}"
        if split == "train" and chosen:
            source = f"{len(indices)} of {total} rows of {sources['train']}"
        limit: int | None = getattr(config, f"{split}_limit")
        if limit is not None and limit < len(indices):
            kept = subsample(
                _strata([part.labels[row] for row in indices], labels),
                limit,
                split_seed(config.split_seed, f"limit-{split}"),
            )
            message = f"{split} is limited to {limit} of {len(indices)} rows"
            notes.append(Note(kind=f"limit-{split}", message=message, count=len(indices) - limit))
            indices = [indices[row] for row in kept]
            source = f"{source}, limited to {limit}"
        parts[split] = Part(
            texts=tuple(part.texts[row] for row in indices),
            labels=tuple(_value(part.labels[row], labels) for row in indices),
            source=source,
        )
    if labels.task in CLASSES and len(set(parts["train"].labels)) < 2:
        raise DataError(
            f"train: {len(parts['train'].labels)} rows are left and all have one label", "raise data.train_limit"
        )
    return parts, notes


def _missing(rows: Mapping[str, Rows], total: int) -> dict[str, int]:
    """How many rows each missing split takes from train, in the order of cutting."""
    if "validation" not in rows and "test" not in rows:
        return {split: math.ceil(share * total) for split, share in SINGLE_FILE_SHARES.items()}
    counts: dict[str, int] = {}
    if "test" not in rows:
        counts["test"] = math.ceil(SINGLE_FILE_SHARES["test"] * total)
    if "validation" not in rows:
        counts["validation"] = min(VALIDATION_ROWS, math.ceil(VALIDATION_SHARE * total))
    return counts


def _cut(train: Rows, rest: Sequence[int], count: int, labels: Labels, seed: int) -> list[int]:
    groups = [text_key(train.texts[row]) for row in rest]
    strata = _strata([train.labels[row] for row in rest], labels)
    return [rest[index] for index in cut(groups, strata, count, seed)]


def _strata(values: Sequence[str], labels: Labels) -> Sequence[str | int]:
    """What is kept in proportion: classes, or bins of numbers; the places of right answers mean nothing."""
    if labels.task in CLASSES:
        return values
    return number_strata([float(value) for value in values]) if labels.task == "regression" else [0] * len(values)


def _value(label: str, labels: Labels) -> str | float:
    return float(label) if labels.task == "regression" else label
