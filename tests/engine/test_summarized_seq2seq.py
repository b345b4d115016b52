"""Summaries by encoder-decoders in lanes: transformers' own loss and gradients from the texts; solo as packed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.data.summaries import references
from remora.engine.summarized import summarized, summary_encoder
from remora.engine.trial import Examples, TrialData
from remora.models.base import Base
from remora.models.files import ModelFiles
from remora.models.load import make_base
from remora.tasks import make_task
from tests.engine.test_summarized import LABELS, TEXTS, exact
from tests.prompts import made_prompt
from tests.summarizers import PREFIX, summarizer, summarizer_tokenizer
from tests.trials import record_steps, run, spec

NAMES = ("bart", "t5", "flan-t5")
LIMIT = 20
PROMPT = made_prompt({}).model_copy(update={"parts": (PREFIX, 0, "")})


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Base, Any]:
    """A base and transformers' model with the same weights."""
    files = ModelFiles(name=f"tiny-{name}", source="test")
    tokenizer = summarizer_tokenizer(name)
    base = make_base(summarizer(name, dtype), tokenizer=tokenizer, files=files, missing=(), dtype=dtype)
    return base, summarizer(name, dtype)


def data(base: Base, limit: int = LIMIT) -> TrialData:
    made = summary_encoder(base, PROMPT, limit)

    def split(name: str, room: int) -> Examples:
        ids = made.encode_texts(TEXTS, 64, room).ids
        return summarized(ids, made.encode_summaries(LABELS).ids, np.arange(len(TEXTS)), made.start)

    return TrialData(
        task=make_task("summarization", label_names=()), num_outputs=1, split=split, fingerprint="s", head="lm"
    )


def transformers_loss(model: Any, name: str, chosen: np.ndarray | list[int]) -> Tensor:
    """As its users have it: `text_target` for the summaries, -100 for padding, and the decoder's inputs left to it."""
    tokenizer = summarizer_tokenizer(name)
    texts = [PREFIX + TEXTS[i][0] for i in chosen]
    summaries = [references(LABELS[i])[0] for i in chosen]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = tokenizer(text_target=summaries, padding=True, return_tensors="pt")
    masked = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    return model(**batch, labels=masked).loss


@pytest.mark.parametrize("tokens_per_pass", [1600, 70])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_those_of_transformers(
    name: str, tokens_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tuning, tied and untied, with a bias on BART's logits, however a batch is cut into passes."""
    base, model = pair(name)
    steps = record_steps(monkeypatch)
    trial = spec("full", id="t", batch_size=6, max_steps=1, base_dropout=False)
    run(base, data(base), [trial], tokens_per_pass=tokens_per_pass)
    (step,) = steps["t"]
    loss = transformers_loss(model, name, step.chosen)
    loss.backward()
    assert step.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    weights = {key: value for key, value in model.named_parameters() if value.grad is not None}
    assert set(step.grads) == set(weights)
    for key, grad in step.grads.items():
        # transformers takes the loss, and T5 its norms, in float32 whatever the model is.
        torch.testing.assert_close(grad, weights[key].grad, rtol=0, atol=1e-5)
    assert max(float(grad.abs().max()) for grad in step.grads.values()) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_head_passes_gradients_to_both_stacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA's B at its first step, against autograd through transformers' model with the weights as B enters them."""
    base, model = pair(name)
    steps = record_steps(monkeypatch)
    settings = {"rank": 2, "alpha": 16.0, "targets": ("attention.q", "cross.v"), "dropout": 0.0}
    run(base, data(base), [spec("lora", settings, id="t", batch_size=6, max_steps=1, base_dropout=False)])
    (step,) = steps["t"]
    loss = transformers_loss(model, name, step.chosen)
    loss.backward()
    weights = dict(model.named_parameters())
    stacks: set[str] = set()
    for key, grad in step.grads.items():
        site, _, part = key.rpartition(".")
        if part == "lora_B":
            layer = next(each for each in weights if each.endswith(f"{site}.weight"))
            whole = weights[layer].grad
            assert whole is not None
            torch.testing.assert_close(grad, 8.0 * whole @ step.adapter[f"{site}.lora_A"].T, rtol=0, atol=1e-5)
            assert float(grad.abs().max()) > 1e-4
            stacks.add(site.split(".")[0])
    assert stacks == {"encoder", "decoder"}


@pytest.mark.parametrize("name", NAMES)
def test_validation_is_the_mean_over_the_tokens_of_all_summaries(name: str) -> None:
    base, model = pair(name)
    outcome = run(base, data(base), [spec("head", id="t", max_steps=0)])["t"]
    with torch.no_grad():
        expected = float(transformers_loss(model, name, list(range(len(TEXTS)))))
    assert outcome.losses["validation"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_solo_is_packed(name: str) -> None:
    base, _ = pair(name)
    methods = ("lora", "ia3", "bitfit", "prompt-tuning", "full")
    specs = [spec(method, id=method, lr=3e-3, batch_size=5, max_steps=3, curve=True) for method in methods]
    packed = run(base, data(base), specs, slots=4)
    for one in specs:
        alone = run(base, data(base), [one], slots=1)[one.id]
        assert alone.grad_norm["min"] > 0
        found, expected = packed[one.id].logits["validation"], alone.logits["validation"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        for tensor, value in exact(alone).items():
            torch.testing.assert_close(exact(packed[one.id])[tensor], value, rtol=0, atol=1e-5)
