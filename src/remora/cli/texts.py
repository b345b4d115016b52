"""Texts to label: from options, plain lines, tables or standard input."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from remora.data.kinds import Form
from remora.data.table import Cell, Nested
from remora.errors import DataError

Text = str | tuple[str, str] | tuple[str, tuple[str, ...]] | tuple[str, ...]
"""A text, the two of a pair, a question and its choices, the words of a sentence, or the sentences of a document."""


def texts_from_options(texts: Sequence[str], pairs: Sequence[str], form: Form = "text") -> list[Text]:
    """Combine ``--text`` with ``--pair``, its second sentence or the choices of a question; all are a document's.

    Raises:
        DataError: some but not all texts have a second sentence, or several questions share choices.
    """
    if form in ("words", "document") and pairs:
        raise DataError("--pair has no meaning where words are read", "give each sentence with --text")
    if form == "document":
        return [tuple(texts)]
    if form == "choices":
        if len(texts) != 1:
            raise DataError("give one question with --text and each of its choices with --pair", "use --file for more")
        return [(texts[0], tuple(pairs))]
    if pairs and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} --text but {len(pairs)} --pair", "give one --pair for each --text, in order")
    return list(zip(texts, pairs, strict=True)) if pairs else list(texts)


def texts_from_file(path: Path, columns: Sequence[str], form: Form = "text") -> list[Text]:
    """Read texts from a file: ``.txt`` holds one text per line, all else is a table.

    Args:
        path: the file.
        columns: the text column, or the two of a pair, or of a question and its choices.
        form: what they hold.

    Raises:
        DataError: unreadable, a column is missing, or a row cannot be used.
    """
    from remora.data.read import read_bytes, read_table

    if path.suffix.lower() == ".txt":
        try:
            text = read_bytes(path).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 at byte {error.start}", "save it as UTF-8") from error
        return texts_from_lines(text.splitlines(), columns, str(path), form)
    table = read_table(path)
    _require(columns, table.columns, str(path))
    bad = [f"{row.place}: {row.message}" for row in table.bad]
    found: list[Text] = []
    for number, cells in enumerate(zip(*(table.columns[column] for column in columns), strict=True)):
        text = _text(cells, form)
        if text is None:
            bad.append(f"{table.place(number)}: {_LACKS[form]}")
        else:
            found.append(text)
    if bad:
        raise DataError("\n".join(bad[:20]) + (f"\n... and {len(bad) - 20} more" if len(bad) > 20 else ""))
    return found


def texts_from_stream(stream: IO[str], columns: Sequence[str], form: Form = "text") -> list[Text]:
    """Read texts from standard input: JSON objects, one per line, when the first line is one, else plain lines."""
    return texts_from_lines(stream.read().splitlines(), columns, "standard input", form)


def texts_from_lines(lines: Sequence[str], columns: Sequence[str], origin: str, form: Form = "text") -> list[Text]:
    """Texts of lines: plain ones, or JSON objects with the columns when the first filled line is an object.

    Plain lines are the sentences of one document where documents are read.

    Raises:
        DataError: a line that is no object where the first was, lacks a column, or pairs given as plain lines.
    """
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled or _object(filled[0][1]) is None:
        if len(columns) > 1 and filled:
            raise DataError(
                f"{origin}: the adapter reads pairs of texts, a plain line holds one",
                f"give JSON lines with {' and '.join(columns)}, or a table",
            )
        return [tuple(line for _, line in filled)] if form == "document" and filled else list(lines)
    found: list[Text] = []
    for number, line in filled:
        record = _object(line)
        if record is None:
            raise DataError(f"{origin}:{number}: no JSON object, unlike the first line")
        _require(columns, record, f"{origin}:{number}")
        text = _text([_cell(record[column]) for column in columns], form)
        if text is None:
            first = next((column for column in columns if not isinstance(record[column], str)), columns[-1])
            wrong = f"{first!r} is no text" if form == "text" else _LACKS[form]
            raise DataError(f"{origin}:{number}: {wrong}")
        found.append(text)
    return found


def _object(line: str) -> dict[str, object] | None:
    try:
        value: object = json.loads(line)
    except ValueError:
        return None
    return {str(key): part for key, part in value.items()} if isinstance(value, dict) else None


def _require(columns: Sequence[str], found: Mapping[str, object], origin: str) -> None:
    missing = [column for column in columns if column not in found]
    if missing:
        raise DataError(
            f"{origin}: there is no {missing[0]!r}; found {', '.join(found)}",
            "name the column that holds the text with --column",
        )


_LACKS: dict[Form, str] = {
    "text": "no text",
    "choices": "no question with a list of choices",
    "words": "no words",
    "document": "no list of sentences",
    "source": "no text",
}


def _cell(value: object) -> Cell:
    """A value of a JSON object as a table has it."""
    if isinstance(value, list):
        return Nested(kind="list", items=tuple(map(_cell, value)))
    return value if isinstance(value, str) else None


def _text(cells: Sequence[Cell], form: Form) -> Text | None:
    """The texts of a row; None where one is missing."""
    if form == "choices":
        question, choices = cells
        listed = choices.items if isinstance(choices, Nested) else None
        texts = tuple(choice for choice in listed or () if isinstance(choice, str))
        return (question, texts) if isinstance(question, str) and listed and len(texts) == len(listed) else None
    if form == "words" and isinstance(cells[0], Nested):
        return _words(cells[0])
    if form == "document":
        items = (cells[0].items if isinstance(cells[0], Nested) else None) or ()
        sentences = [words for item in items if (words := _words(item)) is not None]
        return tuple(map(" ".join, sentences)) if items and len(sentences) == len(items) else None
    parts = [cell for cell in cells if isinstance(cell, str)]
    if len(parts) < len(cells):
        return None
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _words(cell: Cell) -> tuple[str, ...] | None:
    """The words of a list; None where there are none."""
    items = (cell.items if isinstance(cell, Nested) else None) or ()
    words = tuple(word for word in items if isinstance(word, str) and word.strip())
    return words if words and len(words) == len(items) else None
