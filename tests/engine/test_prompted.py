"""Prompts in packed lanes: transformers' own loss and likelihoods, calibrated by the formula, solo as packed."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from remora.data.prompts import CONTENT_FREE, PromptEncoder
from remora.engine.prompted import prompted
from remora.engine.trial import Examples, TrialData, TrialOutcome, TrialSpec
from remora.methods.registry import list_methods
from remora.models.base import Base
from remora.tasks import make_task
from tests.moods import BAD, FILLER, GOOD
from tests.prompts import causal_pair, fast_tokenizer, made_prompt
from tests.trials import record_steps, run, spec

SINGLE = {"bad": "awful", "good": "great"}
LONG = {"bad": "negative and sad", "good": "positive", "odd": "very poor film"}
TEXTS = [(f"the {(GOOD + BAD)[n % 8]} {FILLER[n % 7]} {'so ' * (n % 4)}{n}",) for n in range(13)]


def encoder_of(labels: dict[str, str], calibration: Literal["none", "content-free"] = "none") -> PromptEncoder:
    return PromptEncoder(fast_tokenizer(), made_prompt(labels, calibration))


def data_of(encoder: PromptEncoder) -> TrialData:
    """Train as it is trained on, the other splits as they are scored."""
    task = make_task("prompt-classification", label_names=tuple(encoder.answers))
    targets = np.arange(len(TEXTS)) * 5 % len(encoder.answers)

    def split(name: str, room: int) -> Examples:
        encoded = encoder.encode_texts(TEXTS, 64, room)
        told = encoder.content_free(64, room) if encoder.prompt.calibration == "content-free" else None
        return prompted(encoded, encoder, targets, training=name == "train", reference=told)

    return TrialData(
        task=task, num_outputs=len(encoder.tokens), split=split, fingerprint="p", head="lm", tokens=encoder.tokens
    )


def naive_scores(model: Any, texts: tuple[str, ...], labels: dict[str, str]) -> list[float]:
    """The mean log-likelihood of every label's tokens, tokenized and computed text by text."""
    tokenizer = fast_tokenizer()
    before = tokenizer(f"### Input:\n{texts[0]}\n\n### Response:\n")["input_ids"]
    scores: list[float] = []
    for word in labels.values():
        whole = tokenizer(f"### Input:\n{texts[0]}\n\n### Response:\n{word}")["input_ids"]
        assert whole[: len(before)] == before
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=torch.tensor([whole])).logits[0].double(), -1)
        own = [float(log_probs[at - 1, whole[at]]) for at in range(len(before), len(whole))]
        scores.append(sum(own) / len(own))
    return scores


def masked_loss(model: Any, encoder: PromptEncoder, chosen: np.ndarray) -> Tensor:
    """transformers' own loss of a batch whose labels are -100 outside the right answer."""
    names = list(encoder.answers)
    tokenizer = fast_tokenizer()
    rows: list[tuple[list[int], list[int]]] = []
    for i in chosen:
        before = tokenizer(f"### Input:\n{TEXTS[i][0]}\n\n### Response:\n")["input_ids"]
        answer = list(encoder.answers[names[int(i) * 5 % len(names)]])
        rows.append(([*before, *answer], [-100] * len(before) + answer))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([wanted + [-100] * (width - len(wanted)) for _, wanted in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


@pytest.mark.parametrize("labels", [SINGLE, LONG])
@pytest.mark.parametrize(("name", "tied"), [("llama", False), ("llama", True), ("gpt2", True)])
def test_scores_are_likelihoods_of_transformers_own_class(name: str, tied: bool, labels: dict[str, str]) -> None:
    """Zero-shot: nothing is trained, packed rows only, one look at a prompt where every class is one token."""
    base, model = causal_pair(name, tied=tied)
    encoder = encoder_of(labels)
    assert encoder.single is (labels is SINGLE)
    data = data_of(encoder)
    assert len(data.split("test", 0).ids) == len(TEXTS) * (1 if labels is SINGLE else len(labels))
    outcome = run(base, data, [spec("head", id="t", max_steps=0)])["t"]
    assert outcome.num_params == {"adapter": 0, "head": 0, "base_trained": 0}
    expected = np.array([naive_scores(model, texts, labels) for texts in TEXTS])
    np.testing.assert_allclose(outcome.logits["validation"], expected, rtol=0, atol=1e-5)
    assert expected.std(axis=0).min() > 1e-3


@pytest.mark.parametrize("labels", [SINGLE, LONG])
def test_calibration_is_the_papers_formula(labels: dict[str, str]) -> None:
    base, model = causal_pair()
    outcome = run(base, data_of(encoder_of(labels, "content-free")), [spec("head", id="t", max_steps=0)])["t"]

    def probs(text: str) -> np.ndarray:
        found = np.exp(naive_scores(model, (text,), labels))
        return found / found.sum()

    told = np.mean([probs(text) for text in CONTENT_FREE], axis=0)
    for texts, found in zip(TEXTS, outcome.logits["validation"], strict=True):
        corrected = np.diag(1 / told) @ probs(texts[0])
        np.testing.assert_allclose(np.exp(found), corrected / corrected.sum(), rtol=0, atol=1e-5)
    plain = run(base, data_of(encoder_of(labels)), [spec("head", id="t", max_steps=0)])["t"].logits["validation"]
    assert np.abs(np.diff(outcome.logits["validation"]) - np.diff(plain)).max() > 0.01


@pytest.mark.parametrize("labels", [SINGLE, LONG])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_and_gradients_are_those_of_transformers(
    labels: dict[str, str], tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over the batch's answer tokens, whatever the cut into passes; a tied head stays tied."""
    base, model = causal_pair(tied=tied)
    encoder = encoder_of(labels)
    steps = record_steps(monkeypatch)
    run(base, data_of(encoder), [spec("full", id="t", batch_size=6, max_steps=1)], tokens_per_pass=70)
    (step,) = steps["t"]
    loss = masked_loss(model, encoder, step.chosen)
    loss.backward()
    assert step.loss == pytest.approx(float(loss.detach()), abs=1e-5)
    weights = dict(model.named_parameters())
    assert set(step.grads) == set(weights)
    assert ("lm_head.weight" in weights) is not tied
    for key, grad in step.grads.items():
        expected = weights[key].grad
        assert expected is not None
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-5)
    assert max(float(grad.abs().max()) for grad in step.grads.values()) > 1e-2


def exact(outcome: TrialOutcome) -> dict[str, Tensor]:
    return {**outcome.adapter, **outcome.head, **outcome.base_weights}


def alike(base: Base, data: TrialData, specs: list[TrialSpec], **settings: int) -> None:
    packed = run(base, data, specs, **settings)
    for one in specs:
        alone = run(base, data, [one], slots=1)[one.id]
        assert alone.grad_norm["min"] > 0
        found, expected = packed[one.id].logits["validation"], alone.logits["validation"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        for tensor, value in exact(alone).items():
            torch.testing.assert_close(exact(packed[one.id])[tensor], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens_per_pass", [1600, 90])
@pytest.mark.parametrize("labels", [SINGLE, LONG])
def test_solo_is_packed_and_any_cut_is_alike(labels: dict[str, str], tokens_per_pass: int) -> None:
    base, _ = causal_pair()
    methods = ("lora", "prompt-tuning", "prefix-tuning", "full", "adamix")
    specs = [spec(method, id=method, lr=3e-3, batch_size=5, max_steps=4, curve=True) for method in methods]
    alike(base, data_of(encoder_of(labels, "content-free")), specs, slots=4, tokens_per_pass=tokens_per_pass)


def test_prompts_are_learnt_and_the_base_stays() -> None:
    base, _ = causal_pair(dtype=torch.float32)
    before = base.hash()
    outcome = run(base, data_of(encoder_of(LONG)), [spec("full", id="t", lr=3e-3, epochs=25)])["t"]
    assert outcome.metrics["validation"]["accuracy"] > 0.9
    assert outcome.num_params["head"] == 0
    assert base.hash() == before


@pytest.mark.parametrize("method", [cls.name for cls in list_methods() if cls.name != "head"])
def test_every_method_trains_on_prompts(method: str) -> None:
    cls = next(cls for cls in list_methods() if cls.name == method)
    if cls.base_quantization != "none":
        pytest.skip("holds its base in another way; see tests/methods")
    base, _ = causal_pair(dtype=torch.float32)
    trial = spec(method, dict(cls.examples[0]), id="t", batch_size=3, max_steps=2)
    outcome = run(base, data_of(encoder_of(LONG)), [trial])["t"]
    assert outcome.status == "done"
    assert outcome.grad_norm["min"] > 0
