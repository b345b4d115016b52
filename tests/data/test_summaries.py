"""Documents and summaries: references in one column or two, bad rows by file and line, beginnings of documents."""

import json
from pathlib import Path

import pytest

from remora.config.schema import DataConfig
from remora.data.dataset import load_dataset
from remora.data.summaries import lead, references, sentences, usual_sentences, written
from remora.errors import DataError


def rows(num: int = 40) -> list[dict[str, object]]:
    return [{"document": f"Text {n}. It goes on.", "summary": f"short {n}"} for n in range(num)]


def save(path: Path, lines: list[dict[str, object]]) -> DataConfig:
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return DataConfig(path=str(path), task="summarization")


def test_columns_are_found_and_labels_are_lists_of_references(tmp_path: Path) -> None:
    data = load_dataset(save(tmp_path / "d.jsonl", rows()))
    assert (data.task, data.text_columns, data.label_column) == ("summarization", ("document",), "summary")
    assert (data.label_names, data.metric, data.metrics) == ((), "rougeL", ("rougeL", "rouge1", "rouge2"))
    assert data.validation_metric == "log_likelihood"
    number = data.train.texts[0][0].split()[1].rstrip(".")
    assert references(data.train.labels[0]) == (f"short {number}",)


def test_a_row_may_have_several_references(tmp_path: Path) -> None:
    lines = rows()
    lines[3]["summary"] = ["first ", "sécond"]
    data = load_dataset(save(tmp_path / "d.jsonl", lines))
    labels = [label for split in data.splits.values() for label in split.labels]
    assert written(["first", "sécond"]) in labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summary": " "}, r"d\.jsonl:4: no summary in column 'summary'"),
        ({"summary": ["a", ""]}, r"d\.jsonl:4: no summary in column 'summary'"),
        ({"summary": []}, r"d\.jsonl:4: no summary in column 'summary'"),
        ({"summary": {"a": 1}}, r"d\.jsonl:4: column 'summary' holds object, not a summary"),
        ({"document": ""}, r"d\.jsonl:4: no document in column 'document'"),
        ({"document": None}, r"d\.jsonl:4: no document in column 'document'"),
        ({"document": ["a"]}, r"d\.jsonl:4: column 'document' holds list, not a document"),
    ],
)
def test_bad_rows_are_told_by_file_and_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    lines = rows()
    lines[3] |= changes
    with pytest.raises(DataError, match=message):
        load_dataset(save(tmp_path / "d.jsonl", lines))


def test_missing_columns_are_told(tmp_path: Path) -> None:
    config = save(tmp_path / "d.jsonl", [{"topic": f"t{n}", "other": "x"} for n in range(9)])
    with pytest.raises(DataError, match=r"no columns of documents and their summaries among 'topic', 'other'"):
        load_dataset(config)
    with pytest.raises(DataError, match="there is no column 'doc'"):
        load_dataset(config.model_copy(update={"text": ("doc",), "label": "other"}))


def test_sentences_end_at_stops_and_lines() -> None:
    text = "It cost 2.50 in all. Who paid? \n#Person1#: Nobody!\nSo"
    assert sentences(text) == ["It cost 2.50 in all.", "Who paid?", "#Person1#: Nobody!", "So"]
    assert lead(text, 2) == "It cost 2.50 in all. Who paid?"
    assert lead("no stop", 3) == "no stop"
    assert usual_sentences([written(["One. Two. Three."]), written(["One. Two.", "x"])]) == 2
    assert usual_sentences([written(["..."])]) == 1
