"""Which columns hold the text and the label: as given, as a card says, or by the usual names."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from remora.data.kinds import Form
from remora.data.table import shown
from remora.errors import DataError

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "passage"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("text_a", "text_b"),
)
SINGLES = (
    "text", "sentence", "review", "tweet", "message", "content", "comment", "utterance", "body", "document", "question",
)  # fmt: skip
LABELS = ("label", "labels", "class", "category", "intent", "sentiment", "target", "score", "rating")
QUESTIONS = ("question", "prompt", "context")
CHOICES = ("choices", "options", "endings")
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "label")
SENTENCES = ("sentences",)
CLUSTERS = ("clusters",)
SOURCES = ("document", "dialogue", "article", "text")
SUMMARIES = ("summary", "highlights", "abstract")
ANSWERS = ("label", "answer", "answerkey", "answer_key", "target")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The text column (or that of words or sentences), or the two of a pair (or of a question), and that of labels."""

    text: tuple[str, ...]
    label: str


def choice_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The usual columns of a question and its choices, if both are there."""
    by_name = {name.strip().lower(): name for name in names}
    question = next((by_name[usual] for usual in QUESTIONS if usual in by_name), None)
    choices = next((by_name[usual] for usual in CHOICES if usual in by_name), None)
    return None if question is None or choices is None else (question, choices)


def word_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The usual columns of words and their tags, if both are there."""
    return _both(names, WORDS, TAGS)


def document_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The usual columns of a document's sentences and its clusters, if both are there."""
    return _both(names, SENTENCES, CLUSTERS)


def summary_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """The usual columns of documents and their summaries, if both are there."""
    return _both(names, SOURCES, SUMMARIES)


def _both(names: Iterable[str], texts: Sequence[str], labels: Sequence[str]) -> tuple[str, str] | None:
    by_name = {name.strip().lower(): name for name in names}
    text = next((by_name[usual] for usual in texts if usual in by_name), None)
    label = next((by_name[usual] for usual in labels if usual in by_name), None)
    return None if text is None or label is None else (text, label)


def find_columns(
    names: Mapping[str, Sequence[str]],
    text: Sequence[str] | None = None,
    label: str | None = None,
    form: Form = "text",
) -> Columns:
    """Find the columns that every split has.

    Args:
        names: split name to its column names; all splits must agree on the columns used.
        text: the text columns when given.
        label: the label column when given.
        form: what the text columns hold.

    Returns:
        The columns.

    Raises:
        DataError: a given column is missing, the usual names are not there, or a split lacks a column of train's.
    """
    train = list(names["train"])
    for wanted in text or ():
        _require(wanted, names)
    if label:
        _require_label(label, names)
    if text is not None and (len(text) not in (1, 2) or len(set(text)) != len(text)):
        raise DataError(
            f"data.text names {len(text)} columns: {', '.join(text)}",
            "give one text column, or two different ones for a pair",
        )
    if form == "choices":
        text, label = _of_choices(train, text, label)
    elif form == "words":
        text, label = _of_one(
            train, text, label, word_columns(train), "words and their tags", "text=WORDS and data.label=TAGS"
        )
    elif form == "document":
        what, hint = "sentences and clusters", "text=SENTENCES and data.label=CLUSTERS"
        text, label = _of_one(train, text, label, document_columns(train), what, hint)
    elif form == "source":
        what, hint = "documents and their summaries", "text=DOCUMENT and data.label=SUMMARY"
        text, label = _of_one(train, text, label, summary_columns(train), what, hint)
    found_label = label or _find_label(train, text or ())
    found_text = tuple(text) if text else find_text([name for name in train if name != found_label], train)
    if found_label in found_text:
        raise DataError(f"column {found_label!r} is both text and label", "set data.text and data.label")
    for name in found_text:
        _require(name, names)
    _require_label(found_label, names)
    return Columns(text=found_text, label=found_label)


def _of_choices(columns: Sequence[str], text: Sequence[str] | None, label: str | None) -> tuple[Sequence[str], str]:
    """Question, choices and answer, where they are not given."""
    found = text or choice_columns(columns)
    if found is None or len(found) != 2:
        raise DataError(
            f"no columns of a question and its choices among {_listed(columns)}", "set data.text=[QUESTION,CHOICES]"
        )
    by_name = {name.strip().lower(): name for name in columns if name not in found}
    usual = (by_name[answer] for answer in ANSWERS if answer in by_name)
    return found, label or next(usual, None) or _find_label(columns, found)


def _of_one(
    columns: Sequence[str],
    text: Sequence[str] | None,
    label: str | None,
    usual: tuple[str, str] | None,
    what: str,
    hint: str,
) -> tuple[Sequence[str], str]:
    """One column of texts and that of labels, where they are not given."""
    found = text or (usual and usual[:1])
    labels = label or (usual and usual[1])
    if not found or len(found) != 1 or not labels:
        raise DataError(f"no columns of {what} among {_listed(columns)}", f"set data.{hint}")
    return found, labels


def _require(wanted: str, names: Mapping[str, Sequence[str]]) -> None:
    for split, columns in names.items():
        if wanted not in columns:
            near = get_close_matches(wanted, columns, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"set data.text and data.label; there are {_listed(columns)}"
            )
            raise DataError(f"{split}: there is no column {wanted!r}", hint)


def _require_label(wanted: str, names: Mapping[str, Sequence[str]]) -> None:
    for split in ("validation", "test"):
        if wanted in names["train"] and wanted not in names.get(split, (wanted,)):
            raise DataError(
                f"{split}: there is no column {wanted!r}, only {_listed(names[split])}",
                f"unlabelled text cannot be scored; set data.{split}=FILE to labelled rows",
            )
    _require(wanted, names)


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(shown, list(columns)[:20])) or "none"


def _find_label(columns: Sequence[str], text: Sequence[str]) -> str:
    by_name = {name.strip().lower(): name for name in columns if name not in text}
    for usual in LABELS:
        if usual in by_name:
            return by_name[usual]
    rest = [name for name in columns if name not in text]
    if text and len(rest) == 1:
        return rest[0]
    raise DataError(
        f"no label column found among {_listed(columns)}",
        "set data.label=COLUMN; unlabelled text cannot be trained on, and the first line of CSV and TSV names columns",
    )


def find_text(candidates: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The text column, or the two of a pair, by the usual names.

    Args:
        candidates: names that it may be.
        columns: all names, for the message.

    Raises:
        DataError: none has a usual name, and there are several.
    """
    by_name = {name.strip().lower(): name for name in candidates}
    for pair in PAIRS:
        if all(name in by_name for name in pair):
            return tuple(by_name[name] for name in pair)
    for usual in SINGLES:
        if usual in by_name:
            return (by_name[usual],)
    if len(candidates) == 1:
        return (candidates[0],)
    raise DataError(
        f"no text column found among {_listed(columns)}",
        "set data.text=COLUMN, or data.text=[FIRST,SECOND] for a pair",
    )
