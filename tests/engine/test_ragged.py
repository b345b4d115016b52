"""Examples of several sequences in packed lanes: transformers' own scores and gradients, solo as packed."""

import numpy as np
import pytest
import torch

from remora.data.kinds import ABSENT
from remora.engine import features
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import Examples, TrialOutcome, TrialSpec
from remora.methods.registry import list_methods
from tests import ragged
from tests.tiny import CAUSAL, tiny_base, tiny_quantised
from tests.trials import record_steps, run, spec

ENCODERS = ("bert", "roberta", "electra", "distilbert", "albert", "modernbert", "mpnet", "deberta-v3")
METHODS = ("lora", "prompt-tuning", "head", "full", "top-layers")


def tolerance(name: str) -> float:
    """LLaMA's norms compute in float32 whatever the weights are."""
    return 1e-5 if name in CAUSAL else 1e-8


def exact(outcome: TrialOutcome) -> dict[str, torch.Tensor]:
    return {**outcome.adapter, **outcome.head, **outcome.base_weights}


@pytest.mark.parametrize("name", [*ENCODERS, "llama", "gpt2"])
def test_scores_are_those_of_transformers_own_class(name: str) -> None:
    """Packed or padded, over choices that differ in number: the very logits of the class for multiple choice."""
    base, examples = tiny_base(name, torch.float64), ragged.choice_examples(7)
    model = ragged.choice_model(name, torch.float64)
    trial = spec("full", max_steps=0, splits=("validation",))
    outcome = next(iter(run(base, ragged.choice_data(examples), [trial]).values()))
    weights = dict(model.named_parameters())
    for key, value in {**outcome.head, **outcome.base_weights}.items():
        assert weights[key].shape == value.shape
        weights[key].data = value.to(torch.float64)
    assert set(weights) == {*outcome.head, *outcome.base_weights}
    for i, counted in enumerate(examples.num_rows):
        with torch.no_grad():
            expected = ragged.choice_scores(model, base, examples, i).numpy()
        found = outcome.logits["validation"][i]
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(found[:counted], expected, rtol=0, atol=1e-6)  # logits are kept in float32
        assert (found[counted:] == np.float32(ABSENT)).all()


@pytest.mark.parametrize("name", ["bert", "llama", "deberta-v3"])
def test_gradients_are_those_of_transformers_and_autograd(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over the questions of a batch, whatever the number of their choices."""
    base, examples = tiny_base(name, torch.float64), ragged.choice_examples(6)
    steps = record_steps(monkeypatch)
    trial = spec("full", id="t", batch_size=4, max_steps=1, base_dropout=False)
    run(base, ragged.choice_data(examples), [trial], tokens_per_pass=40)
    (step,) = steps["t"]
    model = ragged.choice_model(name, torch.float64)
    weights = dict(model.named_parameters())
    for key, value in {**step.head, **step.base}.items():
        weights[key].data = value
    loss = ragged.mean_loss(model, base, examples, step.chosen)
    loss.backward()
    assert step.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    for key, grad in step.grads.items():
        expected = weights[key].grad
        assert expected is not None
        torch.testing.assert_close(grad, expected, rtol=0, atol=tolerance(name))


def both(name: str, data: Examples, specs: list[TrialSpec], **settings: int) -> list[dict[str, TrialOutcome]]:
    """Outcomes of trials each alone, and of all in one pack."""
    base = tiny_base(name, torch.float64)
    alone: dict[str, TrialOutcome] = {}
    for one in specs:
        alone |= run(base, ragged.choice_data(data), [one], slots=1)
    return [alone, run(base, ragged.choice_data(data), specs, **settings)]


@pytest.mark.parametrize("tokens_per_pass", [1600, 60])
@pytest.mark.parametrize("name", ["bert", "llama", "deberta-v3"])
def test_solo_is_packed_and_any_cut_is_alike(name: str, tokens_per_pass: int) -> None:
    """With dropout: neighbours and the cut into passes change nothing, and a question stays in one pass."""
    specs = [
        spec(method, id=f"{method}-{seed}", seed=seed, lr=3e-3, batch_size=5, curve=True)
        for method in METHODS
        for seed in (0, 1)
        if not (method in ("full", "top-layers") and seed)
    ]
    alone, packed = both(name, ragged.choice_examples(11), specs, slots=4, tokens_per_pass=tokens_per_pass)
    for key, outcome in alone.items():
        other = packed[key]
        np.testing.assert_allclose(outcome.logits["validation"], other.logits["validation"], rtol=0, atol=1e-6)
        assert outcome.losses["train"] == pytest.approx(other.losses["train"], abs=1e-6)
        for tensor, value in exact(outcome).items():
            torch.testing.assert_close(value, exact(other)[tensor], rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("method", ["adamix", "fish-mask", "prefix-tuning", "loreft"])
def test_methods_with_steps_of_their_own(method: str) -> None:
    """Several forwards that are compared choice by choice, a survey of gradients, keys and values from outside."""
    specs = [spec(method, id=f"{seed}", seed=seed, lr=3e-3) for seed in (0, 1)]
    alone, packed = both("bert", ragged.choice_examples(9), specs, slots=2, tokens_per_pass=70)
    for key, outcome in alone.items():
        assert outcome.grad_norm["min"] > 0
        np.testing.assert_allclose(outcome.logits["validation"], packed[key].logits["validation"], rtol=0, atol=1e-6)


def test_questions_are_learnt() -> None:
    """Full fine-tuning gets the questions of train right, and the parts that a lone lane is cut into change nothing."""
    base, data = tiny_base("bert"), ragged.choice_data(ragged.choice_examples(12))
    trial = spec("full", lr=3e-3, epochs=20, base_dropout=False)
    with Driver(base) as driver:
        (whole,) = run_pack(driver, data, [trial], slots=1)
        (cut,) = run_pack(driver, data, [trial], slots=1, parts=2)
    assert whole.metrics["validation"]["accuracy"] == 1.0
    assert cut.metrics["validation"]["accuracy"] == 1.0


@pytest.mark.parametrize("name", ["bert", "llama", "deberta-v3"])
def test_states_that_are_computed_once_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without base dropout a lane whose lower layers stay enters the stack in the middle."""
    base, data = tiny_base(name, torch.float64), ragged.choice_data(ragged.choice_examples(9))
    trial = spec("top-layers", id="t", lr=3e-3, base_dropout=False)
    kept = run(base, data, [trial], tokens_per_pass=60)["t"]
    monkeypatch.setattr(features, "MOST_BYTES", 0)
    computed = run(base, data, [trial], tokens_per_pass=60)["t"]
    assert kept.losses["train"] == pytest.approx(computed.losses["train"], abs=1e-6)
    np.testing.assert_allclose(kept.logits["validation"], computed.logits["validation"], rtol=0, atol=1e-6)


def test_a_head_alone_is_trained_on_rows_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    base, examples = tiny_base("roberta", torch.float64), ragged.choice_examples(8)
    steps = record_steps(monkeypatch)
    run(base, ragged.choice_data(examples), [spec("head", id="t", batch_size=3, max_steps=2)])
    model = ragged.choice_model("roberta", torch.float64)
    for step in steps["t"]:
        for key, value in step.head.items():
            model.get_parameter(key).data = value
        with torch.no_grad():
            expected = float(ragged.mean_loss(model, base, examples, step.chosen))
        assert step.loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["bert", "modernbert", "llama", "gpt2", "mpnet", "deberta-v3"])
def test_rows_at_given_places_have_the_logits_of_token_classification(name: str) -> None:
    """Several rows per sequence, behind virtual tokens too, through a head for tokens."""
    base, examples = tiny_base(name, torch.float64), ragged.tagged_examples(6)
    model = ragged.tagged_model(name, torch.float64)
    outcome = run(base, ragged.tagged_data(examples), [spec("full", id="t", max_steps=0)])["t"]
    weights = dict(model.named_parameters())
    assert set(weights) == {*outcome.head, *outcome.base_weights}
    for key, value in {**outcome.head, **outcome.base_weights}.items():
        weights[key].data = value.to(torch.float64)
    for i, counted in enumerate(examples.num_rows):
        with torch.no_grad():
            expected = ragged.tagged_logits(model, base, examples, i).numpy()
        found = outcome.logits["validation"][i]
        np.testing.assert_allclose(found[:counted], expected, rtol=0, atol=1e-6)
        assert (found[counted:] == np.float32(ABSENT)).all()


@pytest.mark.parametrize("name", ["bert", "deberta-v3"])
def test_gradients_of_rows_at_given_places(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is the mean over the words of the whole batch, however it is cut into passes."""
    base, examples = tiny_base(name, torch.float64), ragged.tagged_examples(6)
    steps = record_steps(monkeypatch)
    trial = spec("full", id="t", batch_size=4, max_steps=1, base_dropout=False)
    run(base, ragged.tagged_data(examples), [trial], tokens_per_pass=20)
    (step,) = steps["t"]
    model = ragged.tagged_model(name, torch.float64)
    weights = dict(model.named_parameters())
    for key, value in {**step.head, **step.base}.items():
        weights[key].data = value
    loss = ragged.mean_tag_loss(model, base, examples, step.chosen)
    loss.backward()
    assert step.loss == pytest.approx(float(loss.detach()), abs=1e-6)
    for key, grad in step.grads.items():
        expected = weights[key].grad
        assert expected is not None
        torch.testing.assert_close(grad, expected, rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("name", ["bert", "deberta-v3"])
def test_rows_at_given_places_solo_and_packed(name: str) -> None:
    """With dropout, prompts in front, forwards that are compared word by word, and states that are computed once."""
    base, data = tiny_base(name, torch.float64), ragged.tagged_data(ragged.tagged_examples(9))
    specs = [spec(method, id=method, lr=3e-3) for method in ("lora", "prompt-tuning", "adamix", "head")]
    packed = run(base, data, specs, slots=4, tokens_per_pass=70)
    for one in specs:
        alone = run(base, data, [one], slots=1)[one.id]
        found, expected = packed[one.id].logits["validation"], alone.logits["validation"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        for tensor, value in exact(alone).items():
            torch.testing.assert_close(exact(packed[one.id])[tensor], value, rtol=0, atol=tolerance(name))


@pytest.mark.parametrize("method", [cls.name for cls in list_methods()])
def test_every_method_trains_on_questions(method: str) -> None:
    cls = next(cls for cls in list_methods() if cls.name == method)
    base = tiny_quantised("bert") if cls.base_quantization != "none" else tiny_base("bert")
    trial = spec(method, dict(cls.examples[0]), id="t", batch_size=3, max_steps=2)
    outcome = run(base, ragged.choice_data(ragged.choice_examples(6)), [trial])["t"]
    assert outcome.status == "done"
    assert outcome.grad_norm["min"] > 0
    assert 0 <= outcome.metrics["validation"]["accuracy"] <= 1
