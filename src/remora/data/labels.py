"""What the labels are: class names or numbers, which classes exist, and whether they can be learnt at all."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from remora.data.check import Note, Rows, as_number, settle_bad_rows
from remora.data.choices import name_answers
from remora.data.clusters import MentionRules
from remora.data.documents import mention_rules
from remora.data.kinds import TaskName
from remora.data.table import BadRow, shown
from remora.data.words import TagScheme, settle_tags
from remora.errors import DataError

_FEW_VALUES = 10
"""Up to this many different fractions still count as classes."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The decision about the labels.

    Args:
        task: what is learnt.
        names: the classes of all splits, sorted; empty where there are none.
        notes: counted remarks.
        mentions: of coreference, what mentions are like.
    """

    task: TaskName
    names: tuple[str, ...]
    notes: tuple[Note, ...]
    mentions: MentionRules | None = None


def decide_labels(rows: dict[str, Rows], wanted: str, on_bad_rows: str, tag_scheme: TagScheme = "bio") -> Labels:
    """Decide between classes and numbers and check that the labels can be used.

    Args:
        rows: the checked rows of each split; with ``drop``, rows whose label is no number leave them.
        wanted: the kind of task, or ``auto`` for classes or numbers.
        on_bad_rows: ``error`` or ``drop``.
        tag_scheme: of tags, where words have them.

    Returns:
        The decision.

    Raises:
        DataError: one class only, labels that are all different, numbers expected and not found, or a test split with
            mostly unknown classes.
    """
    if wanted == "multiple-choice":
        return Labels(task="multiple-choice", names=(), notes=name_answers(rows, on_bad_rows))
    if wanted == "summarization":
        return Labels(task="summarization", names=(), notes=())
    if wanted == "coreference":
        rules, notes = mention_rules(rows)
        return Labels(task="coreference", names=(), notes=notes, mentions=rules)
    if wanted == "token-classification":
        notes = settle_tags(rows, tag_scheme, on_bad_rows)
        names = sorted({tag for part in rows.values() for label in part.labels for tag in label.split(" ")})
        return Labels(task="token-classification", names=tuple(names), notes=notes)
    if wanted == "prompt-classification":
        return replace(_classes(rows), task="prompt-classification")
    if wanted == "regression" or (wanted == "auto" and _looks_like_numbers(rows["train"].labels)):
        return _numbers(rows, on_bad_rows, decided=wanted == "auto")
    return _classes(rows)


def _looks_like_numbers(labels: list[str]) -> bool:
    """Many different numbers, some with a fraction. Whole numbers are classes, however many there are."""
    values = [as_number(label) for label in labels]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return False
    return any(value != round(value) for value in numbers) and len(set(numbers)) > _FEW_VALUES


def _numbers(rows: dict[str, Rows], on_bad_rows: str, *, decided: bool) -> Labels:
    wrong: list[BadRow] = []
    for split, part in rows.items():
        keep: list[int] = []
        for row, label in enumerate(part.labels):
            if as_number(label) is None:
                wrong.append(BadRow(place=part.places[row], message=f"the label {shown(label)} is not a finite number"))
            else:
                keep.append(row)
        if len(keep) < len(part):
            rows[split] = part.kept(keep)
    notes = list(settle_bad_rows(wrong, on_bad_rows))
    for split, part in rows.items():
        if not len(part):
            raise DataError(f"{split}: no row has a number as label", "set data.task=classification")
    values = [float(label) for label in rows["train"].labels]
    if len(set(values)) == 1:
        raise DataError(
            f"train: all {len(values)} rows have the label {shown(rows['train'].labels[0])}",
            "there is nothing to learn",
        )
    if decided:
        message = f"labels are read as numbers ({len(set(values))} values); set data.task=classification for classes"
        notes.append(Note(kind="task", message=message, count=len(values)))
    mean, spread = fmean(values), pstdev(values)
    if abs(mean) > 10 or spread > 10 or spread < 0.05:
        message = (
            f"labels have mean {mean:.4g} and standard deviation {spread:.4g}; "
            "the usual learning rates suit a scale of about 0 to 5"
        )
        notes.append(Note(kind="label-scale", message=message, count=len(values)))
    return Labels(task="regression", names=(), notes=tuple(notes))


def _classes(rows: Mapping[str, Rows]) -> Labels:
    train = rows["train"]
    known = set(train.labels)
    if len(known) == 1:
        raise DataError(
            f"train: all {len(train)} rows have the label {shown(train.labels[0])}",
            "there is nothing to learn; check data.label",
        )
    if len(train) >= 20 and len(known) > len(train) / 2:
        numbers = all(as_number(label) is not None for label in known)
        raise DataError(
            f"train: {len(known)} different labels in {len(train)} rows, first {shown(train.labels[0])}",
            "set data.task=regression" if numbers else "this does not look like classes; set data.label=COLUMN",
        )
    notes: list[Note] = []
    for split, part in rows.items():
        unseen = [row for row, label in enumerate(part.labels) if label not in known]
        if not unseen:
            continue
        listed = ", ".join(sorted({shown(part.labels[row]) for row in unseen})[:5])
        first = part.places[unseen[0]]
        if len(unseen) * 2 > len(part):
            raise DataError(
                f"{split}: {len(unseen)} of {len(part)} rows have labels that train lacks: {listed} (first: {first})",
                f"train has {', '.join(map(shown, sorted(known)[:5]))}; are the classes written alike in all files?",
            )
        message = (
            f"{len(unseen)} {split} rows have labels that train lacks ({listed}; first: {first}); they count as errors"
        )
        notes.append(Note(kind="unseen-labels", message=message, count=len(unseen)))
    names = tuple(sorted({label for part in rows.values() for label in part.labels}))
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[" ".join(name.casefold().split())].append(name)
    near = [group for group in alike.values() if len(group) > 1]
    if near:
        message = (
            f"classes differ only by case or blanks: {'; '.join(' and '.join(map(shown, group)) for group in near[:5])}"
        )
        notes.append(Note(kind="near-labels", message=message, count=len(near)))
    return Labels(task="classification", names=names, notes=tuple(notes))
