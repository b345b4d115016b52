import csv
import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from remora.report.tables import to_csv, to_parquet
from remora.results.spreadsheets import neutral
from remora.results.store import read_run


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "  =x", "＝x", "'=x"])
def test_formulas_are_neutralised(text: str) -> None:
    assert neutral(text) == f"'{text}"


@pytest.mark.parametrize("text", ["lora", "lr=5", "a-b", "", "1e-4"])
def test_plain_text_is_left_alone(text: str) -> None:
    assert neutral(text) == text


def test_numbers_stay_numbers() -> None:
    rows = list(csv.reader(io.StringIO(to_csv({"a": [-1.5, None, 3], "=b": ["x,y", '"', "-1"]}))))
    assert rows == [["a", "'=b"], ["-1.5", "x,y"], ["", '"'], ["3", "'-1"]]


def test_csv_of_a_run(hostile: Path) -> None:
    with (hostile / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(read_run(hostile).trials)
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "@"))
    assert "'=cmd()|' /C calc'!A1" in {row["label"] for row in rows}
    tuned = [row for row in rows if row["purpose"] == "tuning"]
    assert all(row["test_accuracy"] == "" for row in tuned)
    assert all(float(row["validation_accuracy"]) <= 1 for row in tuned)


def test_parquet_of_a_run(hostile: Path) -> None:
    table = pq.read_table(hostile / "results.parquet")
    assert table.num_rows == len(read_run(hostile).trials)
    assert "=cmd()|' /C calc'!A1" in table["label"].to_pylist()
    types = {field.name: str(field.type) for field in table.schema}
    assert types["test_accuracy"] == "double"
    assert types["seed"] == "int64"
    assert types["undertrained"] == "bool"


def test_an_empty_column_has_a_type() -> None:
    assert str(pq.read_table(io.BytesIO(to_parquet({"a": [None, None]})))["a"].type) == "double"
