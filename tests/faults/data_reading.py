"""A data file read as a study reads it, up to the rows that would be trained on."""

from pathlib import Path

from remora.data.check import Checked, check_split, settle_bad_rows
from remora.data.columns import find_columns
from remora.data.read import read_table


def rows_of(path: Path) -> list[tuple[str, ...]]:
    """Texts and label of every row; any row that cannot be used is an error."""
    table = read_table(path)
    assert all(len(cells) == table.num_rows for cells in table.columns.values())
    columns = find_columns({"train": list(table.columns)})
    checked = Checked()
    check_split(checked, "train", [table], columns)
    settle_bad_rows(checked.bad, "error")
    rows = checked.rows["train"]
    return [(*texts, label) for texts, label in zip(rows.texts, rows.labels, strict=True)]
