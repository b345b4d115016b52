"""A data set ready for training: checked rows in three named, hashed splits, and what is worth knowing about them."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from remora.config.schema import DataConfig, TaskKind
from remora.data.cards import Card, load_card
from remora.data.check import Checked, Note, Rows, check_split, count_notes, repeat_notes, settle_bad_rows
from remora.data.clusters import MentionRules
from remora.data.columns import Columns, choice_columns, document_columns, find_columns, word_columns
from remora.data.gap import marked
from remora.data.hub import read_hub
from remora.data.kinds import CLASSES, FORMS, TaskName
from remora.data.labels import Labels, decide_labels
from remora.data.metric_names import choose_metrics, validation_metric
from remora.data.partition import Part, partition
from remora.data.read import read_table
from remora.data.sources import find_files
from remora.data.spans import types
from remora.data.summaries import with_references
from remora.data.table import Nested, Table
from remora.errors import DataError

__all__ = ["Dataset", "Note", "Split", "assemble", "load_dataset"]


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a data set.

    Args:
        name: ``train``, ``validation`` or ``test``.
        texts: per row one text, or two for a pair; or a question and its choices; or the words of a sentence; or
            the sentences of a document; or the one text of a document to summarize.
        labels: per row a class name (str) or a number (float); or the letter of the right choice; or the words' tags
            with blanks between them; or the clusters of a document as JSON (`data.clusters`), or its references
            (`data.summaries`).
        source: where the rows come from, in words.
        hash: SHA-256 over texts and labels in order, hexadecimal.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str | float, ...]
    source: str
    hash: str

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled text in three splits.

    Args:
        name: of the file, folder, card or Hub id.
        task: its kind.
        text_columns: one name, or two for a pair or for a question and its choices.
        label_column: the label's column.
        label_names: the classes, sorted; empty where there are none. Class index = position here.
        metric: the headline metric.
        metrics: all metrics, headline first.
        positive: the class of the metric ``f1``; None without one.
        splits: ``train``, ``validation`` and ``test``.
        notes: counted remarks, also on rows beyond the limits.
        card: the name of the card that applied, or None.
        hash: SHA-256 over the splits' hashes, the task and the classes.
        mentions: of coreference, what train shows of mentions.
        label_places: where each class occurs first, such as ``train.csv:17``.
    """

    name: str
    task: TaskName
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    positive: str | None
    splits: Mapping[str, Split]
    notes: tuple[Note, ...]
    card: str | None
    hash: str
    mentions: MentionRules | None = None
    label_places: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def train(self) -> Split:
        """The training rows."""
        return self.splits["train"]

    @property
    def validation(self) -> Split:
        """The rows that choose hyperparameters."""
        return self.splits["validation"]

    @property
    def test(self) -> Split:
        """The rows that are looked at once, at the end."""
        return self.splits["test"]

    @property
    def validation_metric(self) -> str:
        """The metric on validation that chooses hyperparameters and checkpoints."""
        return validation_metric(self.task, self.metric)

    def label_counts(self, split: str) -> dict[str, int]:
        """Rows per class of a split, or words per tag, in the order of ``label_names``; empty where there are none."""
        labels = self.splits[split].labels
        if self.task == "token-classification":
            labels = [tag for label in labels for tag in str(label).split(" ")]
        counts = Counter(labels)
        return {name: counts[name] for name in self.label_names}


def load_dataset(config: DataConfig) -> Dataset:
    """Read, check, split and limit a data set.

    Args:
        config: where the data are and how to read them.

    Returns:
        The data set.

    Raises:
        DataError: files, columns, rows or labels that cannot be used; all bad rows are known before this returns.
        ResourceError: a Hub id without the extra ``hub``.
    """
    files = find_files(config)
    if files is None:
        name, hub_tables, card = read_hub(config)
        return assemble(name, hub_tables, config, card)
    tables = {split: [read_table(path) for path in paths] for split, paths in files.splits.items()}
    return assemble(files.name, tables, config, load_card(files.card) if files.card else None)


def assemble(name: str, tables: Mapping[str, Sequence[Table]], config: DataConfig, card: Card | None) -> Dataset:
    """Make a data set of tables that are in memory.

    Args:
        name: the data set's name.
        tables: split name to tables; ``train`` at least. Missing splits are cut from train.
        config: columns, task, limits.
        card: a card that applies if its columns and classes fit, or None.

    Returns:
        The data set.

    Raises:
        DataError: columns, rows or labels that cannot be used.
    """
    names = {split: _shared_columns(split, group) for split, group in tables.items()}
    notes: list[Note] = []
    if card and not _columns_fit(card, names, config):
        if config.local is not None and config.text is None and config.label is None:
            raise DataError(
                f"data.local: {config.local} does not have the columns {', '.join((*card.text, card.label))} "
                f"of the data set {card.name!r}",
                "name its own with data.text=COLUMN and data.label=COLUMN; the card goes unused then",
            )
        notes.append(
            Note(kind="card", message=f"the card {card.name!r} does not fit the columns and is not used", count=1)
        )
        card = None
    wanted = card.kind if card and config.task == "auto" else config.task
    if card and card.task == "pronoun-resolution":
        tables = {split: [marked(table) for table in group] for split, group in tables.items()}
    if card and "references" in card.roles:
        role = card.roles["references"]
        tables = {
            split: [with_references(table, card.label, role) for table in group] for split, group in tables.items()
        }
    if wanted == "auto":
        wanted = _kind_by_columns(tables["train"][0], config)
    form = FORMS["classification" if wanted == "auto" else wanted]
    columns = (
        find_columns(names, config.text or card.text, config.label or card.label, form)
        if card
        else find_columns(names, config.text, config.label, form)
    )
    checked = Checked()
    for split, group in tables.items():
        check_split(checked, split, group, columns, form)
    notes += [*settle_bad_rows(checked.bad, config.on_bad_rows), *count_notes(checked.counts)]
    for split, rows in checked.rows.items():
        if not len(rows):
            raise DataError(f"{split} ({tables[split][0].source}): no usable rows")
    labels = decide_labels(checked.rows, wanted, config.on_bad_rows, config.tag_scheme)
    kind = "classification" if labels.task in CLASSES else labels.task
    if card and (kind != card.kind or (card.labels and set(card.labels) != set(labels.names))):
        message = f"the card {card.name!r} has another task or other classes and is not used"
        notes.append(Note(kind="card", message=message, count=1))
        card = None
    notes += labels.notes
    notes += repeat_notes(checked.rows)
    parts, part_notes = partition(
        checked.rows, labels, config, {split: _without_folder(group[0].source) for split, group in tables.items()}
    )
    notes += part_notes
    dataset = _finish(name, columns, labels, parts, config, card, notes)
    return replace(dataset, label_places=_first_places(checked.rows) if labels.names else {})


def subset(split: Split, rows: Sequence[int], source: str) -> Split:
    """Some rows of a split.

    Args:
        split: it is not changed.
        rows: their numbers, in order.
        source: where they come from, in words.
    """
    texts, labels = tuple(split.texts[row] for row in rows), tuple(split.labels[row] for row in rows)
    return Split(name=split.name, texts=texts, labels=labels, source=source, hash=_hash(texts, labels))


def _first_places(rows: Mapping[str, Rows]) -> dict[str, str]:
    """Where each label is written first, in train if it is there."""
    found: dict[str, str] = {}
    for part in sorted(rows, key=lambda split: split != "train"):
        for label, place in zip(rows[part].labels, rows[part].places, strict=True):
            found.setdefault(label, place)
    return found


def _finish(
    name: str,
    columns: Columns,
    labels: Labels,
    parts: Mapping[str, Part],
    config: DataConfig,
    card: Card | None,
    notes: Sequence[Note],
) -> Dataset:
    positive = card.positive if card and card.positive in labels.names else None
    metrics = choose_metrics(
        task=labels.task,
        wanted=config.metric,
        card=(card.metric, *card.metrics) if card else (),
        label_names=types(labels.names) if labels.task == "token-classification" else labels.names,
        positive=positive,
    )
    splits = {
        split: Split(
            name=split, texts=part.texts, labels=part.labels, source=part.source, hash=_hash(part.texts, part.labels)
        )
        for split, part in parts.items()
    }
    digest = hashlib.sha256(
        "\n".join([labels.task, *labels.names, *(split.hash for split in splits.values())]).encode()
    )
    return Dataset(
        name=name,
        task=labels.task,
        text_columns=columns.text,
        label_column=columns.label,
        label_names=labels.names,
        metric=metrics[0],
        metrics=metrics,
        positive=positive,
        splits=splits,
        notes=tuple(notes),
        card=card.name if card else None,
        hash=digest.hexdigest(),
        mentions=labels.mentions,
    )


def _hash(texts: Sequence[tuple[str, ...]], labels: Sequence[str | float]) -> str:
    digest = hashlib.sha256()
    for row, label in zip(texts, labels, strict=True):
        for part in (*row, label if isinstance(label, str) else repr(label)):
            data = part.encode()
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _without_folder(source: str) -> str:
    """A file's name alone: results are passed on, and where the data lay is nobody else's business."""
    return Path(source).name if Path(source).is_file() else source


def _shared_columns(split: str, tables: Sequence[Table]) -> list[str]:
    """The columns of a split, which all its files must have."""
    first = list(tables[0].columns)
    for table in tables[1:]:
        if set(table.columns) != set(first):
            raise DataError(f"{split}: {table.source} has other columns than {tables[0].source}")
    return first


def _kind_by_columns(table: Table, config: DataConfig) -> TaskKind:
    """The kind of task that lists in the columns given, or in the usual ones, speak of; else not decided yet."""
    question = tuple(config.text or choice_columns(table.columns) or ())
    if len(question) == 2 and _holds_lists(table, question[1]):
        return "multiple-choice"
    usual = document_columns(table.columns) or ("", "")
    sentences = tuple(config.text or usual[:1])
    if len(sentences) == 1 and _holds_lists(table, sentences[0], of_lists=True):
        return "coreference" if _holds_lists(table, config.label or usual[1]) else "auto"
    usual = word_columns(table.columns) or ("", "")
    words = tuple(config.text or usual[:1])
    if len(words) == 1 and _holds_lists(table, words[0]) and _holds_lists(table, config.label or usual[1]):
        return "token-classification"
    return "auto"


def _holds_lists(table: Table, name: str, *, of_lists: bool = False) -> bool:
    lists = [cell.items for cell in table.columns.get(name, ()) if isinstance(cell, Nested) and cell.items is not None]
    return any(isinstance(item, Nested) for items in lists for item in items) if of_lists else bool(lists)


def _columns_fit(card: Card, names: Mapping[str, Sequence[str]], config: DataConfig) -> bool:
    wanted = (*(config.text or card.text), config.label or card.label)
    fits = all(name in columns for columns in names.values() for name in wanted)
    return fits and (config.text or card.text) == card.text and (config.label or card.label) == card.label
