"""Adapters of prompted models: written, read back, loaded by peft and by transformers with the same likelihoods."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from remora.adapters.export import export_adapter
from remora.adapters.format import AdapterInfo, save_adapter
from remora.data.prompts import Prompt, PromptEncoder
from remora.engine.prompted import prompted
from remora.engine.trial import Examples, TrialData
from remora.models.base import Base
from remora.models.load import load_base
from remora.predict import load_adapter
from remora.tasks import make_task
from tests.prompts import made_prompt, write_model
from tests.trials import run, spec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LABELS = {"bad": "negative and sad", "good": "positive"}
TEXTS = [("the film was great",), ("so poor a day, very sad",), ("food",)]


def trained(folder: Path, base: Base, method: str, settings: dict[str, Any] | None = None) -> np.ndarray:
    """Train a few steps, write the adapter, and give the scores it had."""
    prompt = made_prompt(LABELS)
    encoder = PromptEncoder(base.tokenizer, prompt)

    def split(name: str, room: int) -> Examples:
        encoded = encoder.encode_texts(TEXTS, 60, room)
        return prompted(encoded, encoder, np.array([1, 0, 1]), training=name == "train")

    task = make_task("prompt-classification", label_names=tuple(LABELS))
    data = TrialData(
        task=task, num_outputs=len(encoder.tokens), split=split, fingerprint="", head="lm", tokens=encoder.tokens
    )
    outcome = run(base, data, [spec(method, settings, id="t", max_steps=3)])["t"]
    info = AdapterInfo(
        label="x", task="prompt-classification", label_names=tuple(LABELS), num_texts=1, text_columns=("text",),
        data_name="toy", data_hash="0", metric="accuracy", max_length=60, prompt=prompt,
    )  # fmt: skip
    save_adapter(folder, base, outcome, info)
    return outcome.logits["validation"]


def likelihoods(model: Any, base: Base, prompt: Prompt) -> np.ndarray:
    """Scores of classes by a model as transformers has it; rows are counted from the end, behind virtual tokens."""
    encoder = PromptEncoder(base.tokenizer, prompt)
    rows: list[list[float]] = []
    for ids in encoder.encode_texts(TEXTS, 60).ids:
        rows.append([])
        for answer in encoder.answers.values():
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*ids.tolist(), *answer]])).logits[0, -len(answer) - 1 : -1]
            rows[-1].append(float(logits.log_softmax(-1)[range(len(answer)), list(answer)].mean()))
    return np.array(rows)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("method", "kind"), [("lora", "LORA"), ("ia3", "IA3"), ("prompt-tuning", "PROMPT_TUNING")])
def test_peft_has_the_same_likelihoods(tmp_path: Path, method: str, kind: str, tied: bool) -> None:
    from peft import PeftModel

    folder, model = tmp_path / "adapter", str(write_model(tmp_path / "model", tie_word_embeddings=tied))
    base = load_base(model, language_head=True)
    scores = trained(folder, base, method)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["task_type"], config["peft_type"], config["modules_to_save"]) == ("CAUSAL_LM", kind, [])

    predictor = load_adapter(folder)
    np.testing.assert_array_equal(predictor.logits([text for (text,) in TEXTS]), scores)
    answers = predictor.predict([text for (text,) in TEXTS])
    for answer, row in zip(answers, scores, strict=True):
        odds = np.exp(row) / np.exp(row).sum()
        assert answer.label == list(LABELS)[int(row.argmax())]
        np.testing.assert_allclose(list(answer.scores.values()), odds, atol=1e-6)

    twin = AutoModelForCausalLM.from_pretrained(model)
    bare = likelihoods(twin, base, made_prompt(LABELS))
    twin = PeftModel.from_pretrained(twin, str(folder)).eval()
    np.testing.assert_allclose(likelihoods(twin, base, made_prompt(LABELS)), scores, rtol=0, atol=1e-5)
    assert np.abs(scores - bare).max() > 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_whole_models_are_those_of_transformers(tmp_path: Path, tied: bool) -> None:
    """Full fine-tuning, and LoRA merged: tied stays tied, a head of its own comes along."""
    model = str(write_model(tmp_path / "model", tie_word_embeddings=tied))
    base = load_base(model, language_head=True)
    full, lora = tmp_path / "full", tmp_path / "lora"
    scores = trained(full, base, "full")
    np.testing.assert_allclose(load_adapter(full).logits([text for (text,) in TEXTS]), scores, rtol=0, atol=1e-6)
    twin = AutoModelForCausalLM.from_pretrained(full)
    assert (twin.lm_head.weight is twin.model.embed_tokens.weight) is tied
    np.testing.assert_allclose(likelihoods(twin, base, made_prompt(LABELS)), scores, rtol=0, atol=1e-5)
    assert not torch.equal(twin.lm_head.weight, AutoModelForCausalLM.from_pretrained(model).lm_head.weight)

    scores = trained(lora, base, "lora")
    export_adapter(tmp_path / "merged", base, load_adapter(lora).loaded, "merged")
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(likelihoods(twin, base, made_prompt(LABELS)), scores, rtol=0, atol=1e-5)


def test_the_card_holds_lines_that_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = tmp_path / "adapter", str(write_model(tmp_path / "model"))
    trained(folder, load_base(model, language_head=True), "lora")
    card = (folder / "README.md").read_text()
    lines = card.split("## Use with peft")[1].split("```python\n")[1].split("```")[0]
    lines = lines.replace("path/to/this/folder", str(folder))
    expected = load_adapter(folder).logits(["your text 1"])[0]
    namespace: dict[str, Any] = {}
    exec(compile(lines, "card", "exec"), namespace)
    found = [float(line.split()[-1]) for line in capsys.readouterr().out.strip().splitlines()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
