"""A whole study of questions with choices on a real model: compared, reported, written for peft, used."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMultipleChoice

from remora.adapters.card import peft_lines
from remora.cli.main import run_cli
from remora.config.schema import DataConfig
from remora.data.dataset import Dataset, load_dataset
from remora.errors import DataError
from remora.models.files import resolve
from remora.predict import load_adapter
from remora.results.predictions import read_predictions
from remora.results.store import read_run
from tests.commands import remora

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]
SETTINGS = ["data.train_limit=60", "data.validation_limit=20", "data.test_limit=20", "model.max_length=48"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("choice") / "run"
    command = [
        "compare",
        "--model",
        "minilm",
        "--data",
        str(shared_data / "commonsense_qa"),
        "--methods",
        "lora,bitfit",
    ]
    command += ["--no-full", "--seeds", "2", "--out", str(folder), "protocol.lr=1e-3", "protocol.epochs=1", *SETTINGS]
    done = remora(command)
    assert done.returncode == 0, done.stderr
    assert "--pair 'another choice'" in done.stdout
    return folder


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Dataset:
    config = DataConfig(path=str(shared_data / "commonsense_qa"), train_limit=60, validation_limit=20, test_limit=20)
    return load_dataset(config)


def test_the_study_ends_with_a_report(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    assert results["data"]["task"] == "multiple-choice"
    assert {row["method"] for row in results["rows"]} == {"lora", "bitfit", "head", "untrained", "majority"}
    assert all(row["metric"] == "accuracy" and 0 <= row["mean"] <= 1 for row in results["rows"])
    assert results["detail"] is None
    page = (run_dir / "report.html").read_text()
    assert "most frequent place" in page
    assert "one choice" in page
    assert "Confusion" not in page


def test_predictions_are_letters_with_a_score_per_choice(run_dir: Path, data: Dataset) -> None:
    trial = read_run(run_dir).of("LoRA", "final")[0].trial
    test = read_predictions(run_dir, trial)["test"]
    assert test.targets == data.test.labels
    assert set(test.predictions) <= set("ABCDE")
    assert test.scores.shape == (20, 5)
    assert [("ABCDE")[i] for i in test.scores.argmax(1)] == list(test.predictions)


def test_an_adapter_answers_as_in_training_and_in_peft(run_dir: Path, data: Dataset) -> None:
    """peft has no task type for choices: without one, and with the head among the modules to save, it loads."""
    from peft import PeftModel

    trial = read_run(run_dir).of("LoRA", "final")[0].trial
    folder = run_dir / "trials" / trial / "adapter"
    predictor = load_adapter(folder)
    stored = read_predictions(run_dir, trial)["test"]
    questions = [(texts[0], texts[1:]) for texts in data.test.texts]
    found = predictor.predict(questions)
    assert [answer.label for answer in found] == list(stored.predictions)
    assert all(sum(answer.scores.values()) == pytest.approx(1) and len(answer.scores) == 5 for answer in found)
    assert predictor.evaluate(data, "test")["accuracy"] == pytest.approx(
        sum(answer.label == label for answer, label in zip(found, data.test.labels, strict=True)) / 20
    )

    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] is None
    assert "classifier" in config["modules_to_save"]
    assert "AutoModelForMultipleChoice" in peft_lines(predictor.record, predictor.base)
    model = AutoModelForMultipleChoice.from_pretrained(resolve("minilm").folder)
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    for (question, choices), scores in zip(questions[:5], stored.scores, strict=False):
        inputs = predictor.base.tokenizer(
            [question] * 5, list(choices), padding=True, truncation=True, max_length=48, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**{name: value[None] for name, value in inputs.items()}).logits[0]
        torch.testing.assert_close(logits, torch.from_numpy(scores), rtol=0, atol=0.05)  # the base was in bfloat16


def test_questions_from_the_command_line(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--text", "where do fish live?", "--pair", "in the sea", "--pair", "on the moon"]
    assert run_cli(["predict", str(run_dir), *asked]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == ["where do fish live?", ["in the sea", "on the moon"]]
    assert set(answer["scores"]) == {"A", "B"}
    file = tmp_path / "q.jsonl"
    rows = [{"question": "what?", "choices": ["a", "b", "c"]}, {"question": "who?", "choices": ["d", "e"]}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_cli(["predict", str(run_dir), "--file", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(line["scores"]) for line in lines] == [3, 2]


def test_what_is_no_question_is_told(run_dir: Path) -> None:
    trial = read_run(run_dir).of("LoRA", "final")[0].trial
    predictor = load_adapter(run_dir / "trials" / trial / "adapter")
    for wrong in ("a text", ("a", "b"), ("a", ["b"]), ("a", ["b", 3])):
        with pytest.raises(DataError, match="a question and a list of 2 to 26 choices"):
            predictor.predict([wrong])  # type: ignore[list-item]
