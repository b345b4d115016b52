"""Rows checked one by one before anything is computed: unusable ones are listed by place, oddities counted."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from remora.data.clusters import clusters_of
from remora.data.columns import Columns
from remora.data.kinds import LETTERS, Form
from remora.data.summaries import references_of, source_of
from remora.data.table import BadRow, Cell, Nested, Table, shown
from remora.data.tags import tags_of
from remora.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 10

Texts = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Note:
    """A counted remark about the data that the report shows.

    Args:
        kind: a fixed name, such as ``duplicates``.
        message: the remark as a sentence.
        count: how many rows (or texts) it is about.
    """

    kind: str
    message: str
    count: int


@dataclass(kw_only=True)
class Rows:
    """The usable rows of one split: texts, labels as text, and where each came from."""

    texts: list[Texts] = field(default_factory=list[Texts])
    labels: list[str] = field(default_factory=list[str])
    places: list[str] = field(default_factory=list[str])

    def __len__(self) -> int:
        return len(self.labels)

    def kept(self, rows: Sequence[int]) -> "Rows":
        """Some of them."""
        return Rows(
            texts=[self.texts[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            places=[self.places[row] for row in rows],
        )


@dataclass(kw_only=True)
class Checked:
    """What checking found, over all splits."""

    rows: dict[str, Rows] = field(default_factory=dict[str, Rows])
    bad: list[BadRow] = field(default_factory=list[BadRow])
    counts: Counter[str] = field(default_factory=Counter[str])


def check_split(checked: Checked, split: str, tables: Sequence[Table], columns: Columns, form: Form = "text") -> None:
    """Add the rows of one split.

    Args:
        checked: is added to.
        split: the split's name.
        tables: its files in order.
        columns: which columns to use.
        form: what the text columns hold.

    Raises:
        DataError: not one row of the split has a label.
    """
    rows = checked.rows.setdefault(split, Rows())
    num_labelled = 0
    num_rows = 0
    for table in tables:
        checked.bad.extend(table.bad)
        text_columns = [table.columns[name] for name in columns.text]
        for index, label in enumerate(table.columns[columns.label]):
            num_rows += 1
            cells = tuple(column[index] for column in text_columns)
            texts, wrong = _read[form](cells, columns.text)
            label, problem = _answer(label, texts, columns.label, form)
            num_labelled += problem is None
            problem = wrong if form in ("words", "document", "source") and wrong else problem or wrong
            if problem:
                checked.bad.append(BadRow(place=table.place(index), message=problem))
                continue
            rows.texts.append(tuple(_clean(text, checked.counts) for text in texts))
            rows.labels.append(str(label))
            rows.places.append(table.place(index))
    if num_rows and not num_labelled:
        raise DataError(
            f"{split} ({tables[0].source}): column {columns.label!r} is empty in all {num_rows} rows",
            f"unlabelled text can neither train nor test; set data.{split}=FILE or data.label=COLUMN",
        )


def _answer(label: Cell, texts: Texts, name: str, form: Form) -> tuple[Cell, str | None]:
    """The label of a row as text, and what is wrong with it."""
    if form == "words":
        return tags_of(label, name, len(texts))
    if form == "document":
        return clusters_of(label, name, texts)
    if form == "source":
        return references_of(label, name)
    return label, _label_problem(label)


def _label_problem(label: object) -> str | None:
    if label is None or (isinstance(label, str) and not label.strip()):
        return "no label"
    if isinstance(label, Nested):
        return f"the label is {label.kind}, not a word or a number"
    return "the label holds half a surrogate pair" if _SURROGATE.search(str(label)) else None


def _plain(cells: Sequence[Cell], names: Sequence[str]) -> tuple[Texts, str | None]:
    """The texts of a row, and what is wrong with it."""
    texts: list[str] = []
    for text, name in zip(cells, names, strict=True):
        if text is None:
            return (), f"no value in text column {name!r}"
        if isinstance(text, Nested):
            return (), f"text column {name!r} holds {text.kind}, not text"
        texts.append(text)
    return tuple(texts), None


def _question(cells: Sequence[Cell], names: Sequence[str]) -> tuple[Texts, str | None]:
    """A question and its choices, and what is wrong with them."""
    question, problem = _plain(cells[:1], names[:1])
    if problem:
        return (), problem
    choices, problem = list_of_texts(cells[1], names[1], "choice")
    if problem is None and not 2 <= len(choices) <= len(LETTERS):
        problem = f"the number of choices is {len(choices)}, from 2 to {len(LETTERS)} can be read"
    return (*question, *choices), problem


def _sentence(cells: Sequence[Cell], names: Sequence[str]) -> tuple[Texts, str | None]:
    """The words of a sentence, and what is wrong with them."""
    words, problem = list_of_texts(cells[0], names[0], "word")
    return words, problem or (None if words else f"no word in column {names[0]!r}")


def _document(cells: Sequence[Cell], names: Sequence[str]) -> tuple[Texts, str | None]:
    """The sentences of a document, and what is wrong with them."""
    cell, name = cells[0], names[0]
    if not isinstance(cell, Nested) or cell.items is None:
        found = "nothing" if cell is None else "text" if isinstance(cell, str) else cell.kind
        return (), f"column {name!r} holds {found}, not a list of sentences"
    sentences: list[str] = []
    for number, sentence in enumerate(cell.items, 1):
        words, problem = list_of_texts(sentence, name, "word")
        if problem is None and not words:
            problem = f"no word in column {name!r}"
        broken = next((word for word in words if " " in word), None)
        if broken is not None:
            problem = f"the word {shown(broken)} in column {name!r} holds a blank"
        if problem:
            return (), f"sentence {number} of {len(cell.items)}: {problem}"
        sentences.append(" ".join(words))
    return tuple(sentences), None if sentences else f"no sentence in column {name!r}"


def _source(cells: Sequence[Cell], names: Sequence[str]) -> tuple[Texts, str | None]:
    """The document of a row, and what is wrong with it."""
    return source_of(cells[0], names[0])


def list_of_texts(cell: Cell, name: str, what: str) -> tuple[Texts, str | None]:
    """The texts of a list.

    Args:
        cell: that holds it.
        name: of its column.
        what: one of them is.

    Returns:
        The texts, and what is wrong with them.
    """
    if not isinstance(cell, Nested) or cell.items is None:
        found = "nothing" if cell is None else "text" if isinstance(cell, str) else cell.kind
        return (), f"column {name!r} holds {found}, not a list"
    texts: list[str] = []
    for number, item in enumerate(cell.items, 1):
        if not isinstance(item, str) or not item.strip():
            return (), f"{what} {number} of {len(cell.items)} in column {name!r} is missing"
        texts.append(item)
    return tuple(texts), None


_read: dict[Form, Callable[[Sequence[Cell], Sequence[str]], tuple[Texts, str | None]]] = {
    "text": _plain,
    "choices": _question,
    "words": _sentence,
    "document": _document,
    "source": _source,
}


def _clean(text: str, counts: Counter[str]) -> str:
    """Count what is odd about a text; only half surrogate pairs, which no tokenizer can take, are replaced."""
    if not text.strip():
        counts["empty-text"] += 1
    if "\0" in text:
        counts["nul"] += 1
    if not text.isascii() and _SURROGATE.search(text):
        counts["surrogates"] += 1
        return _SURROGATE.sub("\ufffd", text)
    return text


def settle_bad_rows(bad: Sequence[BadRow], on_bad_rows: str) -> tuple[Note, ...]:
    """Refuse bad rows, or count them where the user said to drop them.

    Args:
        bad: all bad rows of all splits.
        on_bad_rows: ``error`` or ``drop``.

    Returns:
        At most one note.

    Raises:
        DataError: there are bad rows and they are not to be dropped; the first ten are listed with file and line.
    """
    if not bad:
        return ()
    listed = [f"  {row.place}: {row.message}" for row in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        listed.append(f"  and {len(bad) - _SHOWN} more")
    if on_bad_rows == "error":
        count = "1 row" if len(bad) == 1 else f"{len(bad)} rows"
        raise DataError(
            "\n".join([f"{count} cannot be used:", *listed]), "mend them, or leave them out with data.on_bad_rows=drop"
        )
    return (
        Note(
            kind="dropped-rows",
            message=f"{len(bad)} unusable rows were left out, first: {listed[0].strip()}",
            count=len(bad),
        ),
    )


def count_notes(counts: Counter[str]) -> list[Note]:
    """The notes for what was odd about single texts."""
    messages = {
        "empty-text": "texts are empty or blank; they are kept as they are",
        "nul": "texts hold a NUL character; they are kept as they are",
        "surrogates": "texts held half a surrogate pair, replaced by U+FFFD",
    }
    return [
        Note(kind=kind, message=f"{counts[kind]} {text}", count=counts[kind])
        for kind, text in messages.items()
        if counts[kind]
    ]


def text_key(texts: Texts) -> Texts:
    """What two texts (or pairs, in order) must share to count as the same: the text up to Unicode form and blanks."""
    return tuple(" ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split()) for text in texts)


def repeat_notes(rows: dict[str, Rows]) -> list[Note]:
    """Count repeats inside train, texts with several labels, and texts that two splits share."""
    notes: list[Note] = []
    labels_of: defaultdict[Texts, set[str]] = defaultdict(set)
    train = rows["train"]
    for texts, label in zip(train.texts, train.labels, strict=True):
        labels_of[text_key(texts)].add(label)
    repeated = len(train) - len(labels_of)
    if repeated:
        notes.append(
            Note(kind="duplicates", message=f"{repeated} rows of train repeat the text of another row", count=repeated)
        )
    conflicting = sum(len(labels) > 1 for labels in labels_of.values())
    if conflicting:
        message = f"{conflicting} texts occur in train with more than one label"
        notes.append(Note(kind="conflicting-labels", message=message, count=conflicting))
    for split in ("validation", "test"):
        if split in rows:
            shared = sum(text_key(texts) in labels_of for texts in rows[split].texts)
            if shared:
                message = f"{shared} of {len(rows[split])} {split} texts are also in train"
                notes.append(Note(kind=f"overlap-{split}", message=message, count=shared))
    if "validation" in rows and "test" in rows:
        keys = {text_key(texts) for texts in rows["validation"].texts}
        shared = sum(text_key(texts) in keys for texts in rows["test"].texts)
        if shared:
            message = f"{shared} of {len(rows['test'])} test texts are also in validation"
            notes.append(Note(kind="overlap-validation-test", message=message, count=shared))
    return notes


def as_number(label: str) -> float | None:
    """The finite number that a label spells in plain decimal notation, else None."""
    if not re.fullmatch(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*", label, re.ASCII):
        return None
    value = float(label)
    return value if math.isfinite(value) else None
