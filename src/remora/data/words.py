"""The tags of sentences checked against BIO, or brought to it from IOB1."""

from collections.abc import Sequence
from typing import Literal

from remora.data.check import Note, Rows, settle_bad_rows
from remora.data.spans import OUTSIDE
from remora.data.table import BadRow, shown
from remora.errors import DataError

TagScheme = Literal["bio", "iob1"]


def settle_tags(rows: dict[str, Rows], scheme: TagScheme, on_bad_rows: str) -> tuple[Note, ...]:
    """Check that every I-X continues an entity, or let it begin one where the scheme is IOB1.

    Args:
        rows: the checked rows of each split; labels are replaced, and with ``drop`` rows out of order leave.
        scheme: of the tags: under IOB1, B-X stands only where an entity follows one of its own type.
        on_bad_rows: ``error`` or ``drop``.

    Returns:
        Counted remarks.

    Raises:
        DataError: tags out of order under BIO, with file and line; or nothing is tagged at all.
    """
    wrong: list[BadRow] = []
    changed = 0
    for split, part in rows.items():
        kept: list[int] = []
        for row, label in enumerate(part.labels):
            tags = label.split(" ")
            begins = [place for place in range(len(tags)) if _begins(tags, place)]
            if begins and scheme == "bio":
                wrong.append(BadRow(place=part.places[row], message=_out_of_order(tags, begins[0], part.texts[row])))
                continue
            kept.append(row)
            changed += len(begins)
            part.labels[row] = " ".join(f"B-{tag[2:]}" if place in begins else tag for place, tag in enumerate(tags))
        if len(kept) < len(part):
            rows[split] = part.kept(kept)
    notes = list(settle_bad_rows(wrong, on_bad_rows))
    for split, part in rows.items():
        if not len(part):
            raise DataError(
                f"{split}: no row has usable tags", "set data.tag_scheme=iob1 if an entity may begin with I-"
            )
    if all(set(label.split(" ")) == {OUTSIDE} for label in rows["train"].labels):
        raise DataError("train: no word is part of an entity", "there is nothing to learn; check data.label")
    if changed:
        message = f"{changed} tags I-X that begin an entity are read as B-X (data.tag_scheme=iob1)"
        notes.append(Note(kind="tag-scheme", message=message, count=changed))
    return tuple(notes)


def _begins(tags: Sequence[str], place: int) -> bool:
    """Whether an I-X continues nothing."""
    if not tags[place].startswith("I-"):
        return False
    return place == 0 or tags[place - 1][2:] != tags[place][2:]


def _out_of_order(tags: Sequence[str], place: int, words: Sequence[str]) -> str:
    where = f"word {place + 1} {shown(words[place])} is tagged {tags[place]}"
    before = f"after {tags[place - 1]}" if place else "at the start of a sentence"
    return f"{where} {before}, which continues no entity; data.tag_scheme=iob1 reads it as B-{tags[place][2:]}"
