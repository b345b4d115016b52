"""A whole study of summaries on a tiny BART, and how an encoder-decoder is asked for them."""

import json
from pathlib import Path
from typing import Any

import pytest

import remora
from remora.config.load import build_study
from remora.config.schema import GenerationConfig
from remora.data.dataset import load_dataset
from remora.data.summaries import references
from remora.errors import ModelError, RemoraError
from remora.predict import load_adapter
from remora.results.predictions import read_predictions
from remora.study.context import StudyContext, open_context
from remora.study.rows import study_rows
from remora.study.trials import TrialMaker
from remora.tasks.rouge import rouge_f1
from tests.prompts import write_data as write_labelled
from tests.seq2seq import seq2seq_hf
from tests.study.test_summarization import opened, write_data
from tests.summarizers import PREFIX, summarizer_tokenizer, write_summarizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_summarizer(folder / name, name) for name in ("bart", "t5")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path]) -> tuple[Path, Path]:
    """Data and run directory of a study with tuning."""
    folder = tmp_path_factory.mktemp("summaries")
    data, run_dir = write_data(folder / "d.jsonl"), folder / "run"
    settings: dict[str, Any] = {
        "data__task": "summarization", "protocol__tuning_trials": 2, "protocol__epochs": 2, "protocol__full": False,
        "model__dtype": "float32", "model__max_length": 64, "generation__max_new_tokens": 8,
        "generation__num_beams": 2,
    }  # fmt: skip
    remora.compare(str(models["bart"]), str(data), methods="lora,prompt-tuning", seeds=1, out=run_dir, **settings)
    return data, run_dir


def test_rows_are_scored_and_their_adapters_write_the_same_again(study: tuple[Path, Path]) -> None:
    data, run_dir = study
    results = json.loads((run_dir / "results.json").read_text())
    rows = {row["method"]: row for row in results["rows"]}
    assert set(rows) == {"lora", "prompt-tuning", "untrained", "majority"}
    assert results["data"]["metric"] == "rougeL"
    dataset = load_dataset(build_study({"model": "m", "data": {"path": str(data), "task": "summarization"}}).data)
    for name, row in rows.items():
        kept = read_predictions(run_dir, row["per_seed"][0]["trial"])["test"]
        scores = rouge_f1([str(each) for each in kept.predictions], [references(str(label)) for label in kept.targets])
        assert row["mean"] == pytest.approx(sum(scores["rougeL"]) / len(scores["rougeL"]), abs=1e-6)
        if name in ("lora", "prompt-tuning"):
            predictor = load_adapter(run_dir / row["adapter"])
            assert predictor.record.generation == GenerationConfig(max_new_tokens=8, num_beams=2)
            answers = predictor.predict([texts[0] for texts in dataset.test.texts])
            assert tuple(answer.label for answer in answers) == kept.predictions
            assert row["metrics"]["log_likelihood"] > rows["untrained"]["metrics"]["log_likelihood"]
    page = (run_dir / "report.html").read_text()
    assert "What LoRA writes" in page
    assert "the encoder reads each text as it is" in page


def read_by(context: StudyContext, text: str) -> str:
    assert context.summaries is not None
    return context.base.tokenizer.decode(context.summaries.encode_texts([(text,)], 400).ids[0])


def test_the_encoder_reads_what_the_model_was_pretrained_to(models: dict[str, Path], tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.jsonl")
    assert read_by(opened(models["t5"], data), "A text.") == f"{PREFIX}A text.</s>"
    assert read_by(opened(models["bart"], data), "A text.") == "<s>A text.</s>"
    told = opened(models["t5"], data, "prompt.instruction=Be brief.")
    assert read_by(told, "A text.") == "Be brief.\n\nA text.</s>"
    own = opened(models["t5"], data, 'prompt.template="tl;dr {document} //"')
    assert read_by(own, "A text.") == "tl;dr A text. //</s>"
    assert "### Instruction:" in read_by(opened(models["t5"], data, "prompt.template=alpaca"), "A text.")
    notes = [note.message for note in opened(models["t5"], data).dataset.notes if note.kind == "prompts"]
    assert notes == [f"the encoder reads each text behind {PREFIX!r}"]


def test_texts_and_summaries_have_limits_of_their_own(models: dict[str, Path], tmp_path: Path) -> None:
    data = write_data(tmp_path / "d.jsonl")
    context = opened(models["bart"], data, "model.max_length=9", "generation.max_new_tokens=4")
    examples = context.trial_data().split("train", 0)
    assert examples.decoder_ids is not None
    assert examples.next_tokens is not None
    assert {len(ids) for ids in examples.ids} == {9}
    assert all(ids[0] == 1 and ids[-1] == 2 for ids in examples.ids)
    assert {len(ids) for ids in examples.next_tokens} == {4}
    for given, wanted in zip(examples.decoder_ids, examples.next_tokens, strict=True):
        assert len(given) == len(wanted)
        assert given[0] == 2
        assert given[1:].tolist() == wanted[:-1].tolist()
        assert wanted[0] == 1
    assert {note.kind for note in context.dataset.notes} >= {"cut-summaries"}
    short = context.trial_data().split("train", 3)
    assert {len(ids) for ids in short.ids} == {6}
    (row,) = [row for row in study_rows(context.config, context.base, "summarization") if row.id == "untrained"]
    other = opened(models["bart"], data, "model.max_length=9", "generation.max_new_tokens=6")
    (one,), (two,) = (TrialMaker(each).untrained(row) for each in (context, other))
    assert one.spec.id != two.spec.id


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generation.max_new_tokens=600"], r"600: the decoder of .* has 512 positions"),
        (["prompt.template=chat"], "chat template"),
        (["methods=[adapter-houlsby]"], r"method 'adapter-houlsby': .*(?s:.*)these can write summaries: .*lora"),
        (["model.max_length=2"], "leave no room for text"),
    ],
)
def test_one_clear_error_before_anything_is_computed(
    models: dict[str, Path], tmp_path: Path, overrides: list[str], message: str
) -> None:
    data = write_data(tmp_path / "d.jsonl", 40)

    def prepare() -> None:
        context = opened(models["bart"], data, *overrides)
        study_rows(context.config, context.base, context.task.name)
        context.lengths()

    with pytest.raises(RemoraError, match=message):
        prepare()


def test_classes_are_asked_of_causal_models_only(models: dict[str, Path], tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "d.csv")
    for task, message in (
        ("prompt-classification", "no causal language model"),
        ("classification", "no head for classes"),
    ):
        tree = {"model": {"id": str(models["t5"])}, "data": {"path": str(data), "task": task}}
        with pytest.raises(ModelError, match=message):
            open_context(build_study(tree))


def test_a_language_code_is_not_chosen(tmp_path: Path) -> None:
    folder = tmp_path / "mbart"
    seq2seq_hf("mbart", vocab_size=400, max_position_embeddings=64).float().save_pretrained(folder)
    summarizer_tokenizer("bart").save_pretrained(folder)
    with pytest.raises(ModelError, match="begins what it writes with the language's code"):
        opened(folder, write_data(tmp_path / "d.jsonl", 40))
