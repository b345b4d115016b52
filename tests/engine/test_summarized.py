"""Summaries in packed lanes: transformers' own loss and gradients, whatever the cut into passes; solo as packed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.data.prompts import Prompt
from remora.data.summaries import written
from remora.data.summary_prompts import SummaryEncoder
from remora.engine.summarized import summarized
from remora.engine.trial import Examples, TrialData, TrialOutcome
from remora.models.base import Base
from remora.tasks import make_task
from tests.moods import BAD, FILLER, GOOD
from tests.prompts import causal_pair, fast_tokenizer, made_prompt
from tests.trials import record_steps, run, spec

LIMIT = 4
PROMPT: Prompt = made_prompt({})
TEXTS = [(f"the {(GOOD + BAD)[n % 8]} {FILLER[n % 7]} {'so ' * (n % 4)}{n}",) for n in range(13)]
LABELS = [written([" ".join((GOOD + BAD)[(n + k) % 8] for k in range(1 + n % 4))]) for n in range(13)]


def encoder() -> SummaryEncoder:
    return SummaryEncoder(fast_tokenizer(), PROMPT, LIMIT)


def data() -> TrialData:
    made = encoder()

    def split(name: str, room: int) -> Examples:
        summaries = made.encode_summaries(LABELS)
        assert 0 < summaries.num_cut < len(LABELS)
        return summarized(made.encode_texts(TEXTS, 64, room).ids, summaries.ids, np.arange(len(TEXTS)))

    return TrialData(
        task=make_task("summarization", label_names=()), num_outputs=1, split=split, fingerprint="s", head="lm"
    )


def transformers_losses(model: Any, chosen: np.ndarray | list[int]) -> tuple[Tensor, Tensor]:
    """The loss of a padded batch whose labels are -100 outside the summaries, text by text from the tokenizer.

    transformers takes it in float32 whatever the model is; the second one is the same formula in the logits' own type.
    """
    tokenizer = fast_tokenizer()
    rows: list[tuple[list[Any], list[Any]]] = []
    for i in chosen:
        before = tokenizer(f"### Input:\n{TEXTS[i][0]}\n\n### Response:\n")["input_ids"]
        words = tokenizer(LABELS[i][2:-2], add_special_tokens=False)["input_ids"]
        summary = [*words, tokenizer.eos_token_id][:LIMIT]
        rows.append(([*before, *summary], [-100] * len(before) + summary))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([wanted + [-100] * (width - len(wanted)) for _, wanted in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    output = model(input_ids=ids, attention_mask=mask, labels=labels)
    logits = output.logits[:, :-1].flatten(0, 1)
    return output.loss, torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)


@pytest.mark.parametrize("tokens_per_pass", [1600, 70])
@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_loss_and_gradients_are_those_of_transformers(
    name: str, tied: bool, tokens_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tuning: the mean over the tokens of the batch's summaries, however it is cut into passes."""
    base, model = causal_pair(name, tied=tied)
    steps = record_steps(monkeypatch)
    trial = spec("full", id="t", batch_size=6, max_steps=1, base_dropout=False)
    run(base, data(), [trial], tokens_per_pass=tokens_per_pass)
    (step,) = steps["t"]
    own, loss = transformers_losses(model, step.chosen)
    loss.backward()
    assert step.loss == pytest.approx(float(own.detach()), abs=1e-5)
    weights = dict(model.named_parameters())
    assert set(step.grads) == set(weights)
    for key, grad in step.grads.items():
        expected = weights[key].grad
        assert expected is not None
        # LLaMA's norms compute in float32 whatever the model is.
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-10 if name == "gpt2" else 1e-5)
    assert max(float(grad.abs().max()) for grad in step.grads.values()) > 1e-2


def test_a_frozen_head_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA's B at its first step, against autograd through transformers' model with the weights as B enters them."""
    base, model = causal_pair()
    steps = record_steps(monkeypatch)
    trial = spec(
        "lora",
        {"rank": 2, "alpha": 16.0, "targets": ("attention.q",), "dropout": 0.0},
        id="t",
        batch_size=6,
        max_steps=1,
    )
    run(base, data(), [trial])
    (step,) = steps["t"]
    weights = {name: value for name, value in model.named_parameters() if "q_proj" in name}
    own, loss = transformers_losses(model, step.chosen)
    grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    compared = 0
    for key, grad in step.grads.items():
        if key.endswith(".lora_B"):
            site = key.removesuffix(".lora_B")
            layer = next(name for name in weights if site in name)
            expected = 8.0 * grads[layer] @ step.adapter[f"{site}.lora_A"].T
            torch.testing.assert_close(grad, expected, rtol=0, atol=1e-5)
            assert float(grad.abs().max()) > 1e-3
            compared += 1
    assert compared == 2
    assert step.loss == pytest.approx(float(own.detach()), abs=1e-5)


def test_validation_is_the_mean_over_the_tokens_of_all_summaries() -> None:
    base, model = causal_pair()
    outcome = run(base, data(), [spec("head", id="t", max_steps=0)])["t"]
    with torch.no_grad():
        expected = float(transformers_losses(model, list(range(len(TEXTS))))[0])
    assert outcome.losses["validation"] == pytest.approx(expected, abs=1e-5)
    assert outcome.metrics["validation"] == {"log_likelihood": pytest.approx(-expected, abs=1e-5)}


def exact(outcome: TrialOutcome) -> dict[str, Tensor]:
    return {**outcome.adapter, **outcome.head, **outcome.base_weights}


@pytest.mark.parametrize("tokens_per_pass", [1600, 90])
def test_solo_is_packed_and_any_cut_is_alike(tokens_per_pass: int) -> None:
    base, _ = causal_pair()
    methods = ("lora", "ia3", "prompt-tuning", "prefix-tuning", "full")
    specs = [spec(method, id=method, lr=3e-3, batch_size=5, max_steps=4, curve=True) for method in methods]
    packed = run(base, data(), specs, slots=4, tokens_per_pass=tokens_per_pass)
    for one in specs:
        alone = run(base, data(), [one], slots=1)[one.id]
        assert alone.grad_norm["min"] > 0
        found, expected = packed[one.id].logits["validation"], alone.logits["validation"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        for tensor, value in exact(alone).items():
            torch.testing.assert_close(exact(packed[one.id])[tensor], value, rtol=0, atol=1e-5)


def test_summaries_are_learnt() -> None:
    base, _ = causal_pair(dtype=torch.float32)
    first: Base = base
    outcome = run(first, data(), [spec("full", id="t", lr=3e-3, epochs=40)])["t"]
    before = run(first, data(), [spec("head", id="t", max_steps=0)])["t"]
    assert outcome.losses["validation"] < 0.2 * before.losses["validation"]
