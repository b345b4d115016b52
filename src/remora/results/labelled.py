"""The file of labelled texts: what was read, the label, its confidence, the probability of every class, the truth."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Literal

from remora.results.spreadsheets import neutral

LabelledFormat = Literal["jsonl", "csv"]


def labelled_text(
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    labels: Sequence[str],
    scores: Sequence[Mapping[str, float]],
    truths: Sequence[str] | None,
    format: LabelledFormat,
) -> str:
    """The content of the file, texts as they were read, but for formulas in CSV.

    Args:
        columns: names of the text columns.
        texts: per row.
        labels: per row; the confidence is this class's probability.
        scores: per row the probability of every class, the same classes in all rows.
        truths: per row the true label, where they are known.
        format: JSON Lines, or CSV with a column ``score:CLASS`` per class; see `neutral` for texts in it.
    """
    rows: list[dict[str, object]] = []
    for number, (text, label, found) in enumerate(zip(texts, labels, scores, strict=True)):
        row: dict[str, object] = {**dict(zip(columns, text, strict=True)), "label": label, "confidence": found[label]}
        row |= {"scores": dict(found)} if format == "jsonl" else {f"score:{name}": p for name, p in found.items()}
        row |= {"truth": truths[number]} if truths is not None else {}
        rows.append(row)
    if format == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writerow({name: neutral(name) for name in rows[0]})
    for row in rows:
        writer.writerow({name: neutral(value) if isinstance(value, str) else value for name, value in row.items()})
    return out.getvalue()
