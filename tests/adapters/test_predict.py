"""Predictions from a folder: the recorded base is found, texts are labelled, the trial's logits come out again."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import remora
from remora.adapters.format import AdapterInfo, save_adapter
from remora.adapters.merge import save_merged
from remora.config.schema import DataConfig
from remora.data.dataset import load_dataset
from remora.data.tokenize import TextEncoder
from remora.engine.trial import Examples, TrialData, TrialOutcome
from remora.errors import AdapterError, DataError
from remora.models.base import Base
from remora.models.load import load_base
from remora.predict import Prediction, Predictor, load_adapter
from remora.tasks.base import make_task
from tests.tiny import tiny_base
from tests.trials import run, spec, toy_data, toy_examples

TEXTS = ["a lovely film", "dull and far too long", "", "what a joy !", "the worst of the year", "fine"]
NAMES = ("bad", "good")
INFO = AdapterInfo(
    label="x",
    task="classification",
    label_names=NAMES,
    num_texts=1,
    data_name="toy",
    data_hash="0",
    metric="accuracy",
    max_length=32,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture(scope="module")
def minilm() -> Base:
    return load_base("minilm")


def trained(base: Base, method: str, info: AdapterInfo, texts: list[tuple[str, ...]]) -> TrialOutcome:
    encoder = TextEncoder(base.tokenizer)

    def split(name: str, room: int) -> Examples:
        encoded = encoder.encode_texts(texts, info.max_length, room)
        assert encoded.type_ids is not None
        targets = np.arange(len(texts)) % 2
        values = targets.astype(np.float32) if info.task == "regression" else targets
        return Examples(ids=encoded.ids, type_ids=encoded.type_ids, targets=values)

    task = make_task(info.task, label_names=info.label_names)
    data = TrialData(task=task, num_outputs=task.num_outputs, split=split, fingerprint="")
    return run(base, data, [spec(method, max_steps=2)]).popitem()[1]


@pytest.mark.real
@pytest.mark.parametrize("method", ["lora", "bitfit", "prompt-tuning", "head", "full"])
def test_labels_of_texts_with_the_base_found_by_name(method: str, minilm: Base, tmp_path: Path) -> None:
    outcome = trained(minilm, method, INFO, [(text,) for text in TEXTS])
    save_adapter(tmp_path / "a", minilm, outcome, INFO)
    predictor = remora.load_adapter(tmp_path / "a")
    assert np.array_equal(predictor.logits(TEXTS), outcome.logits["validation"])
    predictions = predictor.predict(TEXTS)
    for prediction, row in zip(predictions, outcome.logits["validation"], strict=True):
        assert prediction.label == NAMES[int(row.argmax())]
        assert list(prediction.scores) == list(NAMES)
        assert sum(prediction.scores.values()) == pytest.approx(1)
        assert prediction.scores["good"] == pytest.approx(float(torch.tensor(row).softmax(0)[1]), rel=1e-5)
    assert predictor.predict([]) == []
    assert predictor.text_columns == ("text",)


@pytest.mark.real
def test_the_card_runs_as_it_stands(minilm: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = trained(minilm, "lora", INFO, [(text,) for text in TEXTS])
    save_adapter(tmp_path / "a", minilm, outcome, INFO)
    card = (tmp_path / "a" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        code = block.replace("path/to/this/folder", str(tmp_path / "a")).replace("your text", TEXTS[1])
        exec(compile(code, "card", "exec"), {})
    answer = remora.load_adapter(tmp_path / "a").predict(TEXTS[1:2])[0].label
    with_remora, with_peft = capsys.readouterr().out.splitlines()
    assert f"label='{answer}'" in with_remora
    assert with_peft == f"['{answer}']"


@pytest.mark.real
def test_pairs_and_numbers(minilm: Base, tmp_path: Path) -> None:
    info = AdapterInfo(
        **{**vars(INFO), "task": "regression", "label_names": (), "num_texts": 2, "text_columns": ("a", "b")}
    )
    pairs = [("one text", "another"), ("the same", "the same")]
    outcome = trained(minilm, "lora", info, list(pairs))
    save_adapter(tmp_path / "a", minilm, outcome, info)
    predictor = load_adapter(tmp_path / "a", minilm)
    predictions = predictor.predict(pairs)
    values = [float(row[0]) for row in outcome.logits["validation"]]
    assert predictions == [Prediction(label=value) for value in values]
    assert predictor.text_columns == ("a", "b")
    for wrong in ("one text", ("a", "b", "c"), ("a",), ("a", 3), None):
        with pytest.raises(DataError, match="a pair of strings"):
            predictor.predict([wrong])  # type: ignore[list-item]


@pytest.mark.real
def test_single_texts_refuse_pairs_and_other_things(minilm: Base, tmp_path: Path) -> None:
    outcome = trained(minilm, "head", INFO, [(text,) for text in TEXTS])
    save_adapter(tmp_path / "a", minilm, outcome, INFO)
    predictor = load_adapter(tmp_path / "a", minilm)
    for wrong in (("a", "b"), 3, None, ["a", "b"]):
        with pytest.raises(DataError, match="text 1 is"):
            predictor.predict(["fine", wrong])  # type: ignore[list-item]


@pytest.mark.real
def test_evaluation_of_a_file(minilm: Base, tmp_path: Path) -> None:
    outcome = trained(minilm, "lora", INFO, [(text,) for text in TEXTS])
    save_adapter(tmp_path / "a", minilm, outcome, INFO)
    predictor = load_adapter(tmp_path / "a", minilm)
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS if text]
    labels = [prediction.label for prediction in predictor.predict(texts)]
    swapped = {"bad": "good", "good": "bad"}
    right = [label if number % 4 else swapped[label] for number, label in enumerate(labels)]
    for name, given in (("known", right), ("strange", ["maybe", *right[1:-1], "maybe"])):
        rows = [json.dumps({"text": text, "label": label}) for text, label in zip(texts, given, strict=True)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    if len(set(right)) == 2:
        known = load_dataset(DataConfig(path=str(tmp_path / "known.jsonl")))
        metrics = predictor.evaluate(known, "train")
        split = known.splits["train"]
        answers = [p.label for p in predictor.predict([text for (text,) in split.texts])]
        expected = np.mean([a == b for a, b in zip(answers, split.labels, strict=True)])
        assert metrics["accuracy"] == pytest.approx(expected)
    strange = load_dataset(DataConfig(path=str(tmp_path / "strange.jsonl")))
    name = next(name for name, split in strange.splits.items() if "maybe" in split.labels)
    with pytest.raises(DataError, match="maybe"):
        predictor.evaluate(strange, name)


@pytest.mark.real
def test_real_sentences_score_as_in_the_trial(minilm: Base, shared_data: Path, tmp_path: Path) -> None:
    with gzip.open(shared_data / "sst2" / "train.jsonl.gz", "rt") as lines:
        texts = [json.loads(line)["sentence"] for _, line in zip(range(200), lines, strict=False)]
    base = load_base("minilm", dtype=torch.bfloat16)
    outcome = trained(base, "lora", INFO, [(text,) for text in texts])
    save_adapter(tmp_path / "a", base, outcome, INFO)
    predictor = load_adapter(tmp_path / "a")
    assert predictor.base.dtype == torch.bfloat16
    assert np.array_equal(predictor.logits(texts), outcome.logits["validation"])


@pytest.mark.real
def test_merged_folder_is_an_ordinary_model(minilm: Base, tmp_path: Path) -> None:
    outcome = trained(minilm, "dora", INFO, [(text,) for text in TEXTS])
    save_adapter(tmp_path / "a", minilm, outcome, INFO)
    save_merged(tmp_path / "merged", minilm, load_adapter(tmp_path / "a", minilm).loaded)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    assert model.config.id2label == {0: "bad", 1: "good"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    np.testing.assert_allclose(logits.numpy(), outcome.logits["validation"], atol=1e-5)
    assert load_base(str(tmp_path / "merged")).arch.model_type == "bert"


def test_predictions_do_not_change_the_base(tmp_path: Path) -> None:
    base = tiny_base("bert")
    examples = toy_examples(6)
    outcome = run(base, toy_data(examples), [spec("lora")]).popitem()[1]
    save_adapter(tmp_path / "a", base, outcome, INFO)
    predictor = load_adapter(tmp_path / "a", base)
    assert isinstance(predictor, Predictor)
    before = base.hash()
    one, two = predictor.logits_of(examples), predictor.logits_of(examples)
    assert np.array_equal(one, two)
    assert base.hash() == before
    assert [name for name, module in base.model.named_modules() if "forward" in vars(module)] == []


def test_prompts_cannot_be_merged(tmp_path: Path) -> None:
    base = tiny_base("bert")
    outcome = run(base, toy_data(toy_examples(6)), [spec("prompt-tuning")]).popitem()[1]
    save_adapter(tmp_path / "a", base, outcome, INFO)
    with pytest.raises(AdapterError, match="changes more than weights"):
        save_merged(tmp_path / "merged", base, load_adapter(tmp_path / "a", base).loaded)
    assert not (tmp_path / "merged").exists()
