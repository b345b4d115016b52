import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from remora.cli.main import run_cli
from remora.cli.use import find_adapter
from remora.data.dataset import Dataset
from remora.errors import AdapterError
from tests.results.synthetic import build_run


@dataclass(frozen=True)
class FakePrediction:
    label: str
    scores: dict[str, float]


class FakeAdapter:
    """Calls a text long or short."""

    text_columns = ("text",)
    form = "text"
    record = SimpleNamespace(num_texts=None, remark="reads elsewhere")

    def predict(self, texts: Sequence[str | tuple[str, str]]) -> list[FakePrediction]:
        labels = ["long" if len(text if isinstance(text, str) else " ".join(text)) > 5 else "short" for text in texts]
        return [FakePrediction(label, {label: 1.0}) for label in labels]

    def evaluate(self, dataset: Dataset, split: str) -> dict[str, float]:
        rows = dataset.splits[split]
        found = self.predict([text[0] for text in rows.texts])
        right = [one.label == label for one, label in zip(found, rows.labels, strict=True)]
        return {"accuracy": sum(right) / len(right)}


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = ModuleType("remora.predict")
    vars(module).update(load_adapter=lambda folder, model, labels: FakeAdapter())
    monkeypatch.setitem(sys.modules, "remora.predict", module)
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def shown(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_prints_a_line_per_text(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["predict", str(adapter), "--text", "hej", "--text", "dober dan, čas"]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"text": "hej", "label": "short", "scores": {"short": 1.0}},
        {"text": "dober dan, čas", "label": "long", "scores": {"long": 1.0}},
    ]
    assert captured.err == "note: reads elsewhere\n"


def test_predict_reads_pairs_tables_and_other_columns(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(["predict", str(adapter), "--text", "a", "--pair", "bcdefg"]) == 0
    assert shown(capsys)[0]["text"] == ["a", "bcdefg"]
    table = tmp_path / "in.csv"
    table.write_text("message,text\nNA,x\n")
    assert run_cli(["predict", str(adapter), "--file", str(table), "--column", "message"]) == 0
    assert shown(capsys)[0]["text"] == "NA"


def test_predict_reads_standard_input(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "stdin"
    source.write_text("one\ntwo and more\n", "utf-8")
    with source.open(encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert run_cli(["predict", str(adapter), "--file", "-"]) == 0
    assert [line["label"] for line in shown(capsys)] == ["short", "long"]


@pytest.mark.parametrize("args", [[], ["--text", "a", "--file", "b.csv"]])
def test_predict_wants_texts_from_one_place(args: list[str], adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(["predict", str(adapter), *args]) == 2
    assert "--file" in capsys.readouterr().err


def test_evaluate_scores_the_chosen_split(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.csv").write_text("text,label\n" + "".join(f"t{n},short\ntext no {n},long\n" for n in range(20)))
    (folder / "test.csv").write_text("text,label\na,short\nb,short\nc,short\nlonger,short\nlongest,long\n")
    assert run_cli(["evaluate", str(adapter), "--data", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["rows"], found["metrics"]) == ("test", 5, {"accuracy": 0.8})
    assert run_cli(["evaluate", str(adapter), "--data", str(folder), "--split", "train", "data.label=label"]) == 0
    captured = capsys.readouterr()
    assert "accuracy" in captured.out
    assert "train" in captured.err
    assert run_cli(["evaluate", str(adapter), "--data", str(folder / "test.csv"), "--split", "all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 5
    assert run_cli(["evaluate", str(adapter), "--data", str(folder), "protocol.seeds=2"]) == 2
    assert "no setting of the data" in capsys.readouterr().err
    assert run_cli(["evaluate", str(adapter), "--data", str(tmp_path / "none.csv")]) == 3


def test_a_run_directory_stands_for_its_best_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = build_run(tmp_path / "run", num_seeds=2, num_test=60)
    found = find_adapter(run_dir)
    assert found.is_relative_to(run_dir)
    assert "using " in capsys.readouterr().err


def test_what_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="neither an adapter nor a run directory"):
        find_adapter(tmp_path)
