"""Questions with choices in files: found by their columns, answers read as letters, bad rows told by file and line."""

import json
from pathlib import Path
from typing import Any

import pytest

from remora.config.schema import DataConfig
from remora.data.dataset import Dataset, load_dataset
from remora.data.frame import dataset_from_frame
from remora.data.tokenize import TextEncoder
from remora.errors import DataError
from remora.models.load import load_base

GOOD: list[dict[str, Any]] = [
    {
        "id": i,
        "question": f"what is {i}?",
        "choices": [f"thing {i}", f"part {i}", f"whole {i}"][: 2 + i % 2],
        "label": "AB"[i % 2],
    }
    for i in range(20)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(path=str(path), **settings))


def answers(data: Dataset) -> dict[tuple[str, ...], str | float]:
    """The label of every question of all splits."""
    parts = data.splits.values()
    return {texts: label for part in parts for texts, label in zip(part.texts, part.labels, strict=True)}


def labelled(labels: list[Any]) -> list[dict[str, Any]]:
    return [{**GOOD[i], "choices": ["x", "y", f"z{i}"], "label": label} for i, label in enumerate(labels)]


def test_found_by_the_usual_columns(tmp_path: Path) -> None:
    data = load(write(tmp_path / "d.jsonl", GOOD))
    assert (data.task, data.text_columns, data.label_column) == ("multiple-choice", ("question", "choices"), "label")
    assert data.metrics == ("accuracy",)
    assert data.label_names == ()
    rows = answers(data)
    assert rows == {(row["question"], *row["choices"]): row["label"] for row in GOOD}
    assert {len(texts) for texts in rows} == {3, 4}


def test_other_names_are_given(tmp_path: Path) -> None:
    renamed = [{"stem": row["question"], "ends": row["choices"], "right": row["label"]} for row in GOOD]
    data = load(write(tmp_path / "d.jsonl", renamed), text=("stem", "ends"), label="right")
    assert (data.task, data.text_columns) == ("multiple-choice", ("stem", "ends"))


def test_a_question_column_alone_is_classification(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "choices": "none", "label": "ab"[i % 2]} for i in range(20)]
    assert load(write(tmp_path / "d.jsonl", rows)).task == "classification"


@pytest.mark.parametrize(
    ("labels", "letters", "read"),
    [
        (["A", "B", "C", "A"] * 5, "ABCA", None),
        ([0, 1, 2, 0] * 5, "ABCA", "counted from 0"),
        ([1, 2, 3, 1] * 5, "ABCA", "counted from 1"),
        ([1, 1, 1, 1] * 5, "BBBB", "counted from 0"),
        (["x", "y", "x", "y"] * 5, "ABAB", "the texts of choices"),
    ],
)
def test_ways_to_name_the_answer(tmp_path: Path, labels: list[Any], letters: str, read: str | None) -> None:
    data = load(write(tmp_path / "d.jsonl", labelled(labels)))
    named = {texts[0]: label for texts, label in answers(data).items()}
    assert "".join(str(named[f"what is {i}?"]) for i in range(4)) == letters
    notes = [note.message for note in data.notes if note.kind == "task"]
    assert not notes if read is None else read in notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": ["x", None, "z"]}, "choice 2 of 3 in column 'choices' is missing"),
        ({"choices": ["x", " "]}, "choice 2 of 2 in column 'choices' is missing"),
        ({"choices": ["x"]}, "the number of choices is 1, from 2 to 26 can be read"),
        ({"choices": "x, y"}, "column 'choices' holds text, not a list"),
        ({"choices": None}, "column 'choices' holds nothing, not a list"),
        ({"question": None}, "no value in text column 'question'"),
        ({"label": "E"}, "the label 'E' names none of the 3 choices (A to C)"),
        ({"label": None}, "no label"),
        ({"label": ["A"]}, "the label is list"),
    ],
)
def test_bad_rows_are_told_with_their_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [dict(row) for row in GOOD]
    rows[5] = {**rows[5], **change}
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path)
    assert f"{path}:6: {message}" in caught.value.message
    assert "data.on_bad_rows=drop" in caught.value.hint
    kept = load(path, on_bad_rows="drop")
    assert sum(len(split) for split in kept.splits.values()) == len(rows) - 1


def test_frames_parquet_and_json_lines_give_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: [row[name] for row in GOOD] for name in ("question", "choices", "label")}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    hashes = {
        load(write(tmp_path / "d.jsonl", GOOD)).hash,
        load(tmp_path / "d.parquet").hash,
        dataset_from_frame(columns).hash,
    }
    assert len(hashes) == 1


def test_no_column_of_choices(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"question": f"q{i}", "label": "A"} for i in range(20)])
    with pytest.raises(DataError, match=r"no columns of a question and its choices"):
        load(path, task="multiple-choice")


@pytest.mark.real
def test_every_choice_is_read_with_the_question(tmp_path: Path) -> None:
    data = load(write(tmp_path / "d.jsonl", GOOD))
    tokenizer = load_base("minilm").tokenizer
    encoder = TextEncoder(tokenizer)
    encoded = encoder.encode_split(data.train, 32, 0, "choices")
    again = encoder.encode_split(data.train, 32, 0, "choices")
    assert encoded.joints is not None
    assert again.joints is not None
    assert (again.joints == encoded.joints).all()
    assert len(encoded) == len(data.train)
    for number, texts in enumerate(data.train.texts):
        first, end = encoded.joints[number], encoded.joints[number + 1]
        expected = tokenizer([texts[0]] * (len(texts) - 1), list(texts[1:]))
        assert [row.tolist() for row in encoded.ids[first:end]] == expected["input_ids"]
        assert [row.tolist() for row in again.ids[first:end]] == expected["input_ids"]
        assert encoded.type_ids is not None
        assert [row.tolist() for row in encoded.type_ids[first:end]] == expected["token_type_ids"]
    assert encoded.lengths.tolist() == [
        sum(len(row) for row in encoded.ids[a:b]) for a, b in zip(encoded.joints[:-1], encoded.joints[1:], strict=True)
    ]
