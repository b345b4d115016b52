"""The kinds of task, as far as they decide how rows of data become sequences of tokens."""

import json
from collections.abc import Sequence
from typing import Any, Literal

TaskName = Literal[
    "classification",
    "regression",
    "multiple-choice",
    "token-classification",
    "coreference",
    "prompt-classification",
    "summarization",
]

Form = Literal["text", "choices", "words", "document", "source"]
"""What the texts of an example are: one text or a pair; a question with its choices; the words of a sentence; the
sentences of a document, each its words with blanks between them; the source of a summary, a document as one text."""

FORMS: dict[TaskName, Form] = {
    "classification": "text",
    "regression": "text",
    "multiple-choice": "choices",
    "token-classification": "words",
    "coreference": "document",
    "prompt-classification": "text",
    "summarization": "source",
}

CLASSES = ("classification", "prompt-classification")
"""Kinds of task with one class per example."""


def cells(texts: Sequence[str], form: Form) -> Sequence[str | Sequence[str] | Sequence[Sequence[str]]]:
    """The texts of an example as the columns they came from hold them."""
    if form == "words":
        return (texts,)
    if form == "document":
        return ([text.split(" ") for text in texts],)
    return (texts[0], texts[1:]) if form == "choices" else texts


def answer(label: str | float, form: Form) -> Any:
    """The label of an example as the column it came from holds it."""
    if form in ("document", "source"):
        return json.loads(str(label))
    return str(label).split(" ") if form == "words" else label


LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""What the choices of a question are called, in order."""

ABSENT = -1e30
"""A logit where an example has none, as of a fifth choice among four: no probability, yet a finite number."""
