"""A whole study of summaries on a tiny LLaMA: written, scored, shown with examples, written again by its adapters."""

import html
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer

import remora
from remora.adapters.record import read_record
from remora.config.load import apply_overrides, build_study, dump_yaml, fingerprint
from remora.config.schema import GenerationConfig
from remora.data.dataset import load_dataset
from remora.data.summaries import references
from remora.errors import ConfigError, ModelError, RemoraError, ResourceError
from remora.predict import load_adapter
from remora.results.predictions import read_predictions
from remora.study.context import StudyContext, open_context
from remora.study.rows import study_rows
from remora.study.trials import TrialMaker
from tests.moods import BAD, FILLER, GOOD
from tests.moods import write_model as write_encoder
from tests.prompts import write_model


def write_data(path: Path, num: int = 90) -> Path:
    """Documents whose summary says which of two kinds they are of, one in ten with a second reference."""
    lines: list[str] = []
    for n in range(num):
        word = (GOOD if n % 2 else BAD)[n // 2 % 4]
        summary = f"{'positive' if n % 2 else 'negative'} {word}"
        texts = [summary, f"it is {word}"] if n % 10 == 3 else summary
        document = f"{FILLER[n % 8]} <b>{word}</b> {FILLER[n // 8 % 8]} {n}. And so on."
        lines.append(json.dumps({"document": document, "summary": texts}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, Path, Any]:
    """Data, run directory and result of a study with tuning."""
    folder = tmp_path_factory.mktemp("summaries")
    data, run_dir = write_data(folder / "d.jsonl"), folder / "run"
    settings: dict[str, Any] = {
        "data__task": "summarization", "protocol__tuning_trials": 2, "protocol__epochs": 2, "protocol__full": False,
        "model__dtype": "float32", "model__max_length": 64, "prompt__template": "plain",
        "generation__max_new_tokens": 8, "generation__num_beams": 2,
    }  # fmt: skip
    result = remora.compare(str(model), str(data), methods="lora", seeds=1, out=run_dir, **settings)
    return data, run_dir, result


def test_rows_and_scores_are_those_of_rouge_score_itself(study: tuple[Path, Path, Any]) -> None:
    data, run_dir, result = study
    results = json.loads((run_dir / "results.json").read_text())
    rows = {row["method"]: row for row in results["rows"]}
    assert {name: row["label"] for name, row in rows.items()} == {
        "lora": "LoRA", "untrained": "zero-shot", "majority": "beginning of the text",
    }  # fmt: skip
    assert results["data"]["metric"] == "rougeL"
    assert rows["majority"]["seeds"] == rows["untrained"]["seeds"] == 1
    (tuning,) = results["tuning"]
    assert all(trial["score"] < 0 for trial in tuning["trials"])  # log-likelihoods: nothing was generated for these
    assert sum(trial["chosen"] for trial in tuning["trials"]) == 1
    assert all(point["score"] < 0 for point in results["curves"][0]["points"])
    split = load_dataset(build_study({"model": "m", "data": {"path": str(data), "task": "summarization"}}).data).test
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for method, row in rows.items():
        part = read_predictions(run_dir, row["per_seed"][0]["trial"])["test"]
        assert part.targets == split.labels
        assert any(len(references(str(label))) == 2 for label in part.targets) or len(split) < 10
        for number, (label, text) in enumerate(zip(split.labels, part.predictions, strict=True)):
            scores = scorer.score_multi(list(references(label)), str(text))
            expected = [scores[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")]
            assert part.scores[number].tolist() == pytest.approx(expected, abs=1e-6)
        assert row["mean"] == pytest.approx(float(part.scores[:, 2].mean()), abs=1e-6)
        assert row["metrics"]["rouge1"] == pytest.approx(float(part.scores[:, 0].mean()), abs=1e-6)
        assert (method == "majority") == ("log_likelihood" not in row["metrics"])
    assert result.summary.row("LoRA").mean == rows["lora"]["mean"]


def test_the_report_shows_examples_escaped(study: tuple[Path, Path, Any]) -> None:
    results = json.loads((study[1] / "results.json").read_text())
    written = results["detail"]["written"]
    assert len(written) == 5
    page = (study[1] / "report.html").read_text()
    for example in written:
        assert "<b>" in example["document"]
        assert html.escape(example["document"]) in page
        assert example["references"][0] in page
        assert example["untrained"] is not None
    assert "<b>awful</b>" not in page
    assert "ROUGE-L" in page
    assert "What LoRA writes" in page


def test_its_adapter_writes_the_same_summaries_again(study: tuple[Path, Path, Any]) -> None:
    data, run_dir, _ = study
    (row,) = [row for row in json.loads((run_dir / "results.json").read_text())["rows"] if row["method"] == "lora"]
    folder = run_dir / row["adapter"]
    record = read_record(folder)
    assert record.generation == GenerationConfig(max_new_tokens=8, num_beams=2)
    dataset = load_dataset(build_study({"model": "m", "data": {"path": str(data), "task": "summarization"}}).data)
    predictor = load_adapter(folder)
    answers = predictor.predict([texts[0] for texts in dataset.test.texts])
    kept = read_predictions(run_dir, row["per_seed"][0]["trial"])["test"]
    assert tuple(answer.label for answer in answers) == kept.predictions
    assert predictor.evaluate(dataset, "test")["rougeL"] == pytest.approx(row["mean"], abs=1e-6)
    card = (folder / "README.md").read_text()
    assert "GenerationConfig(do_sample=False, max_new_tokens=8, num_beams=2" in card


def opened(model: Path, data: Path, *overrides: str) -> StudyContext:
    tree: dict[str, object] = {"kind": "compare", "model": {"id": str(model)}, "data": {"path": str(data)}}
    given = ["data.task=summarization", "model.dtype=float32", *overrides]
    return open_context(build_study(apply_overrides(tree, given), "study.yaml"))


def test_prompts_leave_room_for_summaries_and_cut_ones_are_counted(model: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.jsonl")
    short = opened(model, data, "generation.max_new_tokens=2", "model.max_length=40", "prompt.template=plain")
    examples = short.trial_data().split("train", 0)
    assert max(map(len, examples.ids)) <= 40
    assert examples.next_tokens is not None
    assert {len(tokens) for tokens in examples.next_tokens} == {2}
    counts = {note.kind: note.count for note in short.dataset.notes}
    assert counts["cut-summaries"] > 0
    long = opened(model, data, "generation.max_new_tokens=30")
    whole = long.trial_data().split("train", 0)
    assert whole.next_tokens is not None
    end = long.base.tokenizer.eos_token_id
    assert all(tokens[-1] == end for tokens in whole.next_tokens)
    assert "cut-summaries" not in {note.kind for note in long.dataset.notes}
    (row,) = [row for row in study_rows(long.config, long.base, "summarization") if row.id == "untrained"]
    (one,), (other,) = (TrialMaker(context).untrained(row) for context in (short, long))
    assert one.spec.id != other.spec.id


def test_the_usual_instruction_says_how_long(model: Path, tmp_path: Path) -> None:
    context = opened(model, write_data(tmp_path / "d.jsonl"))
    assert context.prompt is not None
    assert context.prompt.text(["A text."])[0].endswith(
        "### Instruction:\nSummarize the text in one sentence.\n\n### Input:\nA text.\n\n### Response:\n"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prompt.shots=2"], r"prompt\.shots: has a meaning for classes only"),
        (["prompt.calibration=content-free"], r"prompt\.calibration: has a meaning for classes only"),
        (['prompt.template="{text}: "'], r"there is no field \{text\}"),
        (["prompt.template=Say it"], "no field for the text"),
        (["model.max_length=70"], r"leave no room for text.*(?s:.*)lower generation\.max_new_tokens"),
        (["methods=[prefix-tuning]"], r"method 'prefix-tuning': .*(?s:.*)these can write summaries: .*lora"),
        (["methods=[adamix]"], "adamix changes more than weights"),
        (["methods=[head]"], "nothing to train"),
        (["data.metric=rouge3"], "no such metric for summarization"),
        (["generation.max_new_tokens=1"], "must be at least 2"),
        (
            ["data.task=classification", "generation.num_beams=2"],
            r"generation: has a meaning with .*summarization only",
        ),
    ],
)
def test_one_clear_error_before_anything_is_computed(
    model: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    data = write_data(tmp_path / "d.jsonl", 40)

    def prepare() -> None:
        context = opened(model, data, *overrides)
        study_rows(context.config, context.base, context.task.name)
        context.lengths()

    with pytest.raises(RemoraError, match=message):
        prepare()


def test_other_models_and_other_data_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a causal language model nor an encoder-decoder"):
        opened(write_encoder(tmp_path / "bert"), write_data(tmp_path / "d.jsonl", 40))
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(json.dumps({"text": f"a film {n}", "label": "ab"[n % 2]}) + "\n" for n in range(40)))
    with pytest.raises(ConfigError, match=r"generation has a meaning with data\.task=summarization only"):
        opened(model, labelled, "data.task=auto", "generation.num_beams=2")


def test_a_missing_package_is_told_before_anything_is_trained(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ResourceError, match="needs the package `rouge-score`"):
        opened(model, write_data(tmp_path / "d.jsonl", 40))


def test_settings_of_generation_leave_other_studies_alone() -> None:
    tree: dict[str, object] = {"model": "m", "data": "d"}
    plain, task = build_study(tree), build_study(apply_overrides(tree, ["data.task=summarization"]))
    assert "generation" not in dump_yaml(plain)
    assert "generation:" in dump_yaml(task)
    beams = build_study(apply_overrides(tree, ["data.task=summarization", "generation.num_beams=4"]))
    assert len({fingerprint(each) for each in (plain, task, beams)}) == 3
