"""The kinds of task, as far as they decide how rows of data become sequences of tokens."""

from collections.abc import Sequence
from typing import Literal

TaskName = Literal["classification", "regression", "multiple-choice"]

Form = Literal["text", "choices"]
"""What the texts of an example are: one text or a pair; a question with its choices."""

FORMS: dict[TaskName, Form] = {
    "classification": "text",
    "regression": "text",
    "multiple-choice": "choices",
}


def cells(texts: Sequence[str], form: Form) -> Sequence[str | Sequence[str]]:
    """The texts of an example as the columns they came from hold them."""
    return texts if form == "text" else (texts[0], texts[1:])


LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""What the choices of a question are called, in order."""

ABSENT = -1e30
"""A logit where an example has none, as of a fifth choice among four: no probability, yet a finite number."""
