"""Tagged words in files: found by their columns, checked against BIO by file and line, tokenized word by word."""

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

NAMES = ("Anna", "Bela", "Carl", "Dora")
TAGS = ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
GOOD: list[dict[str, Any]] = [
    {"tokens": [NAMES[i % 4], "Smith", "lives", "in", f"Town{i}", "."], "tags": TAGS} for i in range(20)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(path=str(path), **settings))


def test_found_by_the_usual_columns(tmp_path: Path) -> None:
    data = load(write(tmp_path / "d.jsonl", GOOD))
    assert (data.task, data.text_columns, data.label_column) == ("token-classification", ("tokens",), "tags")
    assert data.label_names == ("B-LOC", "B-PER", "I-PER", "O")
    assert data.metrics == ("span_f1", "span_precision", "span_recall", "token_accuracy")
    assert data.train.labels[0] == "B-PER I-PER O O B-LOC O"
    assert data.train.texts[0][1:4] == ("Smith", "lives", "in")
    assert data.label_counts("train")["B-PER"] == len(data.train)
    assert load(write(tmp_path / "e.jsonl", GOOD), metric="f1/PER").metrics[0] == "f1/PER"
    columns = {name: [row[name] for row in GOOD] for name in ("tokens", "tags")}
    assert dataset_from_frame(columns).hash == data.hash


def test_other_names_are_given(tmp_path: Path) -> None:
    renamed = [{"sentence": row["tokens"], "entities": row["tags"]} for row in GOOD]
    data = load(write(tmp_path / "d.jsonl", renamed), text=("sentence",), label="entities")
    assert data.task == "token-classification"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tags": ["B-PER", "O"]}, "6 words, but 2 tags in column 'tags'"),
        ({"tags": None}, "no tags"),
        ({"tags": "B-PER O O O O O"}, "column 'tags' holds text, not a list"),
        ({"tags": ["B-PER", "NN", "O", "O", "O", "O"]}, "tag 2 of 6 in column 'tags' is 'NN', expected O, B-TYPE"),
        ({"tags": ["B-PER", None, "O", "O", "O", "O"]}, "tag 2 of 6 in column 'tags' is missing"),
        ({"tokens": ["a", None, "c", "d", "e", "f"]}, "word 2 of 6 in column 'tokens' is missing"),
        ({"tokens": [], "tags": []}, "no word in column 'tokens'"),
        ({"tokens": "a b c d e f"}, "column 'tokens' holds text, not a list"),
        ({"tags": ["I-PER", "O", "O", "O", "O", "O"]}, "is tagged I-PER at the start of a sentence"),
        ({"tags": ["O", "O", "I-PER", "O", "O", "O"]}, "word 3 'lives' is tagged I-PER after O"),
        ({"tags": ["B-LOC", "I-PER", "O", "O", "O", "O"]}, "word 2 'Smith' is tagged I-PER after B-LOC"),
    ],
)
def test_bad_rows_are_told_with_their_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    rows = [dict(row) for row in GOOD]
    rows[5] = {**rows[5], **change}
    path = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(DataError) as caught:
        load(path)
    assert f"{path}:6: " in caught.value.message
    assert message in caught.value.message
    assert "continues no entity" not in caught.value.message or "data.tag_scheme=iob1" in caught.value.message
    kept = load(path, on_bad_rows="drop")
    assert sum(len(split) for split in kept.splits.values()) == len(rows) - 1


def test_iob1_is_brought_to_bio(tmp_path: Path) -> None:
    rows = [{**row, "tags": ["I-PER", "I-PER", "O", "O", "I-LOC", "B-LOC"]} for row in GOOD]
    data = load(write(tmp_path / "d.jsonl", rows), tag_scheme="iob1")
    assert set(data.train.labels) == {"B-PER I-PER O O B-LOC B-LOC"}
    assert [note.count for note in data.notes if note.kind == "tag-scheme"] == [40]


def test_nothing_tagged_is_nothing_to_learn(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{**row, "tags": ["O"] * 6} for row in GOOD])
    with pytest.raises(DataError, match="no word is part of an entity"):
        load(path)


@pytest.mark.real
@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_a_word_is_read_at_its_first_token(tmp_path: Path, model: str) -> None:
    sentence = ["Unbelievably", ",", "Mr.", "O'Neill", "paid", "$3.50", "for", "naïve", "antidisestablishment"]
    rows = [{"tokens": [*sentence, f"x{i}"], "tags": ["B-X", *["O"] * 9]} for i in range(20)]
    data = load(write(tmp_path / "d.jsonl", rows))
    tokenizer = load_base(model).tokenizer
    encoder = TextEncoder(tokenizer)
    encoded = encoder.encode_split(data.train, 64, 0, "words")
    again = encoder.encode_split(data.train, 64, 0, "words")
    assert encoded.places is not None
    assert again.places is not None
    for number, words in enumerate(data.train.texts):
        ids, places = encoded.ids[number], encoded.places[number]
        assert again.places[number].tolist() == places.tolist()
        assert len(places) == len(words)
        ends = [*places[1:].tolist(), len(ids)]
        pieces = [tokenizer.decode(ids[a:b], skip_special_tokens=True) for a, b in zip(places, ends, strict=True)]
        plain = [piece.replace(" ", "").lower() for piece in pieces]
        assert plain == [word.lower().replace("ï", "i" if model == "minilm" else "ï") for word in words]
        if model == "minilm":
            expected = tokenizer(list(words), is_split_into_words=True)
            assert ids.tolist() == expected["input_ids"]
            firsts = [expected.word_ids().index(word) for word in range(len(words))]
            assert places.tolist() == firsts
    short = encoder.encode_split(data.train, 10, 0, "words")
    assert short.places is not None
    assert short.num_unread == sum(10 - len(places) for places in short.places) > 0
    assert short.num_truncated == len(data.train)
    assert all(len(ids) == 10 and places.max() < 10 for ids, places in zip(short.ids, short.places, strict=True))


@pytest.mark.real
def test_a_word_without_tokens_is_still_read() -> None:
    encoder = TextEncoder(load_base("minilm").tokenizer)
    encoded = encoder.encode_texts([("a", "\u200b", "b"), ("c",)], 16, 0, "words")
    assert encoded.places is not None
    assert [places.tolist() for places in encoded.places] == [[1, 2, 3], [1]]
    assert encoded.num_empty == 1
