"""Tags of words as files hold them: a list as long as that of the words, each O, B-TYPE or I-TYPE."""

import re

from remora.data.table import Cell, Nested, shown

_TAG = re.compile(r"O|[BI]-\S+")


def tags_of(cell: Cell, name: str, num_words: int) -> tuple[str, str | None]:
    """The tags of a sentence.

    Args:
        cell: that holds their list.
        name: of its column.
        num_words: of the sentence.

    Returns:
        The tags with blanks between them, and what is wrong with them.
    """
    if cell is None:
        return "", "no tags"
    if not isinstance(cell, Nested) or cell.items is None:
        found = "text" if isinstance(cell, str) else cell.kind
        return "", f"column {name!r} holds {found}, not a list"
    if len(cell.items) != num_words:
        return "", f"{num_words} words, but {len(cell.items)} tags in column {name!r}"
    for number, tag in enumerate(cell.items, 1):
        if not isinstance(tag, str) or not _TAG.fullmatch(tag):
            given = shown(tag) if isinstance(tag, str) else "missing"
            return "", f"tag {number} of {num_words} in column {name!r} is {given}, expected O, B-TYPE or I-TYPE"
    return " ".join(str(tag) for tag in cell.items), None
