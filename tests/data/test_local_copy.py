"""``data.local``: a card applied to the user's own copy of its data set."""

import json
from pathlib import Path

import pytest

from remora.config.schema import DataConfig
from remora.data.dataset import load_dataset
from remora.errors import DataError


def write_cola(path: Path, count: int, start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"sentence": f"sentence {i}", "label": ("acceptable", "unacceptable")[i % 2]}
        for i in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    write_cola(tmp_path / "mine" / "train.jsonl", 60)
    write_cola(tmp_path / "mine" / "test.jsonl", 20, 100)
    data = load_dataset(DataConfig(path="cola", local=str(tmp_path / "mine")))
    assert (data.name, data.card, data.metric, data.positive) == ("cola", "cola", "matthews", "acceptable")
    assert len(data.test) == 20
    # Without the card the same folder is any data set.
    assert load_dataset(DataConfig(path=str(tmp_path / "mine"))).metric == "accuracy"


def test_a_file_and_a_split_of_its_own(tmp_path: Path) -> None:
    path = write_cola(tmp_path / "all.jsonl", 60)
    write_cola(tmp_path / "held_out.jsonl", 20, 100)
    data = load_dataset(DataConfig(path="cola", local=str(path), test="held_out.jsonl"))
    assert (data.card, len(data.test), len(data.train) + len(data.validation)) == ("cola", 20, 60)


def test_rows_shipped_with_remora_give_way(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    labels = ("account_access", "billing", "cancellation", "delivery", "refund_return", "technical_problem")
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": labels[i % 6]}) + "\n" for i in range(120)))
    data = load_dataset(DataConfig(path="helpdesk", local=str(path)))
    assert (data.card, sum(map(len, data.splits.values()))) == ("helpdesk", 120)


def test_other_columns_are_refused_unless_named(tmp_path: Path) -> None:
    rows = [json.dumps({"review": f"t{i}", "stars": ("low", "high")[i % 2]}) for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    config = {"path": "imdb", "local": str(tmp_path / "rows.jsonl")}
    with pytest.raises(DataError, match=r"does not have the columns text, label of the data set 'imdb'"):
        load_dataset(DataConfig.model_validate(config))
    data = load_dataset(DataConfig.model_validate({**config, "text": "review", "label": "stars"}))
    assert (data.name, data.card, data.label_names) == ("imdb", None, ("high", "low"))
    assert "card" in {note.kind for note in data.notes}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("colla", r"data\.path=colla is no data set card(?s:.*)did you mean data\.path=cola\?"),
        ("someone/something", r"is no data set card(?s:.*)give the folder itself: data\.path="),
    ],
)
def test_no_such_card(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_dataset(DataConfig(path=path, local=str(tmp_path)))


def test_no_such_copy(tmp_path: Path) -> None:
    write_cola(tmp_path / "mine" / "train.jsonl", 60)
    with pytest.raises(
        DataError, match=r"data\.local: (?s:.*): no such file or folder(?s:.*)did you mean (?s:.*)mine\?"
    ):
        load_dataset(DataConfig(path="cola", local=str(tmp_path / "mime")))
    with pytest.raises(DataError, match=r"data\.local: "):
        load_dataset(DataConfig(path="cola", local="x\0y"))
