"""Adapters from peft and to other programs, as a user types it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from remora.cli.main import run_cli
from tests.moods import write_data, write_model

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m")


def write_adapter(model: Path, folder: Path, config: Any) -> Path:
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = get_peft_model(AutoModelForSequenceClassification.from_pretrained(model), config)
        with torch.no_grad():
            for value in made.parameters():
                if value.requires_grad:
                    value.add_(0.3 * torch.randn(value.shape))
    made.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("lora") / "a"
    return write_adapter(model, folder, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], r=4))


@pytest.fixture(scope="module")
def dora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("dora") / "a"
    return write_adapter(model, folder, LoraConfig(task_type="SEQ_CLS", target_modules=["query"], use_dora=True))


def answers(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    texts = ["--text", "the food was great", "--text", "a sad film", "--text", "happy day"]
    assert run_cli(["predict", str(folder), *texts, *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_adapter_of_peft_predicts(lora: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its base is the one its configuration names."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    theirs = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(model), str(lora)).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    batch = tokenizer(["the food was great", "a sad film", "happy day"], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        probs = theirs(**batch).logits.softmax(-1).tolist()
    for line, row in zip(answers(lora, capsys), probs, strict=True):
        assert line["scores"] == pytest.approx({"LABEL_0": row[0], "LABEL_1": row[1]}, abs=1e-5)
    named = answers(lora, capsys, "--label", "good", "--label", "bad", "--model", str(model))
    assert {line["label"] for line in named} <= {"good", "bad"}
    assert [line["scores"]["good"] for line in named] == pytest.approx([row[0] for row in probs], abs=1e-5)


def test_an_adapter_of_peft_is_evaluated(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "moods.csv")
    command = ["evaluate", str(lora), "--data", str(data), "--split", "all", "--json"]
    assert run_cli(command) == 3
    assert "it knows LABEL_0, LABEL_1" in capsys.readouterr().err
    assert run_cli([*command, "--label", "good", "--label", "bad"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run_cli([*command, "--label", "bad", "--label", "good"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert found["metrics"]["accuracy"] + other["metrics"]["accuracy"] == pytest.approx(1)


@pytest.mark.parametrize("form", ["lora", "merged"])
def test_exports(form: str, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_cli(["export", str(lora), "--out", str(out), "--format", form, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["format"], done["out"], done["method"]) == (form, str(out), "lora")
    assert (done["peft_type"], done["rank"]) == (("LORA", 4) if form == "lora" else (None, None))
    assert done["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    if form == "lora":
        assert [line["scores"] for line in answers(out, capsys)] == [
            pytest.approx(line["scores"], abs=1e-5) for line in answers(lora, capsys)
        ]
        return
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    batch = AutoTokenizer.from_pretrained(out)("the food was great", return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        row = AutoModelForSequenceClassification.from_pretrained(out).eval()(**batch).logits.softmax(-1)[0].tolist()
    scores = answers(lora, capsys)[0]["scores"]
    assert list(scores.values()) == pytest.approx(row, abs=1e-5)


def test_the_folder_is_printed_and_vllm_s_option_said(
    lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_cli(["export", str(lora), "--out", str(out), "--profile", "vllm"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "--max-lora-rank 8" in captured.err


def test_what_vllm_does_not_take(dora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_cli(["export", str(dora), "--out", str(out), "--profile", "vllm"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "scales features" in captured.err
    assert "--format merged" in captured.err
    assert not out.exists()


def test_bad_input(lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["export", str(lora), "--out"]
    cases = [
        (["export", str(lora)], 2, "--out"),
        ([*command, str(tmp_path)], 2, "exists already"),
        ([*command, str(out), "--format", "onnx"], 2, "onnx"),
        ([*command, str(out), "--profile", "vllm", "--format", "merged"], 2, "--profile is about adapters"),
        ([*command, str(out), "--model", str(tmp_path / "none")], 2, "none"),
        ([*command, str(out), "--label", "one"], 3, "2 outputs, 1 labels"),
        (["export", str(tmp_path), "--out", str(out)], 3, "neither an adapter nor a run directory"),
        (["export", str(tmp_path / "nowhere"), "--out", str(out)], 2, "nowhere"),
    ]
    for args, code, words in cases:
        assert run_cli(args) == code, args
        captured = capsys.readouterr()
        assert words in captured.err
        assert captured.out == ""
    assert not out.exists()
