"""Pronoun examples: the real files, and rows that cannot be used."""

import json
from collections import Counter
from pathlib import Path

import pytest

from remora.config.schema import DataConfig
from remora.data.dataset import load_dataset
from remora.data.gap import LABELS, PronounExample, Span, marked, pronoun_example
from remora.data.read import read_table
from remora.data.table import Table
from remora.errors import DataError

TEXT = "Ann met Eve when she left."
ROW: dict[str, object] = {
    "text": TEXT,
    "pronoun": "she",
    "pronoun_offset": 17,
    "a": "Ann",
    "a_offset": 0,
    "b": "Eve",
    "b_offset": 8,
    "label": "B",
}


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[PronounExample]:
    table = read_table(path)
    return [pronoun_example(table, index) for index in range(table.num_rows)]


def marks(path: Path) -> Table:
    return marked(read_table(path))


def test_an_example(tmp_path: Path) -> None:
    (example,) = read(write(tmp_path / "x.jsonl", {**ROW, "url": "extra"}))
    assert (example.text, example.label) == (TEXT, "B")
    assert (example.pronoun, example.a, example.b) == (Span("she", 17), Span("Ann", 0), Span("Eve", 8))
    assert example.pronoun.end == 20
    assert example.with_marks() == "@ Ann @ met # Eve # when ^ she ^ left."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "a"}, r"x\.jsonl:2: the label is 'a', expected A, B, neither"),
        ({"label": None}, r"x\.jsonl:2: the label is None"),
        ({"pronoun_offset": 16}, r"x\.jsonl:2: at character 16 the text has ' sh', not pronoun 'she'"),
        ({"b_offset": 900}, r"x\.jsonl:2: at character 900 the text has '', not b 'Eve'"),
        ({"a_offset": -26}, r"x\.jsonl:2: a_offset is '-26', expected a whole number"),
        ({"a_offset": 0.0}, r"x\.jsonl:2: a_offset is '0\.0'"),
        ({"b": ""}, r"x\.jsonl:2: no text in column 'b'"),
        ({"text": None}, r"x\.jsonl:2: no text in column 'text'"),
        ({"b": "Ann", "b_offset": 0}, r"x\.jsonl:2: the pronoun and the names overlap"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path / "gap.jsonl", ROW, {**ROW, **change}, ROW)
    with pytest.raises(DataError, match=rf"1 row cannot be used:\n.*{message.replace('x', 'gap', 1)}"):
        load_dataset(DataConfig(path="gap", local=str(path)))


def test_all_bad_rows_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {**ROW, "label": "C"}, ROW, {**ROW, "a": "Bob"})
    path.write_text(path.read_text() + "not json\n")
    found = marks(path)
    assert [row.place.rpartition(":")[2] for row in found.bad] == ["4", "1", "3"]
    assert (list(found.columns["text"]), found.lines) == (["@ Ann @ met # Eve # when ^ she ^ left."], [2])


def test_a_missing_column(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", {name: value for name, value in ROW.items() if name not in ("a", "b_offset")})
    with pytest.raises(DataError, match="there is no column 'a', 'b_offset'"):
        marks(path)


@pytest.mark.real
@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", {"A": 874, "B": 925, "neither": 201}),
        ("validation", {"A": 187, "B": 205, "neither": 62}),
        ("test", {"A": 918, "B": 855, "neither": 227}),
    ],
)
def test_the_real_files(shared_data: Path, split: str, counts: dict[str, int]) -> None:
    examples = read(shared_data / "gap" / f"{split}.jsonl.gz")
    assert Counter(example.label for example in examples) == counts
    assert set(counts) == set(LABELS)
    pronouns = {example.pronoun.text.lower() for example in examples}
    assert pronouns <= {"he", "him", "his", "she", "her", "hers"}
    assert all(example.with_marks().count(f"^ {example.pronoun.text} ^") == 1 for example in examples)


@pytest.mark.real
def test_they_are_a_data_set_for_classification(shared_data: Path) -> None:
    data = load_dataset(DataConfig(path=str(shared_data / "gap")))
    assert (data.card, data.task, data.label_names) == ("gap", "classification", LABELS)
    assert [len(split) for split in data.splits.values()] == [2000, 454, 2000]
    assert data.metrics[:2] == ("accuracy", "macro_f1")
    assert "# Pauline #" in data.train.texts[0][0]
