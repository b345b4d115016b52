"""Which of its choices answers a question: letters, numbers or the answer's own text, read as letters throughout."""

from collections.abc import Callable, Sequence

from remora.data.check import Note, Rows, Texts, settle_bad_rows
from remora.data.kinds import LETTERS
from remora.data.table import BadRow, shown
from remora.errors import DataError


def _by_text(label: str, choices: Sequence[str]) -> int | None:
    return choices.index(label) if choices.count(label) == 1 else None


def _by_letter(label: str, choices: Sequence[str]) -> int | None:
    known = LETTERS[: len(choices)]
    return known.index(label.strip()) if label.strip() in known else None


def _by_number(first: int) -> Callable[[str, Sequence[str]], int | None]:
    def place(label: str, choices: Sequence[str]) -> int | None:
        digits = label.strip()
        found = int(digits) - first if digits.isascii() and digits.isdecimal() else -1
        return found if 0 <= found < len(choices) else None

    return place


_WAYS: dict[str, Callable[[str, Sequence[str]], int | None]] = {
    "letters": _by_letter,
    "the texts of choices": _by_text,
    "numbers of choices counted from 0": _by_number(0),
    "numbers of choices counted from 1": _by_number(1),
}
"""Ways to name a choice, the likelier first: it is that which fits most rows of train."""


def name_answers(rows: dict[str, Rows], on_bad_rows: str) -> tuple[Note, ...]:
    """Write every label as the letter of the choice that it names.

    Args:
        rows: the checked rows of each split; labels are replaced, and with ``drop`` rows without an answer leave.
        on_bad_rows: ``error`` or ``drop``.

    Returns:
        Counted remarks.

    Raises:
        DataError: labels that name none of a question's choices, with file and line.
    """
    train = rows["train"]
    fits = {way: sum(map(_names_one(way), train.texts, train.labels)) for way in _WAYS}
    way = max(fits, key=lambda name: fits[name])
    wrong: list[BadRow] = []
    for split, part in rows.items():
        places = [_WAYS[way](label, texts[1:]) for texts, label in zip(part.texts, part.labels, strict=True)]
        wrong += [
            BadRow(place=part.places[row], message=_outside(part.labels[row], len(part.texts[row]) - 1, way))
            for row, place in enumerate(places)
            if place is None
        ]
        kept = [row for row, place in enumerate(places) if place is not None]
        rows[split] = part.kept(kept)
        rows[split].labels = [LETTERS[place] for place in places if place is not None]
    notes = list(settle_bad_rows(wrong, on_bad_rows))
    for split, part in rows.items():
        if not len(part):
            raise DataError(f"{split}: no row has a label that names one of its choices", "check data.label")
    if way != "letters":
        notes.append(Note(kind="task", message=f"labels are read as {way}", count=len(train)))
    repeated = sum(len(set(texts[1:])) < len(texts) - 1 for part in rows.values() for texts in part.texts)
    if repeated:
        message = f"{repeated} questions offer the same choice twice"
        notes.append(Note(kind="repeated-choices", message=message, count=repeated))
    return tuple(notes)


def _names_one(way: str) -> Callable[[Texts, str], bool]:
    return lambda texts, label: _WAYS[way](label, texts[1:]) is not None


def _outside(label: str, number: int, way: str) -> str:
    known = f" (A to {LETTERS[number - 1]})" if way == "letters" else ""
    return f"the label {shown(label)} names none of the {number} choices{known}; labels are read as {way}"
