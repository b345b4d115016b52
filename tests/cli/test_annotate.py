"""Labelling with a language model as a user does it: answers, kill and resume, agreement, an encoder that learns."""

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import cohen_kappa_score, precision_recall_fscore_support
from transformers import AutoModelForCausalLM, AutoTokenizer

from remora.cli.main import run_cli
from remora.results.annotation_schema import Annotation, Asked
from remora.results.spreadsheets import neutral
from remora.results.store import read_record
from remora.results.summary_schema import StudySummary
from tests.moods import write_data as write_moods
from tests.moods import write_model as write_encoder
from tests.prompts import write_data, write_model

CLASSES = ["--class", "positive", "--class", "negative"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "d.csv")


def asked(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return ["annotate", str(data), "--model", str(model), "--out", str(out), "model.dtype=float32", *more]


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]


def test_labels_are_what_transformers_finds_likeliest(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_cli(asked(model, data, out, *CLASSES, "prompt.template=plain", "--truth", "label")) == 0
    rows = rows_of(out)
    assert [row["truth"] for row in rows] == [line.rsplit(",", 1)[1] for line in data.read_text().splitlines()[1:]]
    shown = read_record(out / "asked.json", Asked)
    assert (shown.how, shown.asks) == ("zero-shot", "text: [text]\nlabel:")
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    for row in rows[:5]:
        prompt = tokenizer(shown.asks.replace("[text]", row["text"])).input_ids
        means: list[float] = []
        for name in ("negative", "positive"):
            whole = tokenizer(shown.asks.replace("[text]", row["text"]) + " " + name).input_ids
            assert whole[: len(prompt)] == prompt
            with torch.no_grad():
                logs_LV = network(torch.tensor([whole])).logits[0].log_softmax(-1)
            places = range(len(prompt), len(whole))
            means.append(sum(float(logs_LV[place - 1, whole[place]]) for place in places) / len(places))
        scores = torch.tensor(means).softmax(0).tolist()
        assert [row["scores"]["negative"], row["scores"]["positive"]] == pytest.approx(scores, abs=1e-5)
        assert row["confidence"] == max(row["scores"].values())
        assert row["scores"][row["label"]] == row["confidence"]


def test_agreement_is_that_of_scikit_learn(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_cli(asked(model, data, out, "--truth", "label", "prompt.template=plain")) == 0
    rows, found = rows_of(out), read_record(out / "annotation.json", Annotation)
    truths, labels = [row["truth"] for row in rows], [row["label"] for row in rows]
    agreement = found.agreement
    assert agreement is not None
    assert len(set(labels)) == 2
    assert agreement.accuracy == pytest.approx(sum(a == b for a, b in zip(truths, labels, strict=True)) / len(rows))
    assert agreement.kappa == pytest.approx(cohen_kappa_score(truths, labels))
    assert agreement.accuracy_low < agreement.accuracy < agreement.accuracy_high
    names = [each.label for each in agreement.classes]
    scores = precision_recall_fscore_support(truths, labels, labels=names, zero_division=0.0)  # type: ignore[arg-type]
    for place, each in enumerate(agreement.classes):
        mine = (each.precision, each.recall, each.f1, each.support)
        assert mine == pytest.approx([float(part[place]) for part in scores])
    assert sum(band.texts for band in found.bands) == len(rows)
    assert sum(band.correct or 0 for band in found.bands) == sum(a == b for a, b in zip(truths, labels, strict=True))
    confidences = sorted(row["confidence"] for row in rows)
    assert (found.bands[0].low, found.bands[-1].high) == (confidences[0], confidences[-1])
    page = (out / "report.html").read_text()
    assert "kappa" in page
    assert "likeliest" not in page


def test_killed_and_repeated_it_ends_with_the_same_bytes(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "many.csv", 512)
    data.write_text(data.read_text() + "".join(f"{n} words {n * n},positive\n" for n in range(1500)))
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert run_cli(asked(model, data, whole, *CLASSES)) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "remora", *asked(model, data, part, *CLASSES)], stderr=subprocess.DEVNULL
    )
    while not (part / "answers" / "000001.jsonl").is_file():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (part / "labels.jsonl").exists()
    begun = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (part / "answers").glob("*.jsonl")}
    assert run_cli(asked(model, data, part, *CLASSES)) == 0
    for name, (content, written) in begun.items():
        path = part / "answers" / name
        assert (path.read_bytes(), path.stat().st_mtime_ns) == (content, written), "asked again"
    assert (part / "labels.jsonl").read_bytes() == (whole / "labels.jsonl").read_bytes()
    assert len(list((part / "answers").glob("*.jsonl"))) == len(list((whole / "answers").glob("*.jsonl"))) > len(begun)


def test_texts_that_have_an_answer_are_not_asked_again(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, short = tmp_path / "out", tmp_path / "short.csv"
    lines = data.read_text().splitlines()
    short.write_text("\n".join([*lines[:41], *lines[1:11]]) + "\n")
    assert run_cli(asked(model, short, out, *CLASSES)) == 0
    before = rows_of(out)
    assert before[:10] == before[40:], "repeats have one answer"
    assert len((out / "answers" / "000000.jsonl").read_text().splitlines()) == 40
    short.write_text("\n".join(lines[:61]) + "\n")
    capsys.readouterr()
    assert run_cli(asked(model, short, out, *CLASSES)) == 0
    assert "40 of 60 distinct texts have an answer already" in capsys.readouterr().err
    assert rows_of(out)[:40] == before[:40]
    assert len((out / "answers" / "000001.jsonl").read_text().splitlines()) == 20


def test_few_shot_shows_solved_examples_and_csv_holds_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    examples, texts = tmp_path / "solved.csv", tmp_path / "texts.txt"
    examples.write_text("text,label\nvery great,positive\nso bad,negative\n")
    texts.write_text("=1+1 the food\n\nthe day, again\n")
    more = ["--examples", str(examples), "prompt.shots=2", "prompt.template=plain"]
    assert run_cli(asked(model, texts, tmp_path / "a", *more)) == 0
    shown = read_record(tmp_path / "a" / "asked.json", Asked)
    assert (shown.how, shown.label_names) == ("2-shot", ("negative", "positive"))
    assert "text: very great\nlabel: positive" in shown.asks
    assert "text: so bad\nlabel: negative" in shown.asks
    assert run_cli(asked(model, texts, tmp_path / "b", *more, "--format", "csv")) == 0
    with (tmp_path / "b" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, like in zip(rows, rows_of(tmp_path / "a"), strict=True):
        assert (row["text"], row["label"], float(row["confidence"])) == (
            neutral(like["text"]),
            like["label"],
            like["confidence"],
        )
        assert float(row["score:negative"]) == like["scores"]["negative"]
    assert [row["text"] for row in rows] == ["'=1+1 the food", "the day, again"]


def test_an_adapter_labels_and_an_encoder_learns_from_it(tmp_path: Path) -> None:
    encoder, data = write_encoder(tmp_path / "encoder"), write_moods(tmp_path / "moods.csv")
    settings = ["protocol.epochs=3", "protocol.lr=1e-2", "model.dtype=float32"]
    trained = [
        "train",
        "--model",
        str(encoder),
        "--data",
        str(data),
        "--method",
        "lora",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_cli([*trained, *settings]) == 0
    out = tmp_path / "out"
    command = ["annotate", str(data), "--adapter", str(tmp_path / "run"), "--truth", "label", "--out", str(out)]
    command += ["--train", str(encoder), "--test", str(data), "--methods", "lora", "--sizes", "20"]
    command += ["train.protocol.lr=1e-2", "train.protocol.epochs=1", "train.protocol.seeds=2"]
    command += ["train.model.dtype=float32", "train.data.test_limit=40"]
    assert run_cli(command) == 0
    found = read_record(out / "annotation.json", Annotation)
    assert found.training == "learning"
    assert found.agreement is not None
    text = (out / "report.md").read_text()
    table = text.partition("accuracy by training rows and data: LoRA")[2]
    line = next(line for line in table.splitlines() if line.startswith("| 20 |"))
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    studies = {name: read_record(out / "learning" / f"learns-{name}-20" / "results.json", StudySummary)
               for name in ("given", "true")}  # fmt: skip
    means = [next(row.mean for row in study.rows if row.method == "lora") for study in studies.values()]
    assert [cell.split(" ")[0] for cell in cells[-2:]] == [f"{100 * (mean or 0):.1f}" for mean in means]
    assert "| given-labels | true-labels |" in text
    learnt = (out / "data" / "given-labels" / "train.jsonl").read_text().splitlines()
    given = [json.loads(line)["label"] for line in learnt]
    assert given == [row["label"] for row in rows_of(out)]
    before = (out / "report.md").read_bytes()
    assert run_cli(command) == 0, "repeated, everything is there already"
    assert (out / "report.md").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], "no classes to choose from"),
        (["--class", "positive", "--class", "nasty", "--truth", "label"], "d.csv:2: the true label 'negative' is none"),
        (["--truth", "mood"], "no column 'mood'"),
        ([*CLASSES, "prompt.shots=2"], "no solved examples"),
        ([*CLASSES, "--train", "minilm"], "--train needs rows with true labels"),
        ([*CLASSES, "protocol.epochs=2"], "'protocol.epochs=2' is no setting of who labels"),
        ([*CLASSES, "--sizes", "ten"], "is no list of numbers"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    assert run_cli(asked(model, data, tmp_path / "out", *more)) in (2, 3)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_answers_is_refused(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_cli(asked(model, data, out, *CLASSES)) == 0
    assert run_cli(asked(model, data, out, *CLASSES, "prompt.template=plain")) == 2
    assert "asked in another way" in capsys.readouterr().err
